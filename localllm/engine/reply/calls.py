"""What all readers of tool calls have in common: names, and text up to a marker."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from localllm.contract.chat_format import CallFormat, Tool
from localllm.engine.reply.input import MORE, NO, Marker, Reading, ReplyInput
from localllm.engine.reply.parts import NotACallError, PartList
from localllm.engine.reply.values import ANY_KIND, ArgumentKinds

MAX_ID_CHARS = 64
_MAX_BETWEEN_CHARS = 128  # behind a name: an id, or a channel and the type of what follows

_PREFIX = "functions."
_MAX_NAME_CHARS = 256
_NAME_CHAR = re.compile(r"[\w.-]")


class CallReader(ABC):
    """Reads calls of one style. ``read`` stands behind what opens a call and reads up to what closes it."""

    def __init__(self, source: ReplyInput, parts: PartList, calls: CallFormat, tools: Sequence[Tool]) -> None:
        self._source = source
        self._parts = parts
        self._kinds = {tool.name: ArgumentKinds(tool.parameters) for tool in tools}
        self._name_end = Marker(calls.name_end)
        self._name_close = Marker(calls.name_close)
        self._call_close = Marker(calls.call_close)
        marks = {calls.name_end[:1], calls.name_close[:1]}
        odd = {char for name in self._kinds for char in name if not _NAME_CHAR.match(char)} - marks
        self._name_char = re.compile(rf"[\w.\-{re.escape(''.join(sorted(odd)))}]")
        self._max_name_chars = max(map(len, self._kinds), default=_MAX_NAME_CHARS) + len(_PREFIX)

    @abstractmethod
    def read(self) -> Reading[None]:
        """Read a call and report it. Raises ``NotACallError``; what was reported by then stays reported."""

    def _begin(self, name: str) -> None:
        """Report the call: from here on it can't be taken back."""
        self._parts.begin_call(name)
        self._source.forget()

    def _kinds_of(self, name: str, key: str) -> frozenset[str]:
        kinds = self._kinds.get(name)
        return kinds.of(key) if kinds else ANY_KIND

    def _offered(self, name: str) -> str:
        """Return the name of the offered tool; any name where no tool is known. Raises ``NotACallError``."""
        for candidate in (name, name.removeprefix(_PREFIX)):
            if candidate in self._kinds or (candidate and not self._kinds):
                return candidate
        raise NotACallError

    def _read_name(self) -> Reading[str]:
        """Read the name and what separates it from the arguments."""
        name = yield from self._read_bare_name()
        yield from self._source.skip_space()
        if self._name_end:
            yield from self._read_until(self._name_close, at_most=_MAX_BETWEEN_CHARS)
        elif self._name_close:
            is_separated = bool((yield from self._source.take((self._name_close,))))
            if not (is_separated or (yield from self._stands_here(self._call_close.match_some))):
                raise NotACallError
        return name

    def _read_bare_name(self) -> Reading[str]:
        source = self._source
        yield from source.skip_space()
        name = ""
        while (char := (yield from source.peek())) and self._name_char.match(char) and len(name) < self._max_name_chars:
            name += char
            source.at += 1
        return self._offered(name)

    def _stands_here(self, match: Callable[[str, int], int]) -> Reading[bool]:
        """Whether a marker, told by its ``match``, comes next after white space, which is read."""
        source = self._source
        if match(source.text, len(source.text)) == NO:
            return False  # an empty marker
        while True:
            yield from source.skip_space()
            end = match(source.text, source.at)
            if end != MORE or source.ended:
                return end >= 0
            yield

    def _read_until(self, close: Marker, *, at_most: int | None = None) -> Reading[str]:
        """Read up to ``close``, which is read too, or to the reply's end."""
        text, _ = yield from self._read_to(close, at_most=at_most)
        return text

    def _read_to(self, close: Marker, *, at_most: int | None = None) -> Reading[tuple[str, bool]]:
        """Like ``_read_until``; return also whether ``close`` came."""
        source = self._source
        while True:
            start = close.find(source.text, source.at)
            if at_most is not None and start - source.at > at_most:
                raise NotACallError
            end = close.match(source.text, start)
            if end >= 0 or source.ended:
                start = start if end >= 0 else len(source.text)
                text = source.text[source.at : start]
                source.at = max(end, start)
                return text, end >= 0
            yield
