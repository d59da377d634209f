"""Turns of one session wait for each other from its first one on, and not in any number."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

from localllm_sessions.interceptor import SessionInterceptor
from localllm_sessions.ordering import MAX_WAITING, TurnOrder
from tests.plugins.sessions.talk_kit import ANSWER, Talk, run, talking


def order_of(talk: Talk) -> TurnOrder:
    (interceptor,) = talk.server.plugins.interceptors
    return cast("SessionInterceptor", interceptor).order


def test_who_goes_on_with_a_session_that_is_only_beginning_waits_too(tmp_path: Path) -> None:
    """A stream's first chunk tells the id, long before there is anything of the session."""

    async def scenario() -> None:
        async with talking(tmp_path) as talk:
            talk.model.gate = gate = asyncio.Event()
            first = asyncio.create_task(talk.say("One?", stream=True))
            await talk.model.reached.wait()
            [(_, session_id)] = order_of(talk).in_use
            talk.model.gate = None
            other = Talk(talk.server, session_id=session_id)
            second = asyncio.create_task(other.say("Two?"))
            for _ in range(20):
                await asyncio.sleep(0)
            gate.set()
            assert (await first)["session_id"] == session_id
            assert (await second)["session"]["messages"] == 2
            assert await talk.texts() == ["One?", ANSWER, "Two?", ANSWER]
            assert not order_of(talk).in_use

    run(scenario())


def test_only_so_many_wait_for_one_session(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with talking(tmp_path) as talk:
            await talk.say("begin")
            talk.model.gate = gate = asyncio.Event()
            first = asyncio.create_task(talk.ask("first"))
            await talk.model.reached.wait()
            waiting = [asyncio.create_task(talk.ask(f"waits {number}")) for number in range(MAX_WAITING)]
            for _ in range(20):
                await asyncio.sleep(0)
            refused = await talk.ask("one too many")
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
            assert refused.headers["retry-after"] == "1"
            assert f"{MAX_WAITING} requests" in refused.json()["error"]["message"]
            talk.model.gate = None
            assert (await Talk(talk.server).ask("other session")).status_code == 200
            gate.set()
            assert {one.status_code for one in await asyncio.gather(first, *waiting)} == {200}
            assert not order_of(talk).in_use

    run(scenario())
