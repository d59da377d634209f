"""The bundled demo embedding model and reranker are the ones that the sources in `models/training` describe."""

from __future__ import annotations

import random
from pathlib import Path

import gguf
import pytest

from models.training import recipe, topic_texts
from models.training.heldout_texts import DOCUMENTS, FAR, NEAR, Neighbours, Search, neighbours, searches
from models.training.topic_grammar import Frame, agree, draw_facts, grammar, is_heldout_sentence, write

MODELS = Path(recipe.__file__).resolve().parent.parent
EMBEDDING = MODELS / "embedding" / "localllm-demo-embed.gguf"
RERANKER = MODELS / "reranker" / "localllm-demo-rerank.gguf"
FILES = {"embedding": EMBEDDING, "reranker": RERANKER}
MAX_BYTES = 4 * 1024 * 1024
TARGET = 0.95
MEASURED = {"embedding": ("pairs_other_topics", "searches"), "reranker": ("searches", "irrelevant_below_half")}


@pytest.fixture(scope="module", params=tuple(FILES))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def header(kind: str) -> gguf.GGUFReader:
    return gguf.GGUFReader(FILES[kind])


def _value(header: gguf.GGUFReader, key: str) -> object:
    field = header.get_field(key)
    assert field is not None, f"the file lacks {key}"
    return field.contents()


def test_the_file_is_small(kind: str) -> None:
    assert FILES[kind].stat().st_size <= MAX_BYTES


def test_the_recorded_recipe_is_that_of_the_sources(kind: str, header: gguf.GGUFReader) -> None:
    """After a change to a training source: train again; where the text stays the same, measure and export again."""
    expected = {"embedding": recipe.embedding_recipe_sha256, "reranker": recipe.reranker_recipe_sha256}[kind]()
    steps = {"embedding": recipe.EMBEDDING_STEPS, "reranker": recipe.RERANKER_STEPS}[kind]
    assert _value(header, "localllm.recipe.sha256") == expected
    assert _value(header, "localllm.recipe.seed") == recipe.ENCODER_SEED
    assert _value(header, "localllm.recipe.steps") == steps


def test_every_source_of_the_recipes_exists_and_the_grammar_is_among_them() -> None:
    folder = Path(recipe.__file__).parent
    assert set(recipe.EMBEDDING_SOURCES) < set(recipe.RERANKER_SOURCES)
    assert all((folder / name).is_file() for name in recipe.RERANKER_SOURCES)
    assert {f"topics/{path.name}" for path in (folder / "topics").iterdir()} <= set(recipe.EMBEDDING_SOURCES)


def test_the_accuracy_in_the_header_meets_the_target(kind: str, header: gguf.GGUFReader) -> None:
    for measure in MEASURED[kind]:
        share = _value(header, f"localllm.accuracy.{measure}")
        assert isinstance(share, float)
        assert TARGET <= share <= 1.0


def test_the_header_describes_a_bert_of_512_tokens(kind: str, header: gguf.GGUFReader) -> None:
    pooling = {"embedding": gguf.PoolingType.MEAN, "reranker": gguf.PoolingType.RANK}[kind]
    assert _value(header, "general.architecture") == "bert"
    assert _value(header, "bert.pooling_type") == pooling
    assert _value(header, "bert.context_length") == 512
    assert _value(header, "bert.attention.causal") is False
    tensors = {tensor.name: tuple(tensor.shape) for tensor in header.tensors}
    width = _value(header, "bert.embedding_length")
    assert tensors["position_embd.weight"] == (width, 512)
    assert ("cls.output.weight" in tensors) == (kind == "reranker")


def test_the_vocabulary_has_the_special_tokens_and_every_printable_ascii_character(header: gguf.GGUFReader) -> None:
    tokens = _value(header, "tokenizer.ggml.tokens")
    assert isinstance(tokens, list)
    ids = {token: index for index, token in enumerate(tokens)}
    assert len(ids) == len(tokens)
    for key, token in (("bos", "[CLS]"), ("seperator", "[SEP]"), ("unknown", "[UNK]"), ("padding", "[PAD]")):
        assert _value(header, f"tokenizer.ggml.{key}_token_id") == ids[token]
    characters = [chr(code) for code in range(0x21, 0x7F) if not chr(code).isupper()]
    assert all(character in ids and f"\u2581{character}" in ids for character in characters)


def test_held_out_cases_are_the_same_for_the_same_seed_and_others_for_another() -> None:
    assert neighbours(6, seed=5) == neighbours(6, seed=5) != neighbours(6, seed=6)
    assert searches(6, seed=5) == searches(6, seed=5) != searches(6, seed=6)


def test_held_out_cases_hold_out_their_texts() -> None:
    pairs: list[Neighbours] = neighbours(12, seed=5)
    asked: list[Search] = searches(12, seed=5)
    texts = [text for case in pairs for text in (case.first, case.second, *case.far, *case.near)]
    texts += [text for case in asked for text in (case.query, *case.documents)]
    assert all(is_heldout_sentence(text) for text in texts)
    assert all(len(case.far) == FAR and 0 < len(case.near) <= NEAR for case in pairs)
    assert all(len(set(case.documents)) == DOCUMENTS and case.hard > 0 for case in asked)


def test_training_sentences_are_never_held_out() -> None:
    rng = random.Random(3)
    for frame in grammar().frames:
        text = write(rng, frame, draw_facts(rng, frame, False), (*frame.asks, *frame.says), False)
        assert text is None or not is_heldout_sentence(text.words)


def test_texts_agree_unless_a_fact_differs() -> None:
    rng = random.Random(4)
    frame = _frame_with("geography", "capital")
    france, germany = {"geography.country": "France"}, {"geography.country": "Germany"}
    asked = write(rng, frame, france, frame.asks, False)
    right, wrong = (write(rng, frame, facts, frame.says, False) for facts in (france, germany))
    assert asked is not None and right is not None and wrong is not None
    assert "Paris" in right.words and "Berlin" in wrong.words
    assert agree(asked, right)
    assert not agree(asked, wrong)
    assert not agree(right, wrong)
    assert agree(asked, topic_texts.passage(rng, [(frame, germany), (frame, france)], "geography"))


def _frame_with(topic: str, slot: str) -> Frame:
    return next(frame for frame in grammar().frames if frame.topic == topic and slot in frame.tables)
