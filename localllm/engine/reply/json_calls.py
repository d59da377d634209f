"""Reads calls whose arguments are JSON: alone in an object with the name, or behind the name in tags."""

from __future__ import annotations

import json
from collections.abc import Sequence

from localllm.contract.chat_format import CallFormat, Tool
from localllm.engine.reply.calls import CallReader
from localllm.engine.reply.input import Reading, ReplyInput
from localllm.engine.reply.json_copy import copy_value, read_string, read_value
from localllm.engine.reply.parts import NotACallError, PartList

_ARGUMENT_KEYS = ("arguments", "parameters")  # models mix the two up


class JsonCallReader(CallReader):
    """Style ``json``: one object with the name and the arguments under keys of their own, in any order."""

    def __init__(self, source: ReplyInput, parts: PartList, calls: CallFormat, tools: Sequence[Tool]) -> None:
        super().__init__(source, parts, calls, tools)
        self._name_keys = {calls.name_key, "name"} if calls.name_key else set()
        self._argument_keys = {calls.arguments_key, *_ARGUMENT_KEYS}

    def read(self) -> Reading[None]:
        """Read a call and report it, as soon as its name is known and its arguments begin."""
        if (yield from self._source.skip_space()) != "{":
            raise NotACallError
        self._source.at += 1
        call = _Object()
        while (char := (yield from self._source.skip_space())) != "}":
            if char == "," and call.n_keys:
                self._source.at += 1
            elif char == '"':
                yield from self._read_pair(call)
            else:
                raise NotACallError
        self._source.at += 1
        if call.is_reported:
            return
        if not call.name:
            raise NotACallError
        self._begin(call.name)
        self._parts.add_arguments(call.arguments)

    def _read_pair(self, call: _Object) -> Reading[None]:
        source = self._source
        key = yield from read_string(source)
        if (yield from source.skip_space()) != ":":
            raise NotACallError
        source.at += 1
        first = yield from source.skip_space()
        call.n_keys += 1
        is_name_and_arguments = not self._name_keys and call.n_keys == 1
        if is_name_and_arguments:
            call.name = self._offered(key)
        if call.is_reported:
            yield from read_value(source)
        elif key in self._name_keys:
            if first != '"':
                raise NotACallError
            call.name = self._offered((yield from read_string(source)))
        elif is_name_and_arguments or key in self._argument_keys:
            yield from self._read_arguments(call, first)
        else:
            yield from read_value(source)

    def _read_arguments(self, call: _Object, first: str) -> Reading[None]:
        if call.name and first == "{":
            self._begin(call.name)
            call.is_reported = True
            yield from copy_value(self._source, self._parts.add_arguments)
            self._source.keep()  # if the rest is broken, it is text
        else:
            call.arguments = _object_text((yield from read_value(self._source)))


class TaggedJsonCallReader(CallReader):
    """Style ``tagged_json``: the name in a tag of its own, then the arguments."""

    def read(self) -> Reading[None]:
        """Read a call and report it, as soon as its arguments begin."""
        name = yield from self._read_name()
        if (yield from self._source.skip_space()) == "{":
            self._begin(name)
            yield from copy_value(self._source, self._parts.add_arguments)
        elif (yield from self._stands_here(self._call_close.match_some)):
            self._begin(name)
            self._parts.add_arguments("{}")
        else:
            raise NotACallError


class _Object:
    """What is known so far of a call that is one object."""

    __slots__ = ("arguments", "is_reported", "n_keys", "name")

    def __init__(self) -> None:
        self.name = ""
        self.arguments = "{}"
        self.n_keys = 0
        self.is_reported = False


def _object_text(text: str) -> str:
    """Return the object that an argument value is: some models write it as a string, or as null."""
    try:
        value = json.loads(text)
        if isinstance(value, str):
            text, value = value, json.loads(value)
    except (ValueError, RecursionError):
        raise NotACallError from None
    if value is None:
        return "{}"
    if not isinstance(value, dict):
        raise NotACallError
    return text
