"""``localllm chat``: questions from a pipe, a person at a terminal, and its own server where none runs."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from typer.testing import CliRunner

from localllm.cli import app
from localllm.cli.chat_commands import COMMANDS
from localllm.cli.conversation import Conversation, ConversationError
from tests.cli.kit import chat
from tests.stub_server import Stub


def said(stub: Stub, index: int = -1) -> list[str]:
    return [message["content"] for message in stub.bodies[index]["messages"]]


def test_a_pipe_has_one_question_a_line(stub: Stub) -> None:
    result = chat(stub, "Hi\n\n  \nAnd?\nlast")
    assert result.stdout == "Hello\nHello\nHello\n"
    assert result.stderr == ""
    assert said(stub) == ["Hi", "Hello", "And?", "Hello", "last"]
    assert stub.bodies[0] == {"messages": [{"role": "user", "content": "Hi"}], "stream": True}


def test_options_go_into_every_request(stub: Stub) -> None:
    chat(stub, "Hi\n", "-m", "tiny", "--system", "Be brief", "--param", "temperature=0", "--param", 'stop=["x"]')
    body = stub.bodies[0]
    assert (body["model"], body["temperature"], body["stop"]) == ("tiny", 0, ["x"])
    assert body["messages"][0] == {"role": "system", "content": "Be brief"}


def test_commands_change_the_conversation(stub: Stub, home: Path) -> None:
    lines = [
        *("/system Be a pirate", "Hi", "/retry", "/params temperature=0.5 max_tokens=9", "/params temperature="),
        *("More", "/save talk.json", "/clear", "/model t", "//etc", "/load talk.json", "/system -", "End"),
    ]
    result = chat(stub, "\n".join(lines))
    assert [body["messages"][-1]["content"] for body in stub.bodies] == ["Hi", "Hi", "More", "/etc", "End"]
    assert said(stub, 1) == ["Be a pirate", "Hi"]
    assert stub.bodies[2]["max_tokens"] == 9
    assert "temperature" not in stub.bodies[2]
    assert stub.bodies[3]["model"] == "t"
    assert said(stub, 3) == ["Be a pirate", "/etc"]
    assert said(stub, 4) == ["Hi", "Hello", "More", "Hello", "End"]
    assert "settings: temperature=0.5 max_tokens=9" in result.stderr
    assert (home / "talk.json").stat().st_mode & 0o077 == 0


def test_help_names_every_command(stub: Stub) -> None:
    shown = chat(stub, "/help\n").stderr
    assert all(f"/{name}" in shown for name in COMMANDS)


def test_models_are_listed_and_a_wrong_one_is_told(stub: Stub) -> None:
    shown = chat(stub, "/model\n/model tinny\n", "-m", "tiny", code=1).stderr
    assert "* tiny  (chat, ready)" in shown
    assert "there is no model 'tinny'; did you mean tiny?" in shown


@pytest.mark.parametrize("leave", ["/exit", "/quit"])
def test_leaving_ends_it_there(stub: Stub, leave: str) -> None:
    assert chat(stub, f"{leave}\nHi\n").stdout == ""


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("/modell", "there is no command /modell; did you mean /model?"),
        ("/params temperature", "write a setting as name=value"),
        ("/params messages=[]", "write a setting as name=value"),
        ("/retry", "there is no question to ask again"),
        ("/save", "name a file"),
        ("/load nothing.json", "nothing.json can't be read"),
        ("/save /no/such/folder/x", "can't be written"),
    ],
)
def test_a_wrong_command_is_told_and_the_rest_goes_on(stub: Stub, line: str, sentence: str) -> None:
    result = chat(stub, f"{line}\nHi\n", code=1)
    assert sentence in result.stderr
    assert result.stdout == "Hello\n"


def test_an_error_of_the_server_costs_one_question(stub: Stub) -> None:
    stub.answers["POST /v1/chat/completions"] = 400, {"error": {"message": "too long", "code": "x"}}
    result = chat(stub, "Hi\n/clear\n", code=1)
    assert (result.stdout, "too long" in result.stderr) == ("", True)


def test_a_server_that_is_named_and_not_there_is_exit_code_3(stub: Stub) -> None:
    result = CliRunner().invoke(app, ["chat", "--url", "127.0.0.1:1"], input="Hi\n")
    assert result.exit_code == 3
    assert "no server answers at http://127.0.0.1:1" in result.stderr


@pytest.mark.parametrize("arguments", [["--param", "x"], ["--load", "missing.json"]])
def test_wrong_options_are_exit_code_2(stub: Stub, arguments: list[str]) -> None:
    chat(stub, "Hi\n", *arguments, code=2)


def test_thoughts_are_not_part_of_a_piped_answer(stub: Stub) -> None:
    stub.thoughts = ["hm", "m"]
    assert chat(stub, "Hi\nOn\n").stdout == "Hello\nHello\n"
    assert said(stub) == ["Hi", "Hello", "On"]


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=30)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=4,
)
OWN_FIELDS = {"messages", "model", "stream", "session_id"}
CONVERSATIONS = st.builds(
    Conversation,
    model=st.none() | TEXT,
    system=st.none() | TEXT.filter(bool),
    turns=st.lists(st.builds(dict, role=st.sampled_from(["user", "assistant"]), content=TEXT), max_size=4),
    params=st.dictionaries(TEXT.filter(lambda name: name not in OWN_FIELDS), JSON, max_size=3),
)


@given(CONVERSATIONS)
def test_a_saved_conversation_comes_back(tmp_path_factory: Any, conversation: Conversation) -> None:
    path = tmp_path_factory.getbasetemp() / "talk.json"
    conversation.save(path)
    assert Conversation.load(path) == conversation


def has_no_messages(value: object) -> bool:
    return not (isinstance(value, dict) and isinstance(value.get("messages"), list))


@given(st.binary(max_size=60) | JSON.filter(has_no_messages).map(lambda value: json.dumps(value).encode()))
@example(b'{"messages": ""}')
@example(b'{"messages": {}}')
@example(b'{"messages": [{}]}')
def test_junk_is_no_conversation(tmp_path_factory: Any, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "junk.json"
    path.write_bytes(content)
    with pytest.raises(ConversationError, match="is no conversation"):
        Conversation.load(path)


# --- a person ---------------------------------------------------------------------------------------------------------


class Person:
    """Types into a pseudo-terminal and reads what appears there."""

    def __init__(self, master: int, process: subprocess.Popen[bytes]) -> None:
        self.master = master
        self.process = process
        self._seen = b""

    def types(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def interrupts_and_sees(self, text: str) -> None:
        """Press Ctrl-C, again if nothing comes of it: one that falls between two keys is lost to Python's readline."""
        for _ in range(10):
            self.process.send_signal(signal.SIGINT)
            if text.encode() in self._seen or select.select([self.master], [], [], 3)[0]:
                break
        self.sees(text)

    def sees(self, text: str) -> str:
        """Wait until ``text`` appears after what was seen before; return all that came."""
        while text.encode() not in self._seen:
            ready, _, _ = select.select([self.master], [], [], 30)
            assert ready, f"{text!r} did not appear, but {self._seen!r}"
            try:
                self._seen += os.read(self.master, 4096)
            except OSError:  # the other side has closed
                raise AssertionError(f"{text!r} did not appear, but {self._seen!r}") from None
        before, _, self._seen = self._seen.partition(text.encode())
        return before.decode("utf-8", "replace")


