"""Memories, and requests that meet in them, drawn at random."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hypothesis import strategies as st

from localllm.contract.chat_format import ReplyRules, ThoughtFormat
from localllm.contract.decoder import Capabilities, StateSaving
from localllm.contract.generation import SamplingParams
from localllm.engine.step_loop import PreparedRequest
from localllm.testing.decoders import FakeDecoder

PLAIN = ReplyRules()
THINKING = ReplyRules(ThoughtFormat("<think>", "</think>"), in_thought=True)


@dataclass(frozen=True)
class World:
    """The memory, and how the decoder answers."""

    capabilities: Capabilities
    end_one_in: int
    tokens_per_draw: int
    fail_state_one_in: int = 0

    def decoder(self, capabilities: Capabilities | None = None) -> FakeDecoder:
        # Two of the bytes are halves of a code point, so that broken and whole UTF-8 both occur.
        return FakeDecoder(
            capabilities or self.capabilities,
            alphabet=b"abc\xc3\xa9",
            end_one_in=self.end_one_in,
            tokens_per_draw=self.tokens_per_draw,
            fail_state_one_in=self.fail_state_one_in,
        )


@dataclass(frozen=True)
class Arrival:
    """A request: when it comes, what it goes on from, and when its client leaves."""

    at_step: int
    after: int | None  # go on from the answer to this one, as the next turn of a conversation does
    prompt: bytes
    sampling: SamplingParams
    owner: str
    cache_prompt: bool
    cancel_at: int | None  # steps after its arrival
    prompt_logprobs: int | None = None
    reply: ReplyRules = PLAIN
    goes_on: bool = False


savings = st.builds(
    StateSaving,
    ram_bytes=st.sampled_from([0, 30, 60, 150, 1000]),
    bytes_per_token=st.sampled_from([0, 1, 1, 2]),
    bytes_per_sequence=st.sampled_from([0, 1, 10]),
    worthwhile_tokens=st.sampled_from([1, 1, 4, 16]),
)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    parallel = draw(st.sampled_from([1, 2, 3, 4, 6]))
    n_seq_max = parallel + draw(st.integers(0, 4))
    context_length = draw(st.sampled_from([8, 24, 40, 64, 96]))
    layout = draw(st.sampled_from(["unified", "unified", "streams"]))
    if layout == "streams":
        n_cells = n_seq_max * context_length + draw(st.integers(0, 3))
    else:
        n_cells = context_length + draw(st.sampled_from([0, 1, 5, 20, 40, 80, 300]))
    capabilities = Capabilities(
        context_length=context_length,
        n_cells=n_cells,
        n_seq_max=n_seq_max,
        n_batch=draw(st.one_of(st.integers(1, 8), st.just(64))),
        parallel=parallel,
        layout=layout,
        can_truncate=draw(st.sampled_from([True, True, False])),
        can_copy=draw(st.sampled_from([True, True, True, False])),
        copy_cost_tokens=draw(st.sampled_from([0, 0, 3, 12])),
        n_outputs_max=draw(st.sampled_from([1, 3, 256])),
        can_score=True,
        saving=draw(st.none() | savings),
    )
    return World(
        capabilities,
        draw(st.sampled_from([0, 6, 25])),
        draw(st.sampled_from([1, 1, 1, 2, 3])),
        draw(st.sampled_from([0, 0, 0, 1, 2, 3])),
    )


SYSTEM = b"system prompt of everybody: "
BEGINNINGS = (b"", b"abababab", SYSTEM, SYSTEM, SYSTEM, SYSTEM + b"the same words ", SYSTEM + b"x" * 18, b"x" * 18)


@st.composite
def arrivals(draw: st.DrawFn, index: int) -> Arrival:
    beginning = draw(st.sampled_from(BEGINNINGS))
    tail = draw(st.text("ab", min_size=0 if beginning else 1, max_size=4)).encode()
    sampling = SamplingParams(
        temperature=draw(st.sampled_from([0.0, 1.0])),
        seed=draw(st.integers(0, 3)),
        n=draw(st.sampled_from([1, 1, 1, 1, 2, 3, 7])),
        max_tokens=draw(st.sampled_from([None, None, 20, 12, 4, 1, 0])),
        min_tokens=draw(st.sampled_from([0, 0, 3])),
        stop=draw(st.sampled_from([(), (), (), ("ab",), ("cc", "aaa"), ("é", "bca")])),
        include_stop=draw(st.booleans()),
        logprobs=draw(st.sampled_from([None, None, 0, 2])),
    )
    return Arrival(
        at_step=draw(st.sampled_from([0, 0, 0, 1, 2, 5, 9, 20])),
        after=draw(st.sampled_from([None, None, *range(index)][: index + 2])) if index % 2 else None,
        prompt=beginning + tail,
        sampling=sampling,
        owner=draw(st.sampled_from(["", "", "", "somebody"])),
        cache_prompt=draw(st.sampled_from([True, True, True, True, False])),
        cancel_at=draw(st.sampled_from([None, None, None, None, 0, 1, 2, 4, 8, 15])),
        prompt_logprobs=draw(st.sampled_from([None, None, None, 0, 2])),
        # A thought that is closed makes an answer grow by a dozen tokens at once.
        reply=draw(st.sampled_from([PLAIN, PLAIN, *(replace(THINKING, thought_budget=n) for n in (None, 0, 5, 12))])),
        goes_on=draw(st.booleans()),
    )


@st.composite
def workloads(draw: st.DrawFn) -> list[Arrival]:
    return [draw(arrivals(index)) for index in range(draw(st.integers(2, 12)))]


def prepared(arrival: Arrival, request_id: str, prompt: bytes) -> PreparedRequest:
    return PreparedRequest(
        request_id,
        tuple(prompt),
        arrival.sampling,
        arrival.owner,
        arrival.cache_prompt,
        queued_at=0.0,
        prompt_logprobs=arrival.prompt_logprobs,
        reply=arrival.reply,
        goes_on=arrival.goes_on,
    )


@st.composite
def crowds(draw: st.DrawFn) -> list[Arrival]:
    """Long answers that come together, so that a small pool runs out of cells again and again."""
    workload = draw(st.lists(arrivals(0), min_size=4, max_size=9))
    return [
        replace(arrival, at_step=index // 2, sampling=replace(arrival.sampling, max_tokens=None, stop=()))
        for index, arrival in enumerate(workload)
    ]


@st.composite
def small_pools(draw: st.DrawFn) -> World:
    world = draw(worlds())
    context_length = draw(st.integers(40, 70))
    capabilities = replace(
        world.capabilities,
        context_length=context_length,
        layout="unified",
        n_cells=context_length + draw(st.integers(0, 60)),
        n_seq_max=8,
        parallel=draw(st.integers(3, 8)),
        n_outputs_max=256,
        n_batch=draw(st.integers(8, 64)),
    )
    return replace(world, capabilities=capabilities, end_one_in=draw(st.sampled_from([0, 40])))


any_budgets = st.lists(st.integers(1, 64), min_size=1, max_size=5)
