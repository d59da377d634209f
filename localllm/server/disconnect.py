"""Noticing that a client has gone, without polling, and stopping the work that nobody waits for any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.types import Receive

from localllm.server.interruption import Interruption

T = TypeVar("T")


class ClientDisconnected(Exception):  # noqa: N818 - an event, not a fault; starlette names its own likewise
    """The client closed its connection, or its sending half, before the answer was complete."""


@asynccontextmanager
async def cancel_on_disconnect(receive: Receive) -> AsyncIterator[None]:
    """Run the block until its end or the client's departure, which raises :class:`ClientDisconnected` out of it.

    The body must have been read before: what is left of it would be thrown away here, and Hypercorn tells of a
    departure only after the body's last message.
    """
    with Interruption() as interruption:
        watcher = asyncio.create_task(_watch(receive, interruption))
        try:
            yield
        finally:
            await end_task(watcher)


async def race_disconnect(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Await ``work`` and return its result, but cancel it as soon as the client goes.

    For handlers that answer with one body: ``result = await race_disconnect(request, collect(...))``. Read the body
    first (``read_json``). Raises :class:`ClientDisconnected`, which the error layer drops silently; a handler lets it
    pass. ``work`` has run its ``finally`` blocks by then.
    """
    try:
        async with cancel_on_disconnect(request.receive):
            return await work
    finally:
        work.close()  # only matters when we were cancelled before it began


async def end_task(task: asyncio.Task[Any]) -> None:
    """Cancel a helper task and wait until it has ended; its own exception, if any, is not ours to raise."""
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.exception()  # retrieved, so that asyncio doesn't warn


async def close_iterator(iterator: AsyncIterator[Any]) -> None:
    """Close an async generator now and in this task, not whenever it is collected; other iterators need no closing."""
    close = getattr(iterator, "aclose", None)
    if close is not None:
        await close()


async def _watch(receive: Receive, interruption: Interruption) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    interruption.interrupt(ClientDisconnected("the client closed the connection"))
