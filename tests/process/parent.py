"""A small server for tests that kill it: loads two models, prints the workers' pids, then serves one endless stream."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import suppress
from pathlib import Path

import uvloop

from localllm.contract.model import Mode
from localllm.host.client import WorkerClient
from tests.process.harness import Models, ask, fake_backend, first_chunk, running_registry

HANGS_AFTER_SECONDS = 0.5


async def main(state: Path, settings: dict[str, object]) -> None:
    models = Models(busy=settings, idle={})
    async with (
        running_registry(models, state, backend=fake_backend()) as registry,
        registry.acquire("busy", Mode.GENERATE) as busy,
        registry.acquire("idle", Mode.GENERATE) as idle,
    ):
        assert isinstance(busy, WorkerClient)
        assert isinstance(idle, WorkerClient)
        stream = busy.generate(ask(max_tokens=None, ignore_eos=True))
        await first_chunk(stream)
        if "hang_after_steps" in settings:
            with suppress(TimeoutError):
                while await asyncio.wait_for(anext(stream), HANGS_AFTER_SECONDS):
                    continue
        sys.stdout.write(json.dumps([busy.pid, idle.pid]) + "\n")
        sys.stdout.flush()
        async for _ in stream:
            continue
        await asyncio.Event().wait()


if __name__ == "__main__":
    factory = uvloop.new_event_loop if sys.argv[1] == "uvloop" else None
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main(Path(sys.argv[2]), json.loads(sys.argv[3])))
