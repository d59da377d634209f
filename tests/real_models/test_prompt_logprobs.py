"""Log-probabilities of prompts, told for many at once, against the library's own logits for each alone."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np
import pytest
from numpy.typing import NDArray

from localllm import (
    ChoiceFinished,
    Finished,
    InfillPrompt,
    PromptLogprobs,
    PromptToken,
    SamplingParams,
)
from localllm.contract.generation import GenerateRequest
from localllm.contract.wire import Submit
from localllm.engine.scored_rows import MAX_SCORED_ROWS
from localllm.engine.step_loop import PreparedRequest, StepLoop
from localllm.testing.tiny_model import write_tiny_llama, write_tiny_mamba
from localllm.worker.intake import prepare
from localllm_llama_cpp.batch import Batch
from localllm_llama_cpp.loader import LlamaModel
from tests.loaded_models import loading

pytestmark = pytest.mark.real_model

DEMO = Path(__file__).resolve().parents[2] / "models" / "chat" / "localllm-demo.gguf"
ONE_THREAD = {"threads": 1, "threads_batch": 1}
EXACT = {"flash_attention": False, "cache_type_k": "f32", "cache_type_v": "f32", **ONE_THREAD}
SCORE = SamplingParams(temperature=0.0, max_tokens=0)

SENTENCES = (
    "The quick brown fox jumps over the lazy dog.",
    "What is the capital of France? The capital of France is Paris.",
    "def add(a, b):\n    return a + b\n",
    "Grüße aus Köln: 5 € für ein Bier, 漢字, 🙂.",
)
# Prompts that share beginnings, long ones that take several steps, and one of a single word.
TEXTS = [*SENTENCES, *(SENTENCES[0] + " " + text for text in SENTENCES), " ".join(SENTENCES * 3), "Hi", SENTENCES[1]]


def reference(model: LlamaModel, tokens: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the log-probabilities after each token, from one batch in an exact context of its own."""
    params = lib.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = 512
    params.flash_attn_type = 0
    params.type_k = params.type_v = 0  # GGML_TYPE_F32
    params.n_threads = params.n_threads_batch = 1
    context = lib.llama_init_from_model(model.native.model, params)
    try:
        batch = Batch(512)
        batch.fill_piece(tokens, 0)
        assert lib.llama_decode(context, batch.native) == 0
        shape = (len(tokens), model.info.n_vocab)
        rows = np.ctypeslib.as_array(ctypes.cast(lib.llama_get_logits(context), ctypes.POINTER(ctypes.c_float)), shape)
        logits = rows.astype(np.float64)
    finally:
        lib.llama_free(context)
    logits -= logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


class Scorer:
    """A step loop with a loaded model."""

    def __init__(self, model: LlamaModel) -> None:
        ticks = itertools.count()
        self.model = model
        self.loop = StepLoop(model.decoder, model.tokenizer, lambda: next(ticks) / 1000)
        self.told: dict[str, list[PromptToken]] = {}
        self.ends: dict[str, list[Any]] = {}

    def add(self, request_id: str, tokens: tuple[int, ...], n_top: int | None = 3, sampling: Any = SCORE) -> None:
        self.loop.submit(PreparedRequest(request_id, tokens, sampling, "", True, 0.0, n_top))

    def run(self) -> None:
        while self.loop.has_work:
            for request_id, event in self.loop.step().events:
                if isinstance(event, PromptLogprobs):
                    self.told.setdefault(request_id, []).extend(event.tokens)
                elif isinstance(event, ChoiceFinished | Finished):
                    self.ends.setdefault(request_id, []).append(event)
            self.loop.check()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tiny")
    return {"attention": write_tiny_llama(folder / "a.gguf"), "state": write_tiny_mamba(folder / "s.gguf")}


@pytest.fixture(name="loading")
def loading_with_little_context() -> Iterator[Any]:
    with loading() as load:
        yield lambda path, **settings: load(path, **{"context_length": 512, **settings})


