"""A scheduler driving the strict fake decoder, for tests that look at its plans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from localllm.contract.decoder import Capabilities, Op, SequenceKey
from localllm.contract.generation import SamplingParams
from localllm.engine.scheduler import Scheduler
from localllm.engine.step import Step
from localllm.testing.decoders import FakeDecoder

ROOMY = Capabilities(context_length=400, n_cells=4000, n_seq_max=12, n_batch=512, parallel=4)
STREAMS = replace(ROOMY, n_cells=12 * 400, layout="streams")
TIGHT = Capabilities(context_length=60, n_cells=60, n_seq_max=8, n_batch=64, parallel=4)
SYSTEM = tuple(range(100, 150))  # 50 tokens that prompts share


class Engine:
    """A scheduler with the strict fake decoder; answers have the length that ``add`` says."""

    def __init__(self, capabilities: Capabilities, budget: int = 512) -> None:
        self.scheduler = Scheduler(capabilities)
        self.decoder = FakeDecoder(capabilities)
        self.budget = budget
        self.steps: list[Step] = []
        self.answers: dict[SequenceKey, list[int]] = {}
        self.finished: list[SequenceKey] = []
        self._lengths: dict[str, int] = {}

    def add(self, request_id: str, prompt: Sequence[int], n_tokens: int = 3, n: int = 1, **options) -> None:
        self.decoder.open(request_id, SamplingParams(n=n, seed=1), prompt)
        self._lengths[request_id] = n_tokens
        self.scheduler.add(request_id, prompt, n, **options)

    def step(self) -> Step:
        step = self.scheduler.schedule(self.budget)
        assert step.plan.slices, "a step that evaluates nothing"
        self.decoder.submit(step.plan)
        going_on = {}
        for key, drawn in self.decoder.collect().items():
            tokens = [sampled.token for sampled in drawn]
            answer = self.answers.setdefault(key, [])
            answer += tokens
            if len(answer) < self._lengths[key.request_id]:
                going_on[key] = tokens
            else:
                self.finished.append(key)
        self.scheduler.commit(step, going_on)
        self.scheduler.check()
        self.steps.append(step)
        return step

    def run(self) -> None:
        while self.scheduler.has_work:
            self.step()

    def turn(self, request_id: str, prompt: Sequence[int], **options) -> list[Step]:
        """One request from beginning to end."""
        before = len(self.steps)
        self.add(request_id, prompt, **options)
        self.run()
        return self.steps[before:]

    @property
    def n_evaluated(self) -> int:
        return sum(step.plan.n_tokens for step in self.steps)

    def text(self, request_id: str, choice: int = 0) -> tuple[int, ...]:
        return tuple(self.answers[SequenceKey(request_id, choice)])


def ops(steps: Sequence[Step]) -> list[Op]:
    return [op for step in steps for op in step.plan.ops]


def cached(step: Step) -> dict[str, int | None]:
    return {request.request_id: request.cached_tokens for request in step.admitted}


def finished_requests(engine: Engine) -> list[str]:
    return [key.request_id for key in engine.finished]
