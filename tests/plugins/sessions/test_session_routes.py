"""``/v1/sessions``: pages, changes, copies, and whole sessions out and in as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from localllm import SessionStoreUnavailableError
from tests.plugins.sessions.talk_kit import ANSWER, Talk, assistant, run, system, talking, user

LINES = {"content-type": "application/jsonl"}
ABSENT = "3b1f6e2e-0000-4000-8000-000000000000"


async def made(talk: Talk, **fields: Any) -> dict[str, Any]:
    response = await talk.request("POST", "/v1/sessions", json=fields)
    assert response.status_code == 201, response.text
    found: dict[str, Any] = response.json()
    return found


def test_a_session_is_made_and_shown(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with talking(tmp_path) as talk:
            one = await made(talk, title="T", metadata={"a": [1, None]}, model="m")
            assert one == {
                "id": one["id"], "object": "session", "created_at": one["created_at"], "used_at": one["used_at"],
                "title": "T", "model": "m", "messages": 0, "context_tokens": 0, "metadata": {"a": [1, None]},
                "usage": dict.fromkeys(
                    ("prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "reasoning_tokens"), 0
                ),
            }  # fmt: skip
            assert (await talk.request("GET", f"/v1/sessions/{one['id']}")).json() == one
            changed = (await talk.request("PATCH", f"/v1/sessions/{one['id']}", json={"title": "U"})).json()
            assert changed == {**one, "title": "U"}
            body = {"metadata": {"b": 1}, "title": None}
            changed = (await talk.request("PATCH", f"/v1/sessions/{one['id']}", json=body)).json()
            assert changed == {**one, "title": "U", "metadata": {"b": 1}}
            gone = await talk.request("DELETE", f"/v1/sessions/{one['id']}")
            assert gone.json() == {"id": one["id"], "object": "session.deleted", "deleted": True}
            assert await talk.sessions() == []

    run(scenario())


def test_a_session_begins_with_what_was_said_before(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with talking(tmp_path) as talk:
            said = [system("Be brief."), user("1"), assistant("one"), user("2"), assistant("two")]
            talk.session_id = (await made(talk, messages=said))["id"]
            assert await talk.kept() == said
            (session,) = await talk.sessions()
            assert session["title"] == "1"
            path = f"/v1/sessions/{talk.session_id}/messages"
            assert [one["turn"] for one in (await talk.request("GET", path)).json()["data"]] == [0, 0, 0, 1, 1]
            await talk.say("3")
            assert talk.model.said == ["Be brief.", "1", "one", "2", "two", "3"]

    run(scenario())


def test_lists_are_paged(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with talking(tmp_path) as talk:
            ids = [(await made(talk))["id"] for _ in range(5)]
            first = (await talk.request("GET", "/v1/sessions?limit=3")).json()
            assert [one["id"] for one in first["data"]] == ids[:1:-1]
            assert (first["first_id"], first["last_id"], first["has_more"]) == (ids[4], ids[2], True)
            second = (await talk.request("GET", f"/v1/sessions?limit=3&after={ids[2]}")).json()
            assert ([one["id"] for one in second["data"]], second["has_more"]) == ([ids[1], ids[0]], False)
            empty = (await talk.request("GET", f"/v1/sessions?after={ids[0]}")).json()
            assert empty == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
            talk.session_id = ids[0]
            await talk.say("used last")
            assert (await talk.sessions())[0]["id"] == ids[0]
            wrong = await talk.request("GET", f"/v1/sessions?after={ABSENT}")
            assert (wrong.status_code, wrong.json()["error"]["param"]) == (404, "after")

    run(scenario())


def test_messages_are_paged(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with talking(tmp_path) as talk:
            for number in range(3):
                await talk.say(str(number))
            path = f"/v1/sessions/{talk.session_id}/messages"
            first = (await talk.request("GET", path, params={"limit": 4})).json()
            assert [one["id"] for one in first["data"]] == ["msg_0", "msg_1", "msg_2", "msg_3"]
            assert [(one["index"], one["turn"]) for one in first["data"]] == [(0, 0), (1, 0), (2, 1), (3, 1)]
            assert (first["last_id"], first["has_more"]) == ("msg_3", True)
            rest = (await talk.request("GET", path, params={"limit": 4, "after": "msg_3"})).json()
            assert ([one["content"] for one in rest["data"]], rest["has_more"]) == (["2", ANSWER], False)
            assert (await talk.request("GET", path, params={"after": "msg_99"})).json()["data"] == []

    run(scenario())


@pytest.mark.parametrize("limit", ["0", "101", "-1", "x", "", "1.5", "٣", "9" * 50])
def test_a_page_has_a_limit(tmp_path: Path, limit: str) -> None:
    async def scenario() -> None:
        async with talking(tmp_path) as talk:
            talk.session_id = (await made(talk))["id"]
            for path in ("/v1/sessions", f"/v1/sessions/{talk.session_id}/messages"):
                response = await talk.request("GET", path, params={"limit": limit})
                assert (response.status_code, response.json()["error"]["param"]) == (400, "limit")

    run(scenario())


BAD_BODIES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown field": ({"titel": "x"}, "titel"),
    "title no string": ({"title": 7}, "title"),
    "title too long": ({"title": "x" * 201}, "title"),
    "metadata no object": ({"metadata": []}, "metadata"),
    "metadata too large": ({"metadata": {"a": "x" * 17_000}}, "metadata"),
}
BAD_NEW: dict[str, tuple[dict[str, Any], str]] = {
    "no messages": ({"messages": []}, "messages"),
    "bad message": ({"messages": [{"role": "king", "content": ""}]}, "messages[0].role"),
    "model no string": ({"model": 7}, "model"),
    "both beginnings": ({"messages": [user("x")], "copy_of": ABSENT}, "messages"),
    "count of nothing": ({"n_messages": 2}, "n_messages"),
    "count of none": ({"copy_of": ABSENT, "n_messages": 0}, "n_messages"),
}


@pytest.mark.parametrize("fault", [*BAD_BODIES, *BAD_NEW])
def test_bad_bodies_change_nothing(tmp_path: Path, fault: str) -> None:
    async def scenario() -> None:
        async with talking(tmp_path) as talk:
            one = await made(talk, title="T")
            body, param = (BAD_BODIES | BAD_NEW)[fault]
            asked = [("POST", "/v1/sessions")]
            if fault in BAD_BODIES:
                asked.append(("PATCH", f"/v1/sessions/{one['id']}"))
            for method, path in asked:
                response = await talk.request(method, path, json=body)
                assert (response.status_code, response.json()["error"]["param"]) == (400, param)
            assert await talk.sessions() == [one]

    run(scenario())


def test_copies_go_their_own_way(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with talking(tmp_path) as talk:
            for text in ("1", "2", "3"):
                await talk.say(system("S"), user(text))
            original = await talk.kept()
            copy = await made(talk, copy_of=talk.session_id, n_messages=3)
            assert (copy["title"], copy["model"], copy["messages"]) == ("1", "scripted", 3)
            named = await made(talk, copy_of=talk.session_id, title="Mine", n_messages=10**9)
            assert (named["title"], named["messages"]) == ("Mine", 7)
            other = Talk(talk.server, session_id=copy["id"])
            await other.say("other")
            assert await other.texts() == ["S", "1", ANSWER, "other", ANSWER]
            assert await talk.kept() == original
            missing = await talk.request("POST", "/v1/sessions", json={"copy_of": ABSENT})
            assert (missing.status_code, missing.json()["error"]["param"]) == (404, "copy_of")

    run(scenario())


# --- export and import -----------------------------------------------------------------------------------------------


async def export(talk: Talk) -> bytes:
    response = await talk.request("GET", f"/v1/sessions/{talk.session_id}/export")
    assert response.headers["content-type"] == "application/jsonl"
    assert response.headers["content-disposition"] == f'attachment; filename="session-{talk.session_id}.jsonl"'
    return response.content


def test_an_export_comes_back_as_the_same_conversation(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with talking(tmp_path) as talk:
            await talk.say(system("Be kind. 🙂"), user("line\nbreak\u2028"))
            for number in range(120):
                await talk.say(str(number))
            await talk.request("PATCH", f"/v1/sessions/{talk.session_id}", json={"metadata": {"x": 1}})
            lines = await export(talk)
            kept = await talk.kept()
            head, *rest = map(json.loads, lines.splitlines())
            assert (head["object"], head["format"], head["messages"], len(rest)) == ("session.export", 1, 243, 243)
            for content in (lines, lines.rstrip(b"\n"), lines.replace(b"\n", b"\r\n\r\n")):
                response = await talk.request("POST", "/v1/sessions/import", content=content, headers=LINES)
                assert response.status_code == 201, response.text
                taken = response.json()
                assert taken["id"] != talk.session_id
                assert [taken[name] for name in ("title", "model", "metadata", "messages")] == [
                    "line break", "scripted", {"x": 1}, 243,
                ]  # fmt: skip
                other = Talk(talk.server, session_id=taken["id"])
                assert await other.kept() == kept
                path = f"/v1/sessions/{taken['id']}/messages?after=msg_200"
                assert (await talk.request("GET", path)).json()["data"][0]["turn"] == 100

    run(scenario())


HEAD = {"object": "session.export", "format": 1}


def lines_of(*lines: Any) -> bytes:
    return b"\n".join(one if isinstance(one, bytes) else json.dumps(one).encode() for one in lines)


def line(text: str, turn: Any = 0) -> dict[str, Any]:
    return {"turn": turn, "message": user(text)}


BAD_IMPORTS: dict[str, tuple[bytes, str | None]] = {
    "nothing": (b"", None),
    "white space": (b"\n \r\n", None),
    "no JSON": (b"{", None),
    "no export": (lines_of({"object": "session"}), "object"),
    "later format": (lines_of({"object": "session.export", "format": 2}), "object"),
    "bad title": (lines_of({**HEAD, "title": 7}), "title"),
    "large metadata": (lines_of({**HEAD, "metadata": {"a": "x" * 20_000}}), "metadata"),
    "no message": (lines_of(HEAD, {"turn": 0}), "message"),
    "no turn": (lines_of(HEAD, {"message": user("x")}), "turn"),
    "turn of truth": (lines_of(HEAD, line("x", True)), "turn"),
    "turns back": (lines_of(HEAD, line("x", 3), line("y", 2)), "turn"),
    "bad role": (lines_of(HEAD, line("x"), {"turn": 0, "message": {"role": "king", "content": ""}}), "role"),
    "cut": (lines_of({**HEAD, "messages": 3}, line("x"), line("y")), "messages"),
    "cut in a line": (lines_of({**HEAD, "messages": 2}, line("x"), line("y"))[:-2], None),
    "deep": (lines_of(HEAD, b'{"turn":0,"message":' + b"[" * 100 + b"]" * 100 + b"}"), None),
    "not UTF-8": (lines_of(HEAD, b'{"turn":0,"message":{"role":"user","content":"\xff"}}'), None),
    "a message that is hidden": (lines_of(HEAD, {"turn": 0, "message": {**user("x"), "replaces": True}}), "replaces"),
    "instructions without end": (lines_of(HEAD, *[{"turn": 0, "message": system("x")}] * 2049), "messages"),
    "numbers that are none": (lines_of({**HEAD, "messages": "x" * 9000}, line("x")), "messages"),
    "half a pair": (lines_of(HEAD, b'{"turn":0,"message":{"role":"user","content":"\\ud800"}}'), None),
}


@pytest.mark.parametrize("fault", BAD_IMPORTS)
def test_a_bad_import_leaves_nothing(tmp_path: Path, fault: str) -> None:
    async def scenario() -> None:
        async with talking(tmp_path) as talk:
            content, param = BAD_IMPORTS[fault]
            response = await talk.request("POST", "/v1/sessions/import", content=content, headers=LINES)
            assert (response.status_code, response.json()["error"]["param"]) == (400, param)
            assert len(response.content) < 1000
            assert await talk.sessions() == []

    run(scenario())


def test_an_import_names_the_line(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with talking(tmp_path) as talk:
            picture = [{"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}]
            for message in ({"role": "user"}, {"role": "user", "content": picture}):
                content = lines_of(HEAD, line("x"), b"", {"turn": 1, "message": message})
                response = await talk.request("POST", "/v1/sessions/import", content=content, headers=LINES)
                assert response.status_code == 400
                assert response.json()["error"]["message"].startswith("Line 4: ")

    run(scenario())


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/jsonl", 201), ("application/x-ndjson; charset=utf-8", 201), ("application/json", 201),
        ("text/plain", 415), ("application/x-www-form-urlencoded", 415), ("", 415),
    ],
)  # fmt: skip
def test_an_import_must_be_something_that_a_web_page_cannot_just_send(tmp_path: Path, kind: str, status: int) -> None:
    async def scenario() -> None:
        async with talking(tmp_path) as talk:
            content = lines_of(HEAD, line("x"))
            response = await talk.request(
                "POST", "/v1/sessions/import", content=content, headers={"content-type": kind}
            )
            assert response.status_code == status

    run(scenario())


def test_an_import_is_bounded(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with talking(tmp_path, max_import_bytes=100_000) as talk:
            content = lines_of(HEAD, *[line("x" * 1000)] * 90)
            assert (
                await talk.request("POST", "/v1/sessions/import", content=content, headers=LINES)
            ).status_code == 201
            content = lines_of(HEAD, *[line("x" * 1000)] * 110)
            refused = await talk.request("POST", "/v1/sessions/import", content=content, headers=LINES)
            error = refused.json()["error"]
            assert (refused.status_code, error["code"], error["limit_bytes"]) == (413, "request_too_large", 100_000)
            assert "plugin.sessions.max_import_bytes" in error["message"], "the setting that helps"
            assert len(await talk.sessions()) == 1

    run(scenario())


# --- ids -------------------------------------------------------------------------------------------------------------

VERBS: dict[str, tuple[str, Callable[[str], str], dict[str, Any]]] = {
    "get": ("GET", lambda one: f"/v1/sessions/{one}", {}),
    "change": ("PATCH", lambda one: f"/v1/sessions/{one}", {"json": {"title": "mine now"}}),
    "delete": ("DELETE", lambda one: f"/v1/sessions/{one}", {}),
    "messages": ("GET", lambda one: f"/v1/sessions/{one}/messages", {}),
    "export": ("GET", lambda one: f"/v1/sessions/{one}/export", {}),
    "after": ("GET", lambda one: f"/v1/sessions?after={one}", {}),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("wrong", [ABSENT, "x", "%20", "a%00b", "%ff", "%F0%9F%99%82", "x" * 300, "new"])
def test_ids_that_are_none(tmp_path: Path, verb: str, wrong: str) -> None:
    async def scenario() -> None:
        async with talking(tmp_path) as talk:
            method, path, options = VERBS[verb]
            response = await talk.request(method, path(wrong), **options)
            assert (response.status_code, response.json()["error"]["code"]) == (404, "session_not_found")

    run(scenario())


def test_a_store_that_is_away_is_a_503(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with talking(tmp_path) as talk:
            talk.store.faults.append(SessionStoreUnavailableError("The file is locked.", retry_after_seconds=2))
            response = await talk.request("POST", "/v1/sessions", json={})
            assert (response.status_code, response.headers["retry-after"]) == (503, "2")

    run(scenario())