def check(model: LlamaModel, tolerance: float) -> None:
    """Score all texts at once, beside answers that are being written, and hold each against its own reference."""
    scorer = Scorer(model)
    prompts = {
        f"r{i}": tuple(model.tokenizer.encode(text, add_special=True, parse_special=True))
        for i, text in enumerate(TEXTS)
    }
    assert max(map(len, prompts.values())) > MAX_SCORED_ROWS
    scorer.add("writer", prompts["r0"], None, SamplingParams(temperature=0.0, ignore_eos=True, max_tokens=30))
    for request_id, tokens in prompts.items():
        scorer.add(request_id, tokens)
    scorer.run()
    for request_id, tokens in prompts.items():
        expected = reference(model, tokens)
        told = scorer.told[request_id]
        assert tuple(token.id for token in told) == tokens
        assert told[0].logprob is None
        for place, token in enumerate(told[1:]):
            assert token.logprob == pytest.approx(expected[place, token.id], abs=tolerance)
            best = np.sort(expected[place])[::-1][:3]
            assert [other.logprob for other in token.top] == pytest.approx(list(best), abs=tolerance)
            for other in token.top:
                assert other.id is not None
                assert other.logprob == pytest.approx(expected[place, other.id], abs=tolerance)
        assert [type(end) for end in scorer.ends[request_id]] == [ChoiceFinished, Finished]
    text = b"".join(token.bytes for token in scorer.told["r3"]).decode()
    assert text.strip() == TEXTS[3]


@pytest.mark.parametrize("layout", ["unified", "streams"])
@pytest.mark.parametrize("kind", ["attention", "state"])
def test_scores_are_the_librarys_own_with_exact_weights_and_cache(
    loading: Any, tiny: dict[str, Path], kind: str, layout: str
) -> None:
    check(loading(tiny[kind], kv_layout=layout, n_batch=64, n_ubatch=32, **EXACT), 1e-4)


def test_scores_are_the_librarys_own_without_flash_attention_and_with_an_exact_cache(loading: Any) -> None:
    check(loading(DEMO, kv_layout="streams", **EXACT), 1e-3)


@pytest.mark.parametrize("layout", ["unified", "streams"])
def test_scores_are_near_the_librarys_own_with_defaults(loading: Any, layout: str) -> None:
    """Weights of 16 bits round what they are multiplied with, so that the order of sums shows in the third digit."""
    check(loading(DEMO, kv_layout=layout, **ONE_THREAD), 0.1)


def test_what_was_scored_is_a_prefix_for_others_and_uses_none_itself(loading: Any) -> None:
    model = loading(DEMO, kv_layout="streams", **EXACT)
    tokens = tuple(model.tokenizer.encode(" ".join(SENTENCES), add_special=True, parse_special=True))
    scorer = Scorer(model)
    for name in ("first", "again"):
        scorer.add(name, tokens)
        scorer.run()
    assert scorer.ends["again"][-1].usage.cached_tokens == 0
    scorer.add("after", (*tokens, tokens[-1]), None, SamplingParams(temperature=0.0, max_tokens=1))
    scorer.run()
    assert scorer.ends["after"][-1].usage.cached_tokens == len(tokens)
    for one, other in zip(scorer.told["first"][1:], scorer.told["again"][1:], strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-3)


def test_the_demo_model_fills_gaps_by_its_own_tokens(loading: Any) -> None:
    model = loading(DEMO, **ONE_THREAD)
    marks = model.tokenizer.infill_tokens
    assert marks is not None
    request = GenerateRequest(InfillPrompt("def add(a, b):\n", "\n    return c\n"))
    prompt = prepare(Submit("r", request), model, queued_at=0.0).prompt
    spelled = [model.tokenizer.spelling(mark).decode() for mark in marks]
    text = b"".join(map(model.tokenizer.spelling, prompt)).decode()
    assert text.endswith(f"{spelled[0]}def add(a, b):\n{spelled[1]}\n    return c\n{spelled[2]}")
    plain = model.tokenizer.encode("x", add_special=True, parse_special=False)
    assert list(prompt[: len(plain) - 1]) == plain[:-1]


def test_a_model_without_such_tokens_has_none(loading: Any, tiny: dict[str, Path]) -> None:
    assert loading(tiny["attention"], **ONE_THREAD).tokenizer.infill_tokens is None
