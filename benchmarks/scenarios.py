"""What is measured of a running server; each scenario returns plain numbers."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from dataclasses import dataclass, field

from benchmarks.client import Answer, complete
from benchmarks.workloads import Workload


@dataclass(slots=True)
class Scenarios:
    """Drives one server; no prompt is sent twice unless the scenario is about that."""

    port: int
    work: Workload
    _seeds: itertools.count[int] = field(default_factory=lambda: itertools.count(10_000))

    async def warm_up(self) -> None:
        """Load the model and touch its memory."""
        await complete(self.port, self._fresh(32), 8)

    async def streams(self, count: int) -> float:
        """Seconds per decode step while all of ``count`` streams are being written."""
        answers = await asyncio.gather(
            *(complete(self.port, self._fresh(self.work.short_prompt), self.work.short_answer) for _ in range(count))
        )
        start = max(answer.arrivals[0] for answer in answers)
        end = min(answer.arrivals[-1] for answer in answers)
        if end <= start:
            message = f"the {count} streams were never written at the same time; give them longer answers"
            raise RuntimeError(message)
        steps = [sum(start < moment <= end for moment in answer.arrivals) for answer in answers]
        return (end - start) / statistics.mean(steps)

    async def shared_prefix(self) -> tuple[float, float]:
        """Wall seconds, and the 95th percentile of the times to first token, of requests with one system prompt."""
        system = self._fresh(self.work.system_prompt)
        gate = asyncio.Semaphore(self.work.shared_at_a_time)

        async def one() -> float:
            prompt = system + self._fresh(self.work.tail)
            async with gate:
                answer = await complete(self.port, prompt, self.work.shared_answer)
            return answer.first

        started = time.perf_counter()
        firsts = sorted(await asyncio.gather(*(one() for _ in range(self.work.shared_requests))))
        return time.perf_counter() - started, firsts[int(len(firsts) * 0.95)]

    async def conversations(self) -> float:
        """Median time to first token of conversations that are more than the parallel answers, turn by turn."""
        histories = [self._fresh(self.work.turn_prompt * 4) for _ in range(self.work.conversations)]
        firsts: list[float] = []

        async def turn(index: int) -> None:
            histories[index] += self._fresh(self.work.turn_prompt)
            answer = await complete(self.port, histories[index], self.work.turn_answer, temperature=0)
            firsts.append(answer.first)

        for _ in range(self.work.turns):
            await asyncio.gather(*(turn(index) for index in range(self.work.conversations)))
        return statistics.median(firsts)

    async def long_prompt(self, streams: int = 7) -> tuple[float, float]:
        """Longest token gap of running streams while a long prompt arrives, and that prompt's time to first token."""
        begun = asyncio.Event()

        async def background() -> Answer:
            return await complete(self.port, self._fresh(self.work.short_prompt), 160)

        async def arrive() -> Answer:
            await begun.wait()
            return await complete(self.port, self._fresh(self.work.long_prompt), 2)

        running = [asyncio.create_task(background()) for _ in range(streams)]
        arrival = asyncio.create_task(arrive())
        await asyncio.sleep(2.0)  # the streams are being written by now; the gaps below prove it
        begun.set()
        long = await arrival
        answers = await asyncio.gather(*running)
        window = [
            [moment for moment in answer.arrivals if long.sent - 0.5 <= moment <= long.arrivals[0] + 0.5]
            for answer in answers
        ]
        gaps = [b - a for moments in window for a, b in itertools.pairwise(moments)]
        if not gaps:
            message = "the streams ended before the long prompt arrived; the machine is too fast for this workload"
            raise RuntimeError(message)
        return max(gaps), long.first

    async def cached_prompt(self) -> float:
        """Median seconds from sending a fully cached prompt to its first token."""
        prompt = self._fresh(self.work.cached_prompt)
        await complete(self.port, prompt, 1)
        return statistics.median([(await complete(self.port, prompt, 1)).first for _ in range(15)])

    def _fresh(self, length: int) -> list[int]:
        return self.work.prompt(next(self._seeds), length)
