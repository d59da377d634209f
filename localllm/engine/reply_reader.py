"""Tells apart, while a reply arrives, what its model thinks, what it says and what it calls."""

from __future__ import annotations

from collections.abc import Sequence

from localllm.contract.chat_format import ReplyRules
from localllm.contract.generation import Region
from localllm.engine.reply.input import Marker, Reading, ReplyInput, first_of, past_space, space_before
from localllm.engine.reply.parts import CallPart, Part, PartList, TextPart
from localllm.engine.reply.sections import CallSections

__all__ = ["CallPart", "Part", "ReplyReader", "TextPart", "needs_reading"]


def needs_reading(rules: ReplyRules) -> bool:
    """Whether replies under these rules may hold anything but content; if not, they need no reader."""
    return bool(rules.thought or rules.calls or rules.content_open or rules.content_close)


class ReplyReader:
    """Reads one reply. ``feed`` it text as it arrives; of what that means, only possible markers are held back.

    Any way to cut a reply into pieces gives the same parts, joined. What looks like a call and is none, or calls what
    is not offered, stays text. White space next to markers belongs to them. For one thread.
    """

    def __init__(self, rules: ReplyRules) -> None:
        self._thinks = rules.in_thought and rules.thought is not None
        self._n_calls_before = 0  # the thought that is open
        self._parts = PartList()
        self._input = ReplyInput()
        self._thought_open = Marker(rules.thought.open if rules.thought else "")
        self._thought_close = Marker(rules.thought.close if rules.thought else "")
        self._content_open = tuple(map(Marker, rules.content_open))
        self._content_close = tuple(map(Marker, rules.content_close))
        self._calls = CallSections(self._input, self._parts, rules.calls, rules.tools) if rules.calls else None
        self._openers = self._calls.openers if self._calls else ()
        self._running = self._read()
        next(self._running)

    @property
    def in_thought(self) -> bool:
        """Whether the text so far ends inside a thought."""
        return self._thinks and self._parts.n_calls == self._n_calls_before

    @property
    def n_calls(self) -> int:
        """How many calls were reported so far."""
        return self._parts.n_calls

    def feed(self, text: str) -> list[Part]:
        """Go on with ``text``; return what is certain now.

        The tokens of ``text`` are reasoning if ``in_thought`` was set before, or is set afterwards.
        """
        self._input.append(text)
        next(self._running)
        return self._parts.take()

    def finish(self) -> list[Part]:
        """End the reply; return what was held back. To be called once."""
        self._input.ended = True
        next(self._running, None)
        return self._parts.take()

    def _read(self) -> Reading[None]:
        """Read the whole reply: thoughts and content, until it ends inside one of them."""
        is_thought = self._thinks
        while True:
            if is_thought:
                yield from self._read_thought()
            is_behind_thought = is_thought
            is_thought = yield from self._read_start(is_behind_thought=is_behind_thought)
            if not is_thought and not (yield from self._read_content()):
                return

    def _read_start(self, *, is_behind_thought: bool) -> Reading[bool]:
        """Read what may stand only where something begins; return whether that is a thought."""
        if (yield from self._take((self._thought_open,))):
            self._thinks = True
            return True
        is_opened = yield from self._take(self._content_open)
        is_called = not is_opened and self._calls is not None and (yield from self._calls.read_bare())
        if is_opened or (is_behind_thought and not is_called):
            yield from self._skip_line_ends()
        return False

    def _read_thought(self) -> Reading[None]:
        self._n_calls_before = self._parts.n_calls
        yield from self._take((self._thought_open,))  # written once more, though the prompt had opened it
        yield from self._skip_line_ends()
        while True:
            yield from self._pass_on("reasoning", (self._thought_close, *self._openers))
            is_closed = yield from self._take((self._thought_close,))
            if is_closed or (self._calls and (yield from self._calls.read())):  # a call ends a thought that is open
                self._thinks = False
                return
            if not self._give_on("reasoning"):
                return

    def _read_content(self) -> Reading[bool]:
        """Read content, and calls amid it; return whether something else begins, or else the reply has ended."""
        while True:
            yield from self._pass_on("content", (*self._openers, *self._content_close))
            if (yield from self._close_content()):
                return True
            if self._calls and (yield from self._calls.read()):
                continue
            if not self._give_on("content"):
                return False

    def _close_content(self) -> Reading[bool]:
        """Read a marker that closes content, if it stands here and content doesn't go on behind it."""
        source = self._input
        source.keep()
        yield from source.skip_space()
        if (yield from source.take(self._content_close)):
            at_end = (yield from source.skip_space()) == ""
            n_read = source.n_kept
            if at_end or (yield from source.take((self._thought_open, *self._content_open, *self._openers))):
                source.rewind(n_read)
                return True
        source.rewind()
        return False

    def _take(self, markers: Sequence[Marker]) -> Reading[bool]:
        """Read one of ``markers`` and the white space before it, if one stands here."""
        source = self._input
        source.keep()
        yield from source.skip_space()
        if (yield from source.take(markers)):
            source.forget()
            return True
        source.rewind()
        return False

    def _pass_on(self, region: Region, markers: Sequence[Marker]) -> Reading[None]:
        """Pass text on up to where a marker may begin, or white space before it, or before the reply's end."""
        source = self._input
        while True:
            marker_at = first_of(markers, source.text, source.at)
            stop = space_before(source.text, source.at, marker_at)
            self._parts.add_text(region, source.text[source.at : stop], source.position)
            source.at = stop
            if marker_at < len(source.text) or source.ended:
                return
            yield

    def _give_on(self, region: Region) -> bool:
        """Pass on the first character behind white space: no marker begins there. Return whether there is one."""
        source = self._input
        end = past_space(source.text, source.at) + 1
        self._parts.add_text(region, source.text[source.at : end], source.position)
        source.at = min(end, len(source.text))
        return end <= len(source.text)

    def _skip_line_ends(self) -> Reading[None]:
        source = self._input
        while (char := (yield from source.peek())) and char in "\r\n":
            source.at += 1
