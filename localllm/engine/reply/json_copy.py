"""Reads JSON out of a reply while it arrives: copied character by character, as the model wrote it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from localllm.engine.reply.input import Reading, ReplyInput
from localllm.engine.reply.parts import NotACallError

Write = Callable[[str], None]

_STRUCTURE = re.compile(r'["{}\[\]]')
_IN_STRING = re.compile(r'["\\\x00-\x1f]')
_SCALAR_END = re.compile(r"[\s,:}\]]")


def escape(text: str) -> str:
    """Return ``text`` as it stands in a JSON string, without the quotes."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def copy_value(source: ReplyInput, write: Write) -> Reading[None]:
    """Copy the JSON value that begins here. Only its brackets and strings are looked at, and what is cut stays cut.

    Line ends and other control characters inside strings, which JSON forbids and models write, are escaped.
    """
    first = yield from source.peek()
    if first == '"':
        yield from _copy_string(source, write)
    elif first and first in "{[":
        yield from _copy_container(source, write)
    else:
        yield from _copy_scalar(source, write)


def read_value(source: ReplyInput) -> Reading[str]:
    """Return the text of the JSON value that begins here."""
    pieces: list[str] = []
    yield from copy_value(source, pieces.append)
    return "".join(pieces)


def read_string(source: ReplyInput) -> Reading[str]:
    """Return what the JSON string that begins here says. Raises ``NotACallError`` if there is none."""
    text = yield from read_value(source)
    try:
        value = json.loads(text)
    except ValueError:
        raise NotACallError from None
    if not isinstance(value, str):
        raise NotACallError
    return value


def _copy_container(source: ReplyInput, write: Write) -> Reading[None]:
    depth = 0
    while (yield from source.peek()):
        found = _STRUCTURE.search(source.text, source.at)
        if found is None:
            write(source.text[source.at :])
            source.at = len(source.text)
            continue
        write(source.text[source.at : found.start()])
        source.at = found.start()
        if found[0] == '"':
            yield from _copy_string(source, write)
            continue
        write(found[0])
        source.at += 1
        depth += 1 if found[0] in "{[" else -1
        if depth == 0:
            return


def _copy_string(source: ReplyInput, write: Write) -> Reading[None]:
    write('"')
    source.at += 1
    while (char := (yield from source.peek())) != "":
        if char == '"':
            write(char)
            source.at += 1
            return
        if char == "\\":
            write(char)
            source.at += 1
            char = yield from source.peek()
            write(char)
            source.at += len(char)
        elif char < " ":
            write(escape(char))
            source.at += 1
        else:
            found = _IN_STRING.search(source.text, source.at)
            end = found.start() if found else len(source.text)
            write(source.text[source.at : end])
            source.at = end


def _copy_scalar(source: ReplyInput, write: Write) -> Reading[None]:
    while (yield from source.peek()):
        found = _SCALAR_END.search(source.text, source.at)
        end = found.start() if found else len(source.text)
        write(source.text[source.at : end])
        source.at = end
        if found:
            return
