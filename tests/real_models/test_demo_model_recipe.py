"""The bundled demo chat model is the one that the sources in `models/training` describe."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest

from models.training import recipe
from models.training.chat_markup import CHAT_TEMPLATE, SPECIAL_TOKENS
from models.training.heldout import BELOW_TARGET, KINDS, heldout_dialogues

DEMO = Path(recipe.__file__).resolve().parent.parent / "chat" / "localllm-demo.gguf"
MAX_BYTES = 8 * 1024 * 1024
TARGET, FLOOR = 0.95, 0.9


@pytest.fixture(scope="module")
def header() -> gguf.GGUFReader:
    return gguf.GGUFReader(DEMO)


def _value(header: gguf.GGUFReader, key: str) -> object:
    field = header.get_field(key)
    assert field is not None, f"{DEMO.name} lacks {key}"
    return field.contents()


def test_the_file_is_small() -> None:
    assert DEMO.stat().st_size <= MAX_BYTES


def test_the_recorded_recipe_is_that_of_the_sources(header: gguf.GGUFReader) -> None:
    """After a change to a training source: train again; where the text stays the same, measure and export again."""
    assert _value(header, "localllm.recipe.sha256") == recipe.chat_recipe_sha256()
    assert _value(header, "localllm.recipe.seed") == recipe.CHAT_SEED
    assert _value(header, "localllm.recipe.steps") == recipe.CHAT_STEPS


def test_the_kinds_below_the_target_are_the_named_ones(header: gguf.GGUFReader) -> None:
    accuracy = {kind: _value(header, f"localllm.accuracy.{kind}") for kind in KINDS}
    shares = {kind: share for kind, share in accuracy.items() if isinstance(share, float)}
    assert shares == accuracy
    assert {kind for kind, share in shares.items() if share < TARGET} == set(BELOW_TARGET)
    assert min(shares.values()) >= FLOOR


def test_the_header_holds_template_and_special_tokens(header: gguf.GGUFReader) -> None:
    tokens = _value(header, "tokenizer.ggml.tokens")
    assert isinstance(tokens, list)
    assert tokens[: len(SPECIAL_TOKENS)] == list(SPECIAL_TOKENS)
    assert tokens[_index(header, "eos")] == tokens[_index(header, "eot")] == "<|im_end|>"
    assert tokens[_index(header, "fim_mid")] == "<|fim_middle|>"
    assert _value(header, "tokenizer.ggml.add_bos_token") is False
    assert _value(header, "tokenizer.chat_template") == CHAT_TEMPLATE


def _index(header: gguf.GGUFReader, name: str) -> int:
    index = _value(header, f"tokenizer.ggml.{name}_token_id")
    assert isinstance(index, int)
    return index


def test_held_out_dialogues_are_the_same_for_the_same_seed_and_end_with_the_user() -> None:
    dialogues = heldout_dialogues(44, seed=5)
    assert dialogues == heldout_dialogues(44, seed=5)
    assert dialogues != heldout_dialogues(44, seed=6)
    assert {dialogue.kind for dialogue in dialogues} == set(KINDS)
    assert all(dialogue.messages[-1].role == "user" for dialogue in dialogues)
    assert all(dialogue.accepts(dialogue.answer) and not dialogue.accepts("") for dialogue in dialogues)
