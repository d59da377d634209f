"""In streams, answers that are written together get sequence ids that follow each other."""

from __future__ import annotations

from dataclasses import replace

import pytest

from localllm.contract.decoder import Capabilities
from tests.engine.kit import ROOMY, STREAMS, Engine, cached, ops

FULL = replace(STREAMS, parallel=4, n_seq_max=8, n_cells=8 * 400)


def prompt(number: int) -> tuple[int, ...]:
    """Prompts that share no beginning."""
    return (number, *range(300, 340))


def fill(capabilities: Capabilities) -> Engine:
    """An engine all of whose sequences are cached prefixes, with ids that say nothing of their age."""
    engine = Engine(capabilities)
    for first in range(0, 8, 4):
        for number in range(first, first + 4):
            engine.add(str(number), prompt(number))
        engine.run()
    for number in (6, 1, 3):  # used again: the oldest are 0, 2, 4, 5 now
        engine.turn(f"{number} again", prompt(number))
    return engine


def run_together(engine: Engine) -> list[int]:
    """Four new prompts at once; returns the sequence ids that decode together."""
    for number in range(20, 24):
        engine.add(str(number), prompt(number), n_tokens=5)
    while True:
        step = engine.step()
        if len(step.plan.slices) == 4 and all(len(part.tokens) == 1 for part in step.plan.slices):
            return sorted(part.seq for part in step.plan.slices)


@pytest.mark.parametrize("can_truncate", [True, False])
def test_running_streams_are_neighbours(can_truncate: bool) -> None:
    seqs = run_together(fill(replace(FULL, can_truncate=can_truncate)))
    assert seqs == list(range(seqs[0], seqs[0] + 4))


def test_what_is_moved_out_of_the_way_stays_cached() -> None:
    engine = fill(FULL)
    run_together(engine)
    engine.run()
    for number in (7, 6, 1, 3):  # those that were used last
        steps = engine.turn(f"{number} once more", prompt(number))
        assert cached(steps[0]) == {f"{number} once more": len(prompt(number)) - 1}


def test_one_pool_moves_nothing() -> None:
    engine = fill(replace(ROOMY, n_seq_max=8))
    before = len(engine.steps)
    run_together(engine)
    assert not any(type(op).__name__ == "Copy" for op in ops(engine.steps[before:]))
