"""Requests that are computed with different adapters share neither a step nor a prefix, and take turns."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from localllm.contract.adapters import USUAL_ADAPTERS, adapter_group, scales_of
from localllm.contract.decoder import Capabilities
from localllm.engine.turns import Turns
from tests.engine.kit import ROOMY, STREAMS, SYSTEM, Engine, cached, finished_requests

FULL = os.environ.get("LOCALLLM_TEST_FULL") == "1"
GROUPS = ("", "[1.0]", "[0.5]")


def test_a_set_of_scales_has_one_name() -> None:
    usual = (1.0, 0.25)
    assert adapter_group([1, 0.25], usual) == USUAL_ADAPTERS
    assert scales_of(USUAL_ADAPTERS, usual) == usual
    assert scales_of(adapter_group([0.0, -0.5], usual), usual) == (0.0, -0.5)
    assert adapter_group([1, 0], usual) == adapter_group([1.0, 0.0], usual)


def test_each_plan_is_of_one_group_and_they_take_turns() -> None:
    engine = Engine(ROOMY)
    for index, group in enumerate(("", "[1.0]", "")):
        engine.add(str(index), (index, *SYSTEM), n_tokens=3, group=group)
    engine.run()
    assert [(step.plan.group, len(step.plan.slices)) for step in engine.steps] == [("", 2), ("[1.0]", 1)] * 3


@pytest.mark.parametrize("capabilities", [ROOMY, STREAMS])
def test_a_prefix_of_one_group_is_none_of_another(capabilities: Capabilities) -> None:
    engine = Engine(capabilities)
    told = [
        cached(engine.turn(str(index), (*SYSTEM, index), group=group)[0])[str(index)]
        for index, group in enumerate(("", "[1.0]", "", "[1.0]", "[0.5]"))
    ]
    assert told == [0, 0, len(SYSTEM), len(SYSTEM), 0]


def test_a_public_prefix_is_public_in_each_group_by_itself() -> None:
    engine = Engine(ROOMY)
    engine.turn("preload[0]", SYSTEM, n_tokens=1, is_public=True)
    prompts = [("a", "[1.0]", 0), ("b", "[1.0]", len(SYSTEM)), ("c", "", len(SYSTEM))]
    for owner, group, expected in prompts:
        steps = engine.turn(owner, (*SYSTEM, 1, 2, 3), owner=owner, group=group)
        assert cached(steps[0])[owner] == expected


def test_a_group_that_stays_is_not_starved_by_new_ones() -> None:
    turns = Turns()
    served = []
    for index in range(9):
        group = turns.order(["stays", f"new{index}"])[0]
        turns.serve(group)
        served.append(group)
    assert served.count("stays") >= 4
    assert turns.order(["stays"]) == ["stays"]
    assert turns.order([]) == []


def test_the_oldest_gets_on_where_younger_groups_hold_all_cells() -> None:
    engine = Engine(Capabilities(context_length=40, n_cells=44, n_seq_max=4, n_batch=64, parallel=3))
    for index, group in enumerate(("", "[1.0]", "[0.5]")):
        engine.add(str(index), range(index * 10, index * 10 + 10), n_tokens=28, group=group)
    engine.run()
    assert finished_requests(engine)[0] == "0"
    assert {len(answer) for answer in engine.answers.values()} == {28}


@dataclass(frozen=True)
class Asked:
    """A request, and after how many steps it comes."""

    prompt: tuple[int, ...]
    group: str
    owner: str
    n: int
    n_tokens: int
    keep: bool
    at: int


ASKED = st.builds(
    Asked,
    st.lists(st.integers(1, 2), min_size=1, max_size=14).map(tuple),
    st.sampled_from(GROUPS),
    st.sampled_from("ab"),
    st.sampled_from([1, 1, 1, 3]),
    st.integers(1, 12),
    st.sampled_from([True, True, True, False]),
    st.integers(0, 12),
)


@st.composite
def memories(draw: st.DrawFn) -> Capabilities:
    parallel = draw(st.integers(1, 4))
    n_seq_max = parallel + draw(st.integers(0, 4))
    streams = draw(st.booleans())
    return Capabilities(
        context_length=32,
        n_cells=32 * n_seq_max if streams else draw(st.sampled_from([32, 40, 64, 300])),
        n_seq_max=n_seq_max,
        n_batch=draw(st.sampled_from([4, 8, 64])),
        parallel=parallel,
        layout="streams" if streams else "unified",
        can_truncate=draw(st.booleans()),
        can_copy=draw(st.sampled_from([True, True, False])),
        copy_cost_tokens=draw(st.sampled_from([0, 0, 3])),
    )


def alone(asked: Asked, capabilities: Capabilities) -> list[tuple[int, ...]]:
    engine = Engine(replace(capabilities, layout="unified", n_cells=1000, parallel=4, n_seq_max=8, n_batch=64))
    engine.turn("0", asked.prompt, n_tokens=asked.n_tokens, n=asked.n, group=asked.group)
    return [engine.text("0", choice) for choice in range(asked.n)]


def longest_wait(engine: Engine, groups: dict[str, str]) -> int:
    """How many steps in a row left out a group of which a request had begun and was not over."""
    longest = 0
    first = {name: at for at, step in enumerate(engine.steps) for name in cached(step)}
    last = {
        key.request_id: at for at, step in enumerate(engine.steps) for piece in step.plan.slices for key in piece.sample
    }
    for name, group in groups.items():
        served = [step.plan.group == group for step in engine.steps[first[name] : last[name] + 1]]
        longest = max([longest, *(len(list(run)) for is_served, run in itertools.groupby(served) if not is_served)])
    return longest


@settings(max_examples=2500 if FULL else 150, deadline=None, suppress_health_check=list(HealthCheck))
@given(memories(), st.lists(ASKED, min_size=1, max_size=9), st.integers(1, 20))
def test_requests_of_many_groups_get_what_they_get_alone(
    capabilities: Capabilities, asked: Sequence[Asked], budget: int
) -> None:
    """The strict decoder refuses a sequence that several groups computed, and its text depends on the group."""
    engine = Engine(capabilities, budget=budget)
    groups = {str(index): one.group for index, one in enumerate(asked)}
    waiting = sorted(enumerate(asked), key=lambda pair: pair[1].at)
    while waiting or engine.scheduler.has_work:
        while waiting and (waiting[0][1].at <= len(engine.steps) or not engine.scheduler.has_work):
            index, one = waiting.pop(0)
            engine.add(
                str(index), one.prompt, n_tokens=one.n_tokens, n=one.n, owner=one.owner, keep=one.keep, group=one.group
            )
        engine.step()
    for step in engine.steps:
        assert {groups[key.request_id] for piece in step.plan.slices for key in piece.sample} <= {step.plan.group}
    for index, one in enumerate(asked):
        assert [engine.text(str(index), choice) for choice in range(one.n)] == alone(one, capabilities)
    if capabilities.layout == "streams" and capabilities.n_batch >= 4:  # where no group ever lacks cells
        assert longest_wait(engine, groups) < len(GROUPS)
