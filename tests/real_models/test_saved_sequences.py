"""The real engine takes what sequences hold out of its memory and puts it back: tiny models of all kinds."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from localllm import (
    Chunk,
    Clear,
    Copy,
    Finished,
    Plan,
    SamplingParams,
    SequenceKey,
    Slice,
    StateSaving,
)
from localllm.engine.step_loop import PreparedRequest, StepLoop
from localllm.testing.decoder_contract import (
    check_a_saved_sequence_goes_on_elsewhere,
    check_a_sequence_is_put_back_beside_a_running_one,
)
from localllm.testing.tiny_model import write_tiny_llama, write_tiny_mamba, write_tiny_sliding
from localllm.worker.state_files import FolderStateFiles
from localllm_llama_cpp.loader import LlamaModel
from tests.loaded_models import loading
from tests.real_models.tiny_kinds import EXACT

pytestmark = pytest.mark.real_model

SETTINGS = {**EXACT, "context_length": 512}
QUANTIZED = {"flash_attention": True, "cache_type_k": "q8_0", "cache_type_v": "q8_0"}


def write_wide_heads(path: Path, seed: int = 0) -> Path:
    return write_tiny_llama(path, seed=seed, n_embd=128)  # 32 numbers to a head, of which q8_0 makes a block


WRITERS: dict[str, Callable[[Path], Path]] = {
    "attention": write_wide_heads,
    "window": write_tiny_sliding,
    "state": write_tiny_mamba,
}
KINDS = [
    pytest.param("attention", {"kv_layout": "unified"}, id="unified"),
    pytest.param("attention", {"kv_layout": "streams"}, id="streams"),
    pytest.param("attention", {"kv_layout": "unified", **QUANTIZED}, id="unified-q8_0"),
    pytest.param("attention", {"kv_layout": "streams", **QUANTIZED}, id="streams-q8_0"),
    pytest.param("window", {"kv_layout": "unified"}, id="window-unified"),
    pytest.param("window", {"kv_layout": "streams"}, id="window-streams"),
    pytest.param("window", {"swa_full": True}, id="window-full"),
    pytest.param("state", {}, id="state"),
]
NOT_ASCII = tuple((token, -100.0) for token in range(320) if not 32 <= token < 127)
GREEDY = SamplingParams(temperature=0.0, ignore_eos=True, max_tokens=8, logit_bias=NOT_ASCII)

Load = Callable[..., LlamaModel]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tiny")
    return {kind: write(folder / f"{kind}.gguf") for kind, write in WRITERS.items()}


@pytest.fixture
def load_kind(files: dict[str, Path]) -> Iterator[Load]:
    with loading() as load:

        def load_with(kind: str, *, file: Path | None = None, **settings: Any) -> LlamaModel:
            return load(file or files[kind], **{**SETTINGS, **settings})

        yield load_with


def random_tokens(seed: int, length: int) -> tuple[int, ...]:
    rng = random.Random(seed)
    return tuple(rng.randrange(32, 127) for _ in range(length))


def saving_of(model: LlamaModel) -> StateSaving:
    saving = model.decoder.capabilities.saving
    assert saving is not None
    return saving


def say(model: LlamaModel, loop: StepLoop, prompt: tuple[int, ...], *, goes_on: bool = True) -> tuple[str, int]:
    """Return an answer and how much of its prompt was cached."""
    loop.submit(PreparedRequest("r", prompt, GREEDY, "", cache_prompt=True, queued_at=0.0, goes_on=goes_on))
    text, cached = "", -1
    while loop.has_work:
        for _, event in loop.step().events:
            if isinstance(event, Chunk):
                text += event.text
            elif isinstance(event, Finished):
                cached = event.usage.cached_tokens
    return text, cached


def loop_of(model: LlamaModel, folder: Path | None = None) -> StepLoop:
    files = None if folder is None else FolderStateFiles(folder, saving_of(model))
    return StepLoop(model.decoder, model.tokenizer, lambda: 0.0, files)


@pytest.mark.parametrize("length", [16, 200])
@pytest.mark.parametrize(("kind", "settings"), KINDS)
def test_what_is_put_back_is_what_was_taken_out(
    load_kind: Load, kind: str, settings: dict[str, Any], length: int
) -> None:
    decoder = load_kind(kind, parallel=2, cached_sequences=1, **settings).decoder
    for check in (check_a_saved_sequence_goes_on_elsewhere, check_a_sequence_is_put_back_beside_a_running_one):
        check(decoder, random_tokens(5, length))


@pytest.mark.parametrize(("kind", "settings"), KINDS)
def test_a_state_is_no_larger_than_is_booked(load_kind: Load, kind: str, settings: dict[str, Any]) -> None:
    model = load_kind(kind, parallel=2, cached_sequences=1, **settings)
    decoder, tokens = model.decoder, random_tokens(3, 300)
    for start in range(0, 300, 50):
        decoder.submit(Plan((), (Slice(0, start, tokens[start : start + 50]),)))
        decoder.collect()
        state = decoder.save(0)
        assert state is not None
        booked = saving_of(model).n_bytes(start + 50)
        assert len(state) <= booked
        assert kind == "window" or len(state) > 0.7 * (booked - 32 * 1024), "the budget is not used"


def test_a_stream_that_was_copied_just_now_is_not_saved_as_zeros(load_kind: Load) -> None:
    decoder = load_kind("attention", kv_layout="streams", parallel=3, cached_sequences=0).decoder
    tokens, key = random_tokens(4, 40), SequenceKey("r", 0)
    decoder.open("r", SamplingParams(temperature=0.0), tokens)
    decoder.submit(Plan((), (Slice(0, 0, tokens),)))
    decoder.collect()
    source = decoder.save(0)
    decoder.submit(Plan((Copy(0, 1, 40),)))
    decoder.collect()
    assert decoder.save(1) is None
    assert source is not None
    assert decoder.save(0) == source, "where it was copied from it may be saved"
    decoder.submit(Plan((Clear(0),)))
    decoder.collect()
    assert not decoder.restore(0, source, 40), "the copy is still to be made from what lies here"
    decoder.submit(Plan((), (Slice(2, 0, (33,)),)))
    decoder.collect()
    copied = decoder.save(1)
    assert copied is not None
    assert len(copied) == len(source)
    assert any(bytes(copied)[1000:])
    assert decoder.restore(0, copied, 40)
    decoder.submit(Plan((), (Slice(0, 40, (34,), (key,)), Slice(1, 40, (34,), (key,)))))
    assert decoder.collect()


@pytest.mark.parametrize("layout", ["unified", "streams"])
def test_what_does_not_fit_is_refused_and_leaves_an_empty_sequence(
    load_kind: Load, capfd: pytest.CaptureFixture[str], layout: str
) -> None:
    decoder = load_kind("attention", kv_layout=layout, parallel=2, cached_sequences=0).decoder
    tokens = random_tokens(6, 60)
    decoder.submit(Plan((), (Slice(0, 0, tokens),)))
    decoder.collect()
    state = decoder.save(0)
    assert state is not None
    half = load_kind("attention", kv_layout=layout, parallel=2, cached_sequences=0, cache_type_k="f16").decoder
    for wrong, n_tokens in ((bytes(state)[:-1], 60), (bytes(state), 59), (b"", 60), (b"\0" * 500, 60)):
        assert not decoder.restore(1, wrong, n_tokens)
        assert decoder.restore(1, state, 60)
        decoder.submit(Plan((Clear(1),)))
        decoder.collect()
    assert not half.restore(1, state, 60), "keys of another type"
    half.submit(Plan((), (Slice(1, 0, tokens),)))
    half.collect()
    assert "state" in capfd.readouterr().err


@pytest.mark.parametrize(("kind", "settings"), KINDS)
def test_conversations_outlive_their_place_and_their_process(
    load_kind: Load, tmp_path: Path, kind: str, settings: dict[str, Any]
) -> None:
    prompts = [random_tokens(seed, 100) for seed in range(4)]
    more = random_tokens(9, 5)
    plain = load_kind(kind, parallel=1, cached_sequences=0, saved_state_ram_mib=0, saved_state_disk_mib=0, **settings)
    assert plain.decoder.capabilities.saving is None
    expected = []
    for prompt in prompts:
        text, _ = say(plain, loop_of(plain), prompt)
        plain.decoder.submit(Plan((Clear(0),)))
        plain.decoder.collect()
        history = (*prompt, *text.encode())
        expected.append((text, history, say(plain, loop_of(plain), (*history, *more))[0]))
        plain.decoder.submit(Plan((Clear(0),)))
        plain.decoder.collect()
    model = load_kind(kind, parallel=1, cached_sequences=1, **settings)
    loop = loop_of(model, tmp_path / "states")
    for prompt, (text, _, _) in zip(prompts, expected, strict=True):
        assert say(model, loop, prompt)[0] == text
    loop.leave(lambda: False)
    again = load_kind(kind, parallel=1, cached_sequences=1, **settings)
    loop = loop_of(again, tmp_path / "states")
    for _, history, answer in expected:
        assert say(again, loop, (*history, *more)) == (answer, len(history) - 1)


def test_states_are_only_for_the_same_file_build_and_settings(
    load_kind: Load, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = saving_of(load_kind("attention")).identity
    assert saving_of(load_kind("attention", parallel=2, saved_state_ram_mib=1)).identity == first
    other = write_wide_heads(tmp_path / "other.gguf", seed=77)
    same = tmp_path / "same.gguf"
    same.write_bytes(files["attention"].read_bytes())
    variants = [
        load_kind("attention", file=other),
        load_kind("attention", file=same),  # of another time: nobody reads a model in full to find it the same
        load_kind("attention", rope_freq_base=5000.0),
        load_kind("attention", cache_type_k="f16"),
        load_kind("attention", kv_layout="streams"),
        load_kind("attention", kv_layout="streams", parallel=5),
    ]
    monkeypatch.setattr("localllm_llama_cpp.saving._build", lambda: [("libllama.so", 1, 2)])
    variants.append(load_kind("attention"))
    identities = [saving_of(model).identity for model in variants]
    assert first not in identities
    assert len(set(identities)) == len(identities)


def test_memory_for_states_is_a_small_part_of_what_is_free(load_kind: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    assert saving_of(load_kind("attention")).ram_bytes == 512 * 1024 * 1024
    monkeypatch.setattr("localllm_llama_cpp.loader.available_memory_bytes", lambda: 80 * 1024 * 1024)
    assert 9 * 1024 * 1024 < saving_of(load_kind("attention")).ram_bytes <= 10 * 1024 * 1024
