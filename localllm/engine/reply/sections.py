"""Finds tool calls in a reply: one or several, in a section of their own, one by one, or as bare JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from localllm.contract.chat_format import CallFormat, CallStyle, Tool
from localllm.engine.reply.calls import CallReader
from localllm.engine.reply.input import Marker, Reading, ReplyInput
from localllm.engine.reply.json_calls import JsonCallReader, TaggedJsonCallReader
from localllm.engine.reply.parts import NotACallError, PartList
from localllm.engine.reply.value_calls import PythonicCallReader, TaggedValuesCallReader

_READERS: dict[CallStyle, type[CallReader]] = {
    "json": JsonCallReader,
    "tagged_json": TaggedJsonCallReader,
    "tagged_values": TaggedValuesCallReader,
    "pythonic": PythonicCallReader,
}
_NOTHING = Marker("")


@dataclass(frozen=True, slots=True)
class _Frame:
    """What stands around and between calls."""

    call_open: tuple[Marker, ...] = ()
    call_close: Marker = _NOTHING
    separators: tuple[Marker, ...] = ()
    section_close: Marker = _NOTHING


_BARE = (  # how models write calls as JSON when they forget the markers: what opens a frame, and the frame
    (Marker("```json"), _Frame(separators=(Marker(","),), section_close=Marker("```"))),
    (Marker("```"), _Frame(separators=(Marker(","),), section_close=Marker("```"))),
    (Marker("["), _Frame(separators=(Marker(","),), section_close=Marker("]"))),
    (_NOTHING, _Frame(separators=(Marker(";"), Marker(",")))),
)


class CallSections:
    """Reads the calls of one format. ``openers`` are the markers that calls may begin with, anywhere in a text."""

    def __init__(self, source: ReplyInput, parts: PartList, calls: CallFormat, tools: Sequence[Tool]) -> None:
        self._source = source
        self._parts = parts
        self._reader = _READERS[calls.style](source, parts, calls, tools)
        self._is_json = calls.style == "json"
        self._section_open = Marker(calls.section_open)
        call_open = tuple(Marker(_without_prefix(text)) for text in (calls.call_open, *calls.also_open) if text.strip())
        separators = (Marker(calls.separator),)
        self._frame = _Frame(call_open, Marker(calls.call_close), separators, Marker(calls.section_close))
        self.openers = tuple(opener for opener in (self._section_open, *call_open) if opener and not opener.is_weak)

    def read(self) -> Reading[bool]:
        """Read the calls that begin here, behind white space. Return whether there are any; if not, nothing is read."""
        self._source.keep()
        yield from self._source.skip_space()
        return (yield from self._read_frame(self._section_open, self._frame))

    def read_bare(self) -> Reading[bool]:
        """Like ``read``, for what marks calls only where a reply begins: a bracket."""
        if self._section_open.is_weak and (yield from self.read()):
            return True
        if not self._is_json:
            return False
        for opener, frame in _BARE:
            self._source.keep()
            yield from self._source.skip_space()
            if (yield from self._read_frame(opener, frame)):
                return True
        return False

    def _read_frame(self, section_open: Marker, frame: _Frame) -> Reading[bool]:
        n_before = self._parts.n_calls
        try:
            yield from self._open(section_open, frame)
            yield from self._reader.read()
            while (yield from self._goes_on(frame)):
                yield from self._reader.read()
        except NotACallError:
            self._source.rewind()
        if self._parts.n_calls == n_before:
            self._source.rewind()
            return False
        yield from self._drop_last_space()
        return True

    def _open(self, section_open: Marker, frame: _Frame) -> Reading[None]:
        """Read what opens a section or, where a model leaves that out, a call."""
        source = self._source
        is_section = bool((yield from source.take((section_open,))))
        yield from source.skip_space()
        is_call = bool((yield from source.take(frame.call_open)))
        if not is_call and (frame.call_open or (section_open and not is_section)):
            raise NotACallError

    def _goes_on(self, frame: _Frame) -> Reading[bool]:
        """Read what stands behind a call; return whether that opens another one."""
        source = self._source
        yield from source.take_some(frame.call_close)
        source.keep()
        if (yield from source.take_some(frame.section_close)):
            source.keep()
            return False
        yield from source.skip_space()
        is_separated = bool((yield from source.take(frame.separators)))
        char = yield from source.skip_space()
        if frame.call_open:
            goes_on = bool((yield from source.take(frame.call_open)))
        else:
            goes_on = char == "{" if self._is_json else is_separated
        if not goes_on:
            source.rewind()
            source.keep()
        return goes_on

    def _drop_last_space(self) -> Reading[None]:
        """Drop white space behind calls where nothing follows it."""
        source = self._source
        source.keep()
        if (yield from source.skip_space()):
            source.rewind()
        source.forget()


def _without_prefix(call_open: str) -> str:
    """Leave a namespace behind a tag to the name: some models leave it out."""
    return call_open.removesuffix("functions.") if call_open.endswith(">functions.") else call_open
