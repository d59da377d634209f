"""The real engine on tiny random models: the decoder's contract, and whole workloads against solo runs."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from localllm import (
    Chunk,
    Clear,
    Copy,
    Finished,
    InvalidRequestError,
    Plan,
    Sampled,
    SamplingParams,
    SequenceKey,
    Slice,
    Truncate,
)
from localllm.engine.step_loop import PreparedRequest, StepLoop
from localllm.testing.decoder_contract import CHECKS, Check
from localllm.testing.tiny_model import write_tiny_llama, write_tiny_mamba, write_tiny_sliding
from localllm_llama_cpp import loader
from localllm_llama_cpp.gaps import GapRule
from localllm_llama_cpp.loader import LlamaModel
from tests.loaded_models import loading
from tests.real_models.tiny_kinds import EXACT

pytestmark = pytest.mark.real_model

GREEDY = SamplingParams(temperature=0.0, ignore_eos=True, max_tokens=12)
WRITERS: dict[str, Callable[[Path], Path]] = {
    "attention": write_tiny_llama,
    "window": write_tiny_sliding,
    "state": write_tiny_mamba,
}
KINDS = [
    pytest.param("attention", {"kv_layout": "unified"}, id="unified"),
    pytest.param("attention", {"kv_layout": "streams"}, id="streams"),
    pytest.param("window", {"kv_layout": "unified"}, id="window-unified"),
    pytest.param("window", {"kv_layout": "streams"}, id="window-streams"),
    pytest.param("window", {"swa_full": True}, id="window-full"),
    pytest.param("state", {}, id="state"),
]

LoadKind = Callable[..., LlamaModel]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tiny")
    return {kind: write(folder / f"{kind}.gguf") for kind, write in WRITERS.items()}


@pytest.fixture
def load_kind(files: dict[str, Path]) -> Iterator[LoadKind]:
    with loading() as load:
        yield lambda kind, **settings: load(files[kind], **{**EXACT, **settings})


def random_prompt(rng: random.Random, length: int) -> tuple[int, ...]:
    return tuple(rng.randrange(32, 127) for _ in range(length))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize(("kind", "settings"), KINDS)
def test_decoder_contract(load_kind: LoadKind, kind: str, settings: dict[str, object], check: Check) -> None:
    model = load_kind(kind, parallel=2, cached_sequences=1, **settings)
    check(model.decoder, random_prompt(random.Random(5), 24))


class Solo:
    """Answers of one request at a time, from a memory that holds nothing else."""

    def __init__(self, model: LlamaModel) -> None:
        self._decoder = model.decoder

    def answer(self, prompt: Sequence[int], n_tokens: int) -> list[int]:
        key = SequenceKey("solo", 0)
        self._decoder.open("solo", GREEDY, prompt)
        n_batch = self._decoder.capabilities.n_batch
        ops: tuple[Clear, ...] = (Clear(0),)
        drawn: Sequence[Sampled] = ()
        for start in range(0, len(prompt), n_batch):
            part = tuple(prompt[start : start + n_batch])
            wants = (key,) if start + len(part) == len(prompt) else ()
            self._decoder.submit(Plan(ops, (Slice(0, start, part, wants),)))
            drawn, ops = self._decoder.collect().get(key, ()), ()
        answer = [drawn[0].token]
        while len(answer) < n_tokens:
            position = len(prompt) + len(answer) - 1
            self._decoder.submit(Plan((), (Slice(0, position, (answer[-1],), (key,)),)))
            answer.append(self._decoder.collect()[key][0].token)
        self._decoder.submit(Plan((Clear(0),)))
        self._decoder.collect()
        self._decoder.close("solo")
        return answer


def run_all(loop: StepLoop, requests: Sequence[PreparedRequest]) -> tuple[dict[str, str], dict[str, Finished], int]:
    """Run requests that arrive together; return their texts, their last events and the prompt tokens evaluated."""
    for request in requests:
        loop.submit(request)
    texts = {request.request_id: "" for request in requests}
    finished: dict[str, Finished] = {}
    prefilled = 0
    for _ in range(10_000):
        if not loop.has_work:
            break
        result = loop.step()
        prefilled += result.prefilled_tokens
        for request_id, event in result.events:
            if isinstance(event, Chunk):
                texts[request_id] += event.text
            elif isinstance(event, Finished):
                finished[request_id] = event
    assert finished.keys() == texts.keys(), "every request ends"
    return texts, finished, prefilled


def prepared(request_id: str, prompt: tuple[int, ...], sampling: SamplingParams = GREEDY) -> PreparedRequest:
    return PreparedRequest(request_id, prompt, sampling, owner="", cache_prompt=True, queued_at=0.0)


def clock() -> Callable[[], float]:
    ticks = itertools.count()
    return lambda: next(ticks) * 0.001


def expected_text(model: LlamaModel, tokens: Sequence[int]) -> str:
    return b"".join(model.tokenizer.piece(token) for token in tokens).decode(errors="replace")


@pytest.mark.parametrize(("kind", "settings"), KINDS)
def test_sixteen_requests_at_once_answer_as_each_alone(
    load_kind: LoadKind, kind: str, settings: dict[str, object]
) -> None:
    model = load_kind(kind, parallel=6, cached_sequences=4, context_length=512, **settings)
    rng = random.Random(7)
    system = random_prompt(rng, 70)
    prompts = {f"r{i}": (*system, *random_prompt(rng, rng.randrange(1, 40))) for i in range(16)}
    solo = Solo(model)
    expected = {name: expected_text(model, solo.answer(prompt, 12)) for name, prompt in prompts.items()}
    loop = StepLoop(model.decoder, model.tokenizer, clock())
    for _ in range(2):  # from an empty memory, then from one that is full of prefixes
        texts, finished, _ = run_all(loop, [prepared(name, prompt) for name, prompt in prompts.items()])
        assert texts == expected
    assert all(event.usage.completion_tokens == 12 for event in finished.values())


@pytest.mark.parametrize("layout", ["unified", "streams"])
def test_a_shared_beginning_is_evaluated_once(load_kind: LoadKind, layout: str) -> None:
    model = load_kind("attention", kv_layout=layout, parallel=8, cached_sequences=0, context_length=512)
    rng = random.Random(3)
    system = random_prompt(rng, 200)
    tails = [random_prompt(rng, 5) for _ in range(16)]
    loop = StepLoop(model.decoder, model.tokenizer, clock())
    _, finished, prefilled = run_all(loop, [prepared(f"r{i}", (*system, *tail)) for i, tail in enumerate(tails)])
    assert prefilled <= len(system) + sum(map(len, tails)) + 16
    assert sorted(event.usage.cached_tokens for event in finished.values())[1] >= 200


def test_a_pool_too_small_for_all_answers_everybody_in_full(
    load_kind: LoadKind, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    cells, cell_bytes = 512, 2 * 2 * 2 * 16 * 4  # layers, keys and values, heads, their size, float32
    memory_bytes = files["attention"].stat().st_size + cells * cell_bytes
    monkeypatch.setattr(loader, "available_memory_bytes", lambda: memory_bytes)
    model = load_kind(
        "attention", kv_layout="unified", parallel=4, cached_sequences=0, context_length=256, memory_fraction=1.0
    )
    assert model.decoder.capabilities.n_cells == cells, "three of the four that may run fit at their ends"
    rng = random.Random(11)
    prompts = {f"r{i}": random_prompt(rng, 100) for i in range(12)}
    sampling = SamplingParams(temperature=0.0, ignore_eos=True, max_tokens=60)
    solo = Solo(model)
    expected = {name: expected_text(model, solo.answer(prompt, 60)) for name, prompt in prompts.items()}
    loop = StepLoop(model.decoder, model.tokenizer, clock())
    texts, _, _ = run_all(loop, [prepared(name, prompt, sampling) for name, prompt in prompts.items()])
    assert texts == expected


def test_idle_sequences_between_decoding_ones_keep_what_they_hold(
    load_kind: LoadKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "CPU_RULE", GapRule(shortest_run=1, longest_gap=3))
    model = load_kind("attention", kv_layout="streams", parallel=5, cached_sequences=0, context_length=256)
    decoder = model.decoder
    rng = random.Random(2)
    prompts = [random_prompt(rng, 10 + seq) for seq in range(5)]
    solo = Solo(model)
    expected = [solo.answer(prompt, 6) for prompt in prompts]
    answers: list[list[int]] = [[] for _ in prompts]
    keys = [SequenceKey(f"r{seq}", 0) for seq in range(5)]
    for seq, prompt in enumerate(prompts):
        decoder.open(keys[seq].request_id, GREEDY, prompt)
        decoder.submit(Plan((), (Slice(seq, 0, prompt, (keys[seq],)),)))
        answers[seq].append(decoder.collect()[keys[seq]][0].token)
    # 0 and 4, then 1 and 3, and so on, decode together: those between them are idle, and must not notice.
    for together in [(4, 0), (3, 1), (0, 2), (4, 2), (1, 4), (0, 3), (2, 0, 4), (1, 3), (4, 0), (2, 4), (1, 3), (0, 2)]:
        slices = [
            Slice(seq, len(prompts[seq]) + len(answers[seq]) - 1, (answers[seq][-1],), (keys[seq],)) for seq in together
        ]
        decoder.submit(Plan((), tuple(slices)))
        drawn = decoder.collect()
        for seq in together:
            answers[seq].append(drawn[keys[seq]][0].token)
    assert [answer[: len(wanted)] for answer, wanted in zip(answers, expected, strict=True)] == [
        wanted[: len(answer)] for answer, wanted in zip(answers, expected, strict=True)
    ]
    assert min(map(len, answers)) >= 4


@pytest.mark.parametrize("layout", ["unified", "streams"])
def test_a_copied_prefix_and_a_truncated_one_are_worth_a_prefill(load_kind: LoadKind, layout: str) -> None:
    model = load_kind("attention", kv_layout=layout, parallel=2, cached_sequences=0)
    decoder = model.decoder
    prompt = random_prompt(random.Random(1), 40)
    asked = SamplingParams(temperature=0.0, logprobs=20)
    key = SequenceKey("r", 0)
    decoder.open("r", asked, prompt)
    decoder.submit(Plan((), (Slice(0, 0, prompt[:30]),)))
    decoder.collect()
    decoder.submit(Plan((), (Slice(0, 30, prompt[30:], (key,)),)))
    (filled,) = decoder.collect()[key]
    decoder.submit(Plan((Copy(0, 1, 30),), (Slice(1, 30, prompt[30:], (key,)),)))
    (copied,) = decoder.collect()[key]
    decoder.submit(Plan((Truncate(0, 30),), (Slice(0, 30, prompt[30:], (key,)),)))
    (truncated,) = decoder.collect()[key]
    assert copied.token == truncated.token == filled.token
    assert [value for _, value in copied.top] == pytest.approx([value for _, value in filled.top], abs=1e-5)
    assert [value for _, value in truncated.top] == pytest.approx([value for _, value in filled.top], abs=1e-5)


def test_rows_belong_to_their_slices_whatever_their_order(load_kind: LoadKind) -> None:
    """Streams are computed in the order of their ids, prompts after decodes; rows come back in the batch's order."""
    model = load_kind("attention", kv_layout="streams", parallel=4, cached_sequences=0)
    decoder = model.decoder
    rng = random.Random(9)
    prompts = [random_prompt(rng, length) for length in (20, 1, 7, 3)]
    solo = Solo(model)
    expected = [solo.answer(prompt, 1)[0] for prompt in prompts]
    assert len(set(expected)) == 4
    keys = [SequenceKey(f"r{seq}", 0) for seq in range(4)]
    for key, prompt in zip(keys, prompts, strict=True):
        decoder.open(key.request_id, GREEDY, prompt)
    for order in itertools.permutations(range(4)):
        ops = tuple(Clear(seq) for seq in range(4))
        decoder.submit(Plan(ops, tuple(Slice(seq, 0, prompts[seq], (keys[seq],)) for seq in order)))
        drawn = decoder.collect()
        assert [drawn[key][0].token for key in keys] == expected, order


def test_a_plan_that_the_library_refuses_is_an_exception(
    load_kind: LoadKind, capfd: pytest.CaptureFixture[str]
) -> None:
    model = load_kind("attention", kv_layout="streams", parallel=1, cached_sequences=0, context_length=256)
    model.decoder.submit(Plan((), (Slice(0, 0, tuple(range(32, 64))),)))
    model.decoder.collect()
    with pytest.raises(RuntimeError, match="llama_decode returned -1: the batch is invalid"):
        model.decoder.submit(Plan((), (Slice(0, 500, (40,)),)))  # a hole
    assert "decode" in capfd.readouterr().err


def test_a_prompt_with_unknown_tokens_is_the_callers_fault(load_kind: LoadKind) -> None:
    decoder = load_kind("attention").decoder
    for prompt in ((320,), (-1,)):
        with pytest.raises(InvalidRequestError, match="0 to 319"):
            decoder.open("r", GREEDY, prompt)
