"""``localllm chat --session``: the server keeps the conversation, and gets only what it doesn't have yet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from localllm.cli import app
from tests.cli.kit import chat
from tests.stub_server import Stub

SESSION = {"id": "s-1", "title": "About names", "messages": 4}


@pytest.fixture
def stub(stub: Stub) -> Stub:
    stub.told = {"session_id": "s-1"}
    stub.answers["GET /v1/sessions/s-1"] = 200, SESSION
    return stub


def sent(stub: Stub) -> list[tuple[Any, list[str]]]:
    return [(body.get("session_id"), [one["content"] for one in body["messages"]]) for body in stub.bodies]


def test_a_new_session_gets_each_question_once(stub: Stub) -> None:
    assert chat(stub, "Hi\nAnd?\n", "--session", "new").stdout == "Hello\nHello\n"
    assert sent(stub) == [("new", ["Hi"]), ("s-1", ["And?"])]


def test_an_old_session_goes_on_and_is_shown(stub: Stub) -> None:
    assert "s-1  About names  (4 messages)" in chat(stub, "Hi\n", "--session", "s-1").stderr
    assert sent(stub) == [("s-1", ["Hi"])]


def test_a_session_that_is_not_there_is_told_at_once(stub: Stub) -> None:
    result = CliRunner().invoke(app, ["chat", "--url", stub.url, "--session", "a/b"], input="Hi\n")
    assert result.exit_code != 0
    assert "no such thing" in result.stderr
    assert stub.asked[-1][0] == "GET /v1/sessions/a%2Fb"
    assert stub.bodies == []


def test_the_system_message_is_sent_when_it_changes(stub: Stub) -> None:
    chat(stub, "1\n2\n/system B\n3\n4\n/system -\n5\n6\n", "--session", "new", "--system", "A")
    assert [texts for _, texts in sent(stub)] == [["A", "1"], ["2"], ["B", "3"], ["4"], ["", "5"], ["6"]]


def test_what_was_said_before_goes_into_a_new_session(stub: Stub) -> None:
    stub.answers["GET /v1/sessions?limit=100"] = 200, {"data": [SESSION, {**SESSION, "id": "s-2", "title": ""}]}
    shown = chat(stub, "1\n/session\n/session new\n/session\n2\n/session\n/sessions\n/session -\n3\n").stderr
    assert sent(stub) == [(None, ["1"]), ("new", ["1", "Hello", "2"]), (None, ["1", "Hello", "2", "Hello", "3"])]
    lines = [line for line in shown.splitlines() if line]
    assert "this conversation is in this terminal only" in lines[0]
    assert "a session begins with the next question" in lines[2]
    assert lines[3:6] == [
        "s-1  About names  (4 messages)", "* s-1  About names  (4 messages)", "  s-2  (no title)  (4 messages)",
    ]  # fmt: skip


def test_another_session_begins_with_nothing_of_this_one(stub: Stub) -> None:
    chat(stub, "1\n/session s-1\n2\n/clear\n3\n", "--system", "A")
    assert sent(stub) == [(None, ["A", "1"]), ("s-1", ["2"]), ("new", ["3"])]


def test_no_sessions_are_told(stub: Stub) -> None:
    stub.answers["GET /v1/sessions?limit=100"] = 200, {"data": []}
    assert "there are no sessions" in chat(stub, "/sessions\n").stderr


def messages(*turns: int) -> dict[str, Any]:
    return {"data": [{"index": index, "turn": turn} for index, turn in enumerate(turns)]}


def test_retrying_goes_on_in_a_copy_without_the_last_turn(stub: Stub) -> None:
    stub.answers["GET /v1/sessions/s-1/messages?limit=100"] = 200, messages(0, 0, 1, 1)
    stub.answers["POST /v1/sessions"] = 201, {"id": "s-9"}
    shown = chat(stub, "1\n2\n/retry\n", "--session", "new").stderr
    assert "in s-9, a copy without the last answer" in shown
    assert ("POST /v1/sessions", {"copy_of": "s-1", "n_messages": 2}) in stub.asked
    assert sent(stub) == [("new", ["1"]), ("s-1", ["2"]), ("s-9", ["2"])]


def test_retrying_the_first_question_begins_anew(stub: Stub) -> None:
    stub.answers["GET /v1/sessions/s-1/messages?limit=100"] = 200, messages(0, 0, 0)
    assert "in a new session" in chat(stub, "1\n/retry\n", "--session", "new", "--system", "A").stderr
    assert sent(stub) == [("new", ["A", "1"]), ("new", ["A", "1"])]


def test_a_failed_question_is_not_counted_as_told(stub: Stub) -> None:
    stub.answers["GET /v1/models"] = 500, {}
    failing = 507, {"error": {"message": "the disk is full", "code": "session_storage_full"}}
    stub.answers["POST /v1/chat/completions"] = failing
    assert "the disk is full" in chat(stub, "Lost\n", "--session", "new", code=1).stderr
    del stub.answers["POST /v1/chat/completions"]
    chat(stub, "1\n2\n", "--session", "new")
    assert sent(stub) == [("new", ["1"]), ("s-1", ["2"])]


def test_a_saved_session_is_the_whole_conversation(stub: Stub, home: Path) -> None:
    chat(stub, "1\n2\n/save talk.json\n", "--session", "new", "--system", "A")
    chat(stub, "3\n", "--load", "talk.json", "--session", "new")
    assert sent(stub)[-1] == ("new", ["A", "1", "Hello", "2", "Hello", "3"])