@contextmanager
def person(stub: Stub, *arguments: str) -> Iterator[Person]:
    import pty

    master, slave = pty.openpty()
    command = [sys.executable, "-m", "localllm", "chat", "--url", stub.url, *arguments]
    environment = {**os.environ, "TERM": "dumb"}
    process = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True
    )
    os.close(slave)
    try:
        yield Person(master, process)
    finally:
        process.kill()
        process.wait()
        os.close(master)


@pytest.mark.process
def test_a_person_talks_stops_an_answer_and_leaves(stub: Stub) -> None:
    with person(stub) as someone:
        someone.sees("/help lists the commands")
        someone.sees(">>> ")
        someone.types("Hi\n")
        someone.sees("Hello")
        someone.sees(">>> ")
        stub.hold, stub.pieces = True, ["never ending"]
        someone.types("On\n")
        someone.sees("never ending")
        someone.process.send_signal(signal.SIGINT)
        someone.sees("(stopped)")
        assert stub.left.wait(30), "the server must learn that nobody waits any more"
        someone.sees(">>> ")
        stub.hold = False
        someone.types("half a li")
        someone.sees("half a li")
        someone.interrupts_and_sees("leaves)")
        someone.sees(">>> ")
        someone.types("two \\\nlines\n")
        someone.sees("never ending")
        someone.sees(">>> ")
        someone.types("\x04")
        assert someone.process.wait(30) == 0
    assert said(stub) == ["Hi", "Hello", "On", "never ending", "two \nlines"]


@pytest.mark.process
def test_a_models_words_do_not_drive_the_terminal(stub: Stub) -> None:
    stub.thoughts, stub.pieces = ["think\x1b[31m"], ["a\x1b]0;title\x07b\x9b"]
    with person(stub) as someone:
        someone.sees(">>> ")
        someone.types("Hi\n")
        assert "\x1b[2mthink\\x1b[31m\x1b[0m" in someone.sees("a\\x1b]0;title\\x07b\\x9b")


@pytest.mark.process
def test_an_error_leaves_a_person_where_they_are(stub: Stub) -> None:
    stub.answers["POST /v1/chat/completions"] = 503, {"error": {"message": "full up", "code": "overloaded"}}
    with person(stub) as someone:
        someone.sees(">>> ")
        someone.types("Hi\n")
        someone.sees("full up")
        someone.sees(">>> ")
        someone.types("/exit\n")
        assert someone.process.wait(30) == 0
