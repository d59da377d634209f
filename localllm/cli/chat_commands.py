"""The slash commands of ``localllm chat``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from localllm.cli.api import ServerApi
from localllm.cli.chat_session import NEW, ServerSession, session_line, session_path
from localllm.cli.conversation import Conversation, ConversationError
from localllm.config.errors import nearest


class Leave(Exception):  # noqa: N818 - a wish, not a fault
    """The user wants to end the conversation."""


class ChatAccess(Protocol):
    """What a command may do with the running chat."""

    conversation: Conversation

    @property
    def api(self) -> ServerApi:
        """The server that answers."""
        ...

    def say(self, text: str) -> None:
        """Print a line that is no answer."""
        ...

    def answer(self) -> None:
        """Have the last question answered."""
        ...


@dataclass(frozen=True, slots=True)
class Command:
    """One command. ``run`` gets the chat and what stands behind the command's name."""

    arguments: str
    help: str
    run: Callable[[ChatAccess, str], None]


def run_command(chat: ChatAccess, line: str) -> None:
    """Run ``line``, a command without its slash. Raises ``ConversationError``, ``Leave`` and what the server says."""
    name, _, argument = line.partition(" ")
    command = COMMANDS.get(name)
    if command is None:
        match = nearest(name, COMMANDS)
        advice = f"did you mean /{match}?" if match else "/help lists the commands"
        message = f"there is no command /{name}; {advice} (a question that begins with a slash is written with two)"
        raise ConversationError(message)
    command.run(chat, argument.strip())


def _help(chat: ChatAccess, argument: str) -> None:
    for name, command in COMMANDS.items():
        chat.say(f"/{f'{name} {command.arguments}'.strip():<24} {command.help}")


def _exit(chat: ChatAccess, argument: str) -> None:
    raise Leave


def _clear(chat: ChatAccess, argument: str) -> None:
    chat.conversation.turns.clear()
    if chat.conversation.session is not None:
        chat.conversation.session = ServerSession()
    chat.say("the conversation begins anew")


def _system(chat: ChatAccess, argument: str) -> None:
    if argument:
        chat.conversation.system = None if argument == "-" else argument
    chat.say(f"system message: {chat.conversation.system or '(none)'}")


def _model(chat: ChatAccess, argument: str) -> None:
    models = chat.api.get("/v1/models").get("data", [])
    if not argument:
        for model in models:
            mark = "*" if model["id"] == chat.conversation.model else " "
            chat.say(f"{mark} {model['id']}  ({model.get('type', 'chat')}, {model.get('state', 'unknown')})")
        return
    known = {name for model in models for name in (model["id"], *model.get("aliases", []))}
    if argument.removesuffix(".gguf") not in known and argument not in known:
        match = nearest(argument, known)
        message = f"there is no model {argument!r}" + (f"; did you mean {match}?" if match else "; /model lists them")
        raise ConversationError(message)
    chat.conversation.model = argument
    chat.say(f"{argument} answers from now on")


def _retry(chat: ChatAccess, argument: str) -> None:
    if not chat.conversation.take_back_answer():
        message = "there is no question to ask again"
        raise ConversationError(message)
    session = chat.conversation.session
    if session is not None and session.n_told > len(chat.conversation.turns):
        session.go_back(chat.api)
        chat.say("in a new session" if session.id == NEW else f"in {session.id}, a copy without the last answer")
    chat.answer()


def _session(chat: ChatAccess, argument: str) -> None:
    conversation = chat.conversation
    if argument == "-":
        conversation.session = None
        chat.say("what follows stays in this terminal")
    elif argument == NEW:
        conversation.session = ServerSession()
        chat.say("the server keeps this conversation from the next question on")
    elif argument:
        chat.say(session_line(chat.api.get(session_path(argument))))
        conversation.session, conversation.system = ServerSession(argument), None
        conversation.turns.clear()
    elif conversation.session is None:
        chat.say("no session: this conversation is in this terminal only; /session new has the server keep it")
    elif conversation.session.id == NEW:
        chat.say("a session begins with the next question")
    else:
        chat.say(session_line(chat.api.get(conversation.session.path)))


def _sessions(chat: ChatAccess, argument: str) -> None:
    page = chat.api.get("/v1/sessions?limit=100")
    current = chat.conversation.session
    for session in page["data"]:
        mark = "*" if current is not None and current.id == session["id"] else " "
        chat.say(f"{mark} {session_line(session)}")
    if not page["data"]:
        chat.say("there are no sessions; /session new begins one")


def _params(chat: ChatAccess, argument: str) -> None:
    chat.conversation.set_params(argument.split())
    params = chat.conversation.params
    shown = " ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in params.items())
    chat.say(f"settings: {shown or '(the defaults)'}")


def _save(chat: ChatAccess, argument: str) -> None:
    path = _path(argument, "/save FILE")
    chat.conversation.save(path)
    chat.say(f"saved to {path}")


def _load(chat: ChatAccess, argument: str) -> None:
    chat.conversation = Conversation.load(_path(argument, "/load FILE"))
    chat.say(
        f"loaded {len(chat.conversation.turns)} messages; {chat.conversation.model or 'the default model'} answers"
    )


def _path(argument: str, usage: str) -> Path:
    if not argument:
        message = f"name a file: {usage}"
        raise ConversationError(message)
    return Path(argument)


COMMANDS: Mapping[str, Command] = {
    "help": Command("", "list the commands", _help),
    "model": Command("[ID]", "list the models, or have another one answer", _model),
    "system": Command("[TEXT]", "show or set the system message; - removes it", _system),
    "params": Command("[NAME=VALUE ...]", "show or set fields of the requests; NAME= removes one", _params),
    "session": Command("[ID]", "show the session, go on with another, begin one (new), or leave it (-)", _session),
    "sessions": Command("", "list the sessions that the server keeps", _sessions),
    "retry": Command("", "ask the last question again", _retry),
    "clear": Command("", "forget what was said; system message and settings stay", _clear),
    "save": Command("FILE", "write the conversation to a file", _save),
    "load": Command("FILE", "go on with one that /save wrote", _load),
    "exit": Command("", "leave, as Ctrl-D does", _exit),
    "quit": Command("", "the same", _exit),
}
