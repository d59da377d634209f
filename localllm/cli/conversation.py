"""One conversation of ``localllm chat``: what was said, by which model, with which settings; saved and loaded."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from localllm.cli.chat_session import ServerSession

MAX_FILE_BYTES = 16 * 1024 * 1024
_ROLES = {"system", "user", "assistant"}
_OWN_FIELDS = {"messages", "model", "stream", "session_id"}


class ConversationError(Exception):
    """A setting or a file is not what it should be; the message is for the user."""


@dataclass(slots=True)
class Conversation:
    """``turns`` are messages of user and assistant by turns; ``params`` go into every request as they are.

    With a ``session`` the server keeps the conversation as well, and gets only what it doesn't have.
    """

    model: str | None = None
    system: str | None = None
    turns: list[dict[str, str]] = field(default_factory=list)
    params: dict[str, Any] = field(default_factory=dict)
    session: ServerSession | None = None

    @property
    def messages(self) -> list[dict[str, str]]:
        """All that was said here, the system message first."""
        return [*([{"role": "system", "content": self.system}] if self.system else []), *self.turns]

    def request(self) -> dict[str, Any]:
        """Return the body that asks for the next answer."""
        model = {"model": self.model} if self.model else {}
        if self.session is None:
            return {**self.params, **model, "messages": self.messages}
        messages = self.session.news(self.system, self.turns)
        return {**self.params, **model, "session_id": self.session.id, "messages": messages}

    def ask(self, text: str) -> None:
        """Add a question."""
        self.turns.append({"role": "user", "content": text})

    def answer(self, text: str) -> None:
        """Add the answer, or what there is of it."""
        self.turns.append({"role": "assistant", "content": text})

    def take_back_answer(self) -> bool:
        """Remove the last answer, so that its question may be asked again. Say whether there is such a question."""
        if self.turns and self.turns[-1]["role"] == "assistant":
            self.turns.pop()
        return bool(self.turns)

    def take_back_question(self) -> None:
        """Remove a question that got no answer."""
        if self.turns and self.turns[-1]["role"] == "user":
            self.turns.pop()

    def set_params(self, assignments: Iterable[str]) -> None:
        """Take ``name=value`` settings; values are JSON or else text, and an empty one removes the setting.

        Raises :class:`ConversationError`, and then none was taken.
        """
        params = dict(self.params)
        for assignment in assignments:
            name, equals, value = assignment.partition("=")
            if not name or not equals or name in _OWN_FIELDS:
                message = f"{assignment!r}: write a setting as name=value, for example temperature=0.7"
                raise ConversationError(message)
            params.pop(name, None)
            if value:
                params[name] = _json_or_text(value)
        self.params = params

    def save(self, path: Path) -> None:
        """Write it to a file that only its owner can read. Raises :class:`ConversationError`."""
        document = {"model": self.model, "params": self.params, "messages": self.messages}
        try:
            descriptor = os.open(path.expanduser(), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(document, file, ensure_ascii=False, indent=2)
        except OSError as error:
            message = f"{path} can't be written: {error.strerror or error}"
            raise ConversationError(message) from None

    @classmethod
    def load(cls, path: Path) -> Conversation:
        """Read what :meth:`save` wrote. Raises :class:`ConversationError`."""
        try:
            with path.expanduser().open("rb") as file:
                content = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            message = f"{path} can't be read: {error.strerror or error}"
            raise ConversationError(message) from None
        try:
            return cls._from_document(json.loads(content if len(content) <= MAX_FILE_BYTES else b""))
        except (ValueError, TypeError, KeyError, RecursionError):
            message = f"{path} is no conversation that /save wrote"
            raise ConversationError(message) from None

    @classmethod
    def _from_document(cls, document: Mapping[str, Any]) -> Conversation:
        if not isinstance(document["messages"], list):
            raise TypeError
        messages = [{"role": message["role"], "content": message["content"]} for message in document["messages"]]
        model, params = document.get("model"), document.get("params", {})
        if not all(message["role"] in _ROLES and isinstance(message["content"], str) for message in messages):
            raise ValueError
        if not (model is None or isinstance(model, str)) or not isinstance(params, dict):
            raise TypeError
        system = messages.pop(0)["content"] if messages and messages[0]["role"] == "system" else None
        return cls(model, system, messages, {name: value for name, value in params.items() if name not in _OWN_FIELDS})


def _json_or_text(value: str) -> Any:  # noqa: ANN401
    try:
        return json.loads(value)
    except ValueError:
        return value
