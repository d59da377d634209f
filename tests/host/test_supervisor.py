"""The breaker opens after repeated failures, lets one probe through, and backs off further when that fails."""

from __future__ import annotations

import pytest

from localllm.contract.errors import UnavailableError
from localllm.host.supervisor import Breaker, BreakerPolicy


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker("m", clock, BreakerPolicy(3, 60.0, 10.0, 300.0))


def fail(breaker: Breaker, times: int = 1) -> None:
    for _ in range(times):
        breaker.admit()
        breaker.record_failure("no memory")


def test_two_failures_are_tried_again_at_once_and_the_third_rests_the_model(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now += 0.5
    with pytest.raises(UnavailableError, match=r"'m' .* in 10 seconds.*no memory") as caught:
        breaker.admit()
    assert caught.value.detail == {"retry_after_seconds": 10}
    clock.now += 5
    with pytest.raises(UnavailableError) as caught:
        breaker.admit()
    assert caught.value.detail == {"retry_after_seconds": 5}


def test_failures_far_apart_never_open_it(breaker: Breaker, clock: Clock) -> None:
    for _ in range(20):
        fail(breaker)
        clock.now += 30.5
    breaker.admit()


def test_a_failed_probe_doubles_the_rest_up_to_the_limit(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 3)
    rests = []
    for _ in range(8):
        with pytest.raises(UnavailableError) as caught:
            breaker.admit()
        rests.append(caught.value.detail["retry_after_seconds"])
        clock.now += rests[-1]
        fail(breaker)
    assert rests == [10, 20, 40, 80, 160, 300, 300, 300]


def test_a_good_probe_closes_it(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now += 10
    breaker.admit()
    breaker.record_ready()
    clock.now += 61
    fail(breaker, 2)
    breaker.admit()


def test_a_crash_soon_after_a_good_probe_opens_it_again(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now += 10
    breaker.admit()
    breaker.record_ready()
    breaker.record_failure("crashed at its first request")
    with pytest.raises(UnavailableError, match="crashed at its first request"):
        breaker.admit()


def test_a_long_calm_forgets_the_back_off(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now += 10
    breaker.admit()
    breaker.record_ready()
    clock.now += 3_600
    fail(breaker, 3)
    with pytest.raises(UnavailableError) as caught:
        breaker.admit()
    assert caught.value.detail == {"retry_after_seconds": 10}
