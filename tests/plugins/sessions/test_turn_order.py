"""Turns of one session wait for each other from its first one on, and not in any number."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx

from localllm_sessions.ordering import MAX_WAITING
from tests.event_loop import settle
from tests.plugins.sessions.talk_kit import ANSWER, Talk, run, talking


async def hold_up(talk: Talk, n_waiting: int) -> tuple[asyncio.Event, list[asyncio.Task[httpx.Response]]]:
    """Ask once, which holds the session until the event is set, and then so many times behind it."""
    talk.model.gate = gate = asyncio.Event()
    first = asyncio.create_task(talk.ask("first"))
    await talk.model.reached.wait()
    waiting = [asyncio.create_task(talk.ask(f"waits {number}")) for number in range(n_waiting)]
    await settle()
    talk.model.gate = None
    return gate, [first, *waiting]


def test_who_goes_on_with_a_session_that_is_only_beginning_waits_too(tmp_path: Path) -> None:
    """A stream's first chunk tells the id, long before there is anything of the session."""

    async def scenario() -> None:
        async with talking(tmp_path) as talk:
            talk.model.gate = gate = asyncio.Event()
            first = asyncio.create_task(talk.say("One?", stream=True))
            await talk.model.reached.wait()
            [(_, session_id)] = talk.order.in_use
            talk.model.gate = None
            other = Talk(talk.server, session_id=session_id)
            second = asyncio.create_task(other.say("Two?"))
            await settle()
            gate.set()
            assert (await first)["session_id"] == session_id
            assert (await second)["session"]["messages"] == 2
            assert await talk.texts() == ["One?", ANSWER, "Two?", ANSWER]
            assert not talk.order.in_use

    run(scenario())


def test_only_so_many_wait_for_one_session(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with talking(tmp_path) as talk:
            await talk.say("begin")
            gate, asking = await hold_up(talk, MAX_WAITING)
            refused = await talk.ask("one too many")
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
            assert refused.headers["retry-after"] == "1"
            assert f"{MAX_WAITING} requests" in refused.json()["error"]["message"]
            assert (await Talk(talk.server).ask("other session")).status_code == 200
            gate.set()
            assert {one.status_code for one in await asyncio.gather(*asking)} == {200}
            assert not talk.order.in_use

    run(scenario())


def test_who_waits_may_leave_and_others_are_not_held_up(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with talking(tmp_path) as talk:
            await talk.say("begin")
            gate, (first, *waiting) = await hold_up(talk, 3)
            assert (await Talk(talk.server).ask("other session")).status_code == 200
            waiting[1].cancel()
            await asyncio.wait([waiting[1]])
            assert not waiting[0].done()
            gate.set()
            await asyncio.gather(first, waiting[0], waiting[2])
            assert (await talk.texts())[::2] == ["begin", "first", "waits 0", "waits 2"]
            assert not talk.order.in_use

    run(scenario())
