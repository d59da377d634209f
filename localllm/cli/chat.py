"""``localllm chat``: a conversation in the terminal, or one question a line where there is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TextIO

import typer

from localllm.cli.api import AnswerError, ServerApi, ServerUnreachableError
from localllm.cli.chat_commands import COMMANDS, Leave, run_command
from localllm.cli.chat_session import NEW, ServerSession, session_line, session_path
from localllm.cli.conversation import Conversation, ConversationError
from localllm.cli.failure import CONFIG_ERROR, RUNTIME_ERROR

PROMPT = ">>> "
CONTINUED = "... "

_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"
_ESCAPED_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n"}


def run_chat(
    model: str | None,
    system: str | None,
    params: Sequence[str],
    load: Path | None,
    session: str | None,
    url: str | None,
    config: Path | None,
    overrides: Sequence[str],
) -> int:
    """Talk until the input ends, and return the exit code. Starts a server where none runs and no ``url`` is given.

    Raises ``ConfigError``, ``ServerUnreachableError`` and ``AnswerError``.
    """
    try:
        conversation = Conversation.load(load) if load is not None else Conversation()
        conversation.set_params(params)
    except ConversationError as error:
        typer.echo(str(error), err=True)
        return CONFIG_ERROR
    conversation.model = model or conversation.model
    conversation.system = system if system is not None else conversation.system
    conversation.session = None if session is None else ServerSession(session)
    with _reach_server(url, config, overrides) as api:
        if session is not None and session != NEW:
            typer.echo(session_line(api.get(session_path(session))), err=True)
        if sys.stdin.isatty() and sys.stdout.isatty():
            return Chat(api, conversation, _Terminal(), sys.stdout, is_terminal=True).run()
        return Chat(api, conversation, _Lines(sys.stdin), sys.stdout, is_terminal=False).run()


@contextmanager
def _reach_server(url: str | None, config: Path | None, overrides: Sequence[str]) -> Iterator[ServerApi]:
    from localllm.cli.background_server import background_server
    from localllm.cli.find_server import find_server, read_server

    server = read_server(config, overrides)
    api = find_server(url, config, overrides) if url is not None or server.port else None
    if api is not None and (url is not None or api.answers()):
        yield api
        return
    typer.echo("no server runs; starting one for this conversation", err=True)
    with background_server(config, overrides, server.api_keys[0] if server.api_keys else None) as own:
        yield own


class _Terminal:
    """Questions from a person, with line editing where Python has it. A line that ends with a backslash goes on."""

    def __init__(self) -> None:
        try:
            import readline
        except ImportError:  # Windows, and some builds of Python
            return
        readline.set_completer(self._complete)
        readline.set_completer_delims(" ")
        readline.parse_and_bind("tab: complete")

    def read(self) -> str | None:
        """Return the next question, None at the end. Ctrl-C drops the line that is being written."""
        lines: list[str] = []
        while True:
            try:
                line = input(CONTINUED if lines else PROMPT)
            except EOFError:
                sys.stdout.write("\n")
                return None
            except KeyboardInterrupt:
                sys.stdout.write("\n(Ctrl-D or /exit leaves)\n")
                lines.clear()
                continue
            if not line.endswith("\\"):
                return "\n".join([*lines, line])
            lines.append(line[:-1])

    @staticmethod
    def _complete(text: str, state: int) -> str | None:
        found = [f"/{name}" for name in COMMANDS if text.startswith("/") and f"/{name}".startswith(text)]
        return found[state] if state < len(found) else None


class _Lines:
    """Questions from a pipe or a file, one a line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def read(self) -> str | None:
        line = self._stream.readline()
        return line.rstrip("\n") if line else None


class Chat:
    """The loop of one conversation. ``run_command`` and tests use it too."""

    def __init__(
        self,
        api: ServerApi,
        conversation: Conversation,
        source: _Terminal | _Lines,
        out: TextIO,
        *,
        is_terminal: bool,
    ) -> None:
        self.api = api
        self.conversation = conversation
        self._source = source
        self._out = out
        self._is_terminal = is_terminal
        self._failed = False

    def run(self) -> int:
        """Answer until the input ends or somebody leaves. Return the exit code: a person has seen what went wrong."""
        if self._is_terminal:
            self.say(f"{self.conversation.model or 'the default model'} at {self.api.url}; /help lists the commands")
        while (line := self._source.read()) is not None:
            try:
                self._take(line)
            except Leave:
                break
            except (AnswerError, ConversationError) as error:
                self._fail(str(error))
            except ServerUnreachableError as error:
                if not self._is_terminal:
                    raise
                self._fail(str(error))
        return RUNTIME_ERROR if self._failed and not self._is_terminal else 0

    def say(self, text: str) -> None:
        """Print a line that is no answer."""
        typer.echo(text, err=not self._is_terminal)

    def answer(self) -> None:
        """Have the last question answered, and print the answer as it comes. Ctrl-C stops the answer and nothing else.

        Raises ``AnswerError`` and ``ServerUnreachableError``; then the question counts as not asked.
        """
        said: list[str] = []
        session, session_id = self.conversation.session, None
        try:
            with closing(self.api.stream("/v1/chat/completions", self.conversation.request())) as events:
                session_id = self._print_answer(events, said)
        except KeyboardInterrupt:
            if not self._is_terminal:
                raise
            self._out.write("\n(stopped)" if session is None else "\n(stopped; the session has nothing of it)")
            if session is not None:
                said.clear()
        except (AnswerError, ServerUnreachableError):
            self._out.write("\n" if said else "")
            self.conversation.take_back_question()
            raise
        self._out.write("\n")
        self._out.flush()
        if said:
            self.conversation.answer("".join(said))
        else:
            self.conversation.take_back_question()
        if session is not None and session_id is not None:
            session.note(session_id, self.conversation.system, len(self.conversation.turns))

    def _take(self, line: str) -> None:
        text = line.strip()
        if text.startswith("/") and not text.startswith("//"):
            run_command(self, text[1:])
        elif text:
            self.conversation.ask(text.removeprefix("/"))
            self.answer()

    def _print_answer(self, events: Iterator[dict[str, Any]], said: list[str]) -> str | None:
        """Print an answer and collect it in ``said``; return the id of the session that has it, if one does.

        Thoughts are shown to a person, dimmed, and are no part of it.
        """
        thinking = False
        session_id: str | None = None
        for event in events:
            session_id = event.get("session_id") or session_id
            for choice in event.get("choices") or []:
                delta: Mapping[str, Any] = choice.get("delta") or {}
                thought, content = delta.get("reasoning_content") or delta.get("reasoning"), delta.get("content")
                if thought and self._is_terminal:
                    self._out.write("" if thinking else _DIM)
                    thinking = True
                    self._write(thought)
                if content:
                    self._out.write(f"{_PLAIN}\n" if thinking else "")
                    thinking = False
                    said.append(content)  # first: Ctrl-C may come in between, and what was seen was said
                    self._write(content)
        self._out.write(_PLAIN if thinking else "")
        return session_id

    def _write(self, text: str) -> None:
        """Print a piece at once. What a model says must not drive the terminal; a pipe gets it as it is."""
        self._out.write(text.translate(_ESCAPED_CONTROLS) if self._is_terminal else text)
        self._out.flush()

    def _fail(self, sentence: str) -> None:
        self._failed = True
        typer.echo(sentence, err=True)
