"""A conversation that the server keeps: what it knows already, and going back by one answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from localllm.cli.api import ServerApi

NEW = "new"
_PAGE = 100


@dataclass(slots=True)
class ServerSession:
    """A session by its id, "new" until its first answer. ``n_told`` of the conversation's turns are in it.

    ``told_system`` is the system message that was sent last; None where it may have any.
    """

    id: str = NEW
    n_told: int = 0
    told_system: str | None = None

    @property
    def path(self) -> str:
        """Where the server has it."""
        return session_path(self.id)

    def news(self, system: str | None, turns: Sequence[dict[str, str]]) -> list[dict[str, str]]:
        """Return the messages that it doesn't have yet. A system message that was taken away is sent empty."""
        head = [] if system == self.told_system else [{"role": "system", "content": system or ""}]
        return [*head, *turns[self.n_told :]]

    def note(self, session_id: str, system: str | None, n_turns: int) -> None:
        """Take note that it has everything now."""
        self.id, self.told_system, self.n_told = session_id, system, n_turns

    def go_back(self, api: ServerApi) -> None:
        """Go on in a copy without the last turn; the session itself stays as it is."""
        n_messages = api.get(self.path)["messages"]
        after = f"&after=msg_{n_messages - _PAGE - 1}" if n_messages > _PAGE else ""
        messages: list[dict[str, Any]] = api.get(f"{self.path}/messages?limit={_PAGE}{after}")["data"]
        first = min((one["index"] for one in messages if one["turn"] == messages[-1]["turn"]), default=0)
        body = {"copy_of": self.id, "n_messages": first}
        self.id = api.post("/v1/sessions", body)["id"] if first else NEW
        self.told_system = None
        self.n_told = max(0, self.n_told - 2)  # the question and its answer


def session_path(session_id: str) -> str:
    """Return where the server has a session."""
    return f"/v1/sessions/{quote(session_id, safe='')}"


def session_line(session: dict[str, Any]) -> str:
    """Return a session as one line."""
    return f"{session['id']}  {session['title'] or '(no title)'}  ({session['messages']} messages)"
