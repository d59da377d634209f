"""Two API keys over all verbs, in any order: no word of one ever reaches the other, not even that it is there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.plugins.sessions.talk_kit import CHAT, Talk, run, talking, user

KEYS = ("sk-of-anna-0123456789abcdef", "sk-of-bert-0123456789abcdef")
MARKS = ("annas-secret", "berts-secret")
EXAMPLES = 400 if os.environ.get("LOCALLLM_TEST_FULL") else 40
LINES = {"content-type": "application/jsonl"}

STEPS = st.lists(
    st.tuples(
        st.integers(0, 1),  # who
        st.sampled_from(
            [
                *("begin", "say", "say all", "stream", "make", "copy", "get", "change", "delete", "messages"),
                *("export", "import", "list", "after"),
            ]
        ),
        st.integers(0, 1),  # whose session
        st.integers(0, 5),  # which
    ),
    min_size=5,
    max_size=30,
)


class World:
    """What each of the two has, and what they have heard."""

    def __init__(self, talk: Talk) -> None:
        self.talks = [Talk(talk.server, key) for key in KEYS]
        self.ids: list[list[str]] = [[], []]
        self.lines: list[list[bytes]] = [[], []]

    async def step(self, who: int, verb: str, whose: int, which: int) -> None:
        talk, mark = self.talks[who], MARKS[who]
        known = self.ids[whose]
        wanted = known[which % len(known)] if known else "00000000-0000-4000-8000-000000000000"
        seen = len(talk.model.prompts)
        talk.model.answers.append(f"{mark} answers")
        response = await self._ask(talk, verb, wanted, mark, whose=whose, which=which)
        talk.model.answers.clear()
        self._check(who, response, talk.model.prompts[seen:])
        if verb in ("say", "say all", "stream", "copy", "get", "change", "delete", "messages", "export", "after"):
            is_mine = whose == who and wanted in self.ids[who]
            assert (response.status_code == 404) is not is_mine or response.status_code == 409
        if response.status_code == 404:
            self._looks_absent(response, wanted)
        self._note(who, verb, wanted, response)

    async def _ask(self, talk: Talk, verb: str, wanted: str, mark: str, *, whose: int, which: int) -> httpx.Response:
        who = self.talks.index(talk)
        one = f"/v1/sessions/{wanted}"
        chat: dict[str, Any] = {"messages": [user(f"{mark} asks")], "session_id": wanted}
        guess = [user(f"{mark} asks"), {"role": "assistant", "content": f"{mark} answers"}] if whose == who else []
        made = {"title": f"{mark} title", "metadata": {"of": mark}, "messages": [user(mark)]}
        lines = self.lines[who][which % len(self.lines[who])] if self.lines[who] else b""
        requests: dict[str, tuple[str, str, dict[str, Any]]] = {
            "begin": ("POST", CHAT, {"json": {**chat, "session_id": "new"}}),
            "say": ("POST", CHAT, {"json": chat}),
            "say all": ("POST", CHAT, {"json": {**chat, "messages": [*guess, *chat["messages"]]}}),
            "stream": ("POST", CHAT, {"json": {**chat, "stream": True}}),
            "make": ("POST", "/v1/sessions", {"json": made}),
            "copy": ("POST", "/v1/sessions", {"json": {"copy_of": wanted}}),
            "get": ("GET", one, {}),
            "change": ("PATCH", one, {"json": {"title": f"{mark} title"}}),
            "delete": ("DELETE", one, {}),
            "messages": ("GET", f"{one}/messages", {}),
            "export": ("GET", f"{one}/export", {}),
            "import": ("POST", "/v1/sessions/import", {"content": lines, "headers": LINES}),
            "list": ("GET", "/v1/sessions", {"params": {"limit": 100}}),
            "after": ("GET", "/v1/sessions", {"params": {"after": wanted, "limit": 100}}),
        }
        method, path, options = requests[verb]
        return await talk.request(method, path, **options)

    def _check(self, who: int, response: httpx.Response, prompts: list[list[Mapping[str, Any]]]) -> None:
        foreign = 1 - who
        assert MARKS[foreign] not in response.text
        assert MARKS[foreign] not in str(prompts)
        if response.status_code < 400:
            assert not any(one in response.text for one in self.ids[foreign])

    def _looks_absent(self, response: httpx.Response, wanted: str) -> None:
        """Only the id that was asked for tells one refusal from another."""
        words = response.text.replace(wanted, "ID")
        param = response.json()["error"]["param"]
        assert words == (
            '{"error":{"message":"There is no session \'ID\'. GET /v1/sessions lists those that this API key has.",'
            f'"type":"invalid_request_error","param":"{param}","code":"session_not_found"}}}}'
        )

    def _note(self, who: int, verb: str, wanted: str, response: httpx.Response) -> None:
        if response.status_code >= 400:
            return
        if verb == "begin":
            self.ids[who].append(response.json()["session_id"])
        elif verb in ("make", "copy") or (verb == "import" and response.status_code == 201):
            self.ids[who].append(response.json()["id"])
        elif verb == "delete":
            self.ids[who].remove(wanted)
        elif verb == "export":
            self.lines[who].append(response.content)

    async def check_lists(self) -> None:
        for talk, ids in zip(self.talks, self.ids, strict=True):
            listed = (await talk.request("GET", "/v1/sessions", params={"limit": 100})).json()["data"]
            assert sorted(one["id"] for one in listed) == sorted(ids)


@settings(max_examples=EXAMPLES, deadline=None)
@given(STEPS)
def test_two_keys_never_see_each_others_sessions(steps: list[tuple[int, str, int, int]]) -> None:
    async def scenario() -> None:
        with TemporaryDirectory() as directory:
            async with talking(Path(directory), keys=KEYS) as talk:
                world = World(talk)
                for who in (0, 1):
                    await world.step(who, "begin", who, 0)
                for step in steps:
                    await world.step(*step)
                await world.check_lists()

    run(scenario())


def test_no_key_no_sessions(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with talking(tmp_path, keys=KEYS) as talk:
            await talk.say("Hi")
            stranger = Talk(talk.server, "sk-wrong")
            for path in ("/v1/sessions", f"/v1/sessions/{talk.session_id}"):
                assert (await stranger.request("GET", path)).status_code == 401

    run(scenario())
