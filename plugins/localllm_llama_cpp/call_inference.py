"""Reads from a rendered message how its template writes tool calls: what lies between names and values we chose."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from localllm import CallFormat

from .tool_messages import ToolCall, write_calls

KEYS = ("aa_key", "bb_key")  # in the order in which templates that sort arguments write them
NUMBER = 4711

CALLS = (
    ToolCall("quark_probe", {KEYS[0]: "text of quark", KEYS[1]: NUMBER}, "idquarkid"),
    ToolCall("omega_probe", {KEYS[0]: "words of omega"}, "xyomegaxy"),
)

_MAX_CHARS = 20_000  # of two short calls; more is no call format, and would only cost time
_TAG_START = re.compile(r"[<\[]")
_TAG_END = re.compile(r"[>\]]\s*")
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class _Found:
    """What one call looks like: its format, and where the calls of the text begin and end."""

    calls: CallFormat
    spans: tuple[tuple[int, int], ...]


def infer_calls(one: str, two: str | None) -> CallFormat | None:
    """Return the format of ``one``, which holds the first of ``CALLS``, and ``two``, which holds both, if it can.

    None if the texts show no call, or none that a ``CallFormat`` can tell.
    """
    text = one
    n_calls = 1
    if two is not None and all(call.name in two for call in CALLS):
        text, n_calls = two, 2
    if len(text) > _MAX_CHARS or any(text.count(call.name) != 1 for call in CALLS[:n_calls]):
        return None
    for look in (_as_json, _as_tagged_json, _as_pythonic, _as_tagged_values):
        found = look(text, n_calls)
        if found is not None:
            calls = replace(_framed(found, text), parallel=n_calls > 1)
            return calls if _is_right(calls, text, found.spans) else None
    return None


def _is_right(calls: CallFormat, text: str, spans: Sequence[tuple[int, int]]) -> bool:
    """Whether calls written in the inferred format give the text again, white space aside."""
    frame = (calls.section_open, calls.call_open, calls.separator, calls.call_close, calls.section_close)
    if any(call.id in mark for call in CALLS for mark in (*frame, calls.name_close)):
        return False  # an id where a CallFormat has no place for it
    if calls.style != "json" and not (calls.section_open.strip() or calls.call_open.strip()):
        return False
    wants_text = calls.style == "json" or calls.name_end
    bodies = [text[start:end] for start, end in spans] if wants_text else None
    written = write_calls(calls, CALLS[: len(spans)], bodies=bodies)
    return "".join(text.split()).startswith("".join(written.split()))


def _as_json(text: str, n_calls: int) -> _Found | None:
    spans: list[tuple[int, int]] = []
    format_of_first = None
    for call in CALLS[:n_calls]:
        found = _object_around(text, call.name)
        if found is None:
            return None
        value, start, end = found
        calls = _keys_of(value, call)
        if calls is None:
            return None
        format_of_first = format_of_first or calls
        spans.append((start, end))
    return _Found(format_of_first, tuple(spans)) if format_of_first else None


def _object_around(text: str, name: str) -> tuple[Mapping[str, Any], int, int] | None:
    """Return the innermost JSON object with ``name`` as a key or a value, and where it stands."""
    at = text.find(name)
    start = text.rfind("{", 0, at)
    while start >= 0:
        try:
            value, end = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            value, end = None, 0
        if isinstance(value, dict) and (name in value or name in value.values()):
            return value, start, end
        start = text.rfind("{", 0, start)
    return None


def _keys_of(value: Mapping[str, Any], call: ToolCall) -> CallFormat | None:
    if call.name in value:
        return CallFormat("json", name_key="") if value[call.name] == call.arguments else None
    names = [key for key, item in value.items() if item == call.name]
    arguments = [key for key, item in value.items() if _means(item, call.arguments)]
    others = [key for key, item in value.items() if isinstance(item, str) and "id" in key and key not in names]
    if not names or not arguments:
        return None
    return CallFormat("json", name_key=names[0], arguments_key=arguments[0], id_key=others[0] if others else "")


def _means(item: object, arguments: Mapping[str, Any]) -> bool:
    """Whether a value is the arguments, or their JSON text."""
    if isinstance(item, str):
        try:
            item = json.loads(item)
        except (ValueError, RecursionError):
            return False
    return item == arguments


def _as_tagged_json(text: str, n_calls: int) -> _Found | None:
    spans: list[tuple[int, int]] = []
    closes: list[str] = []
    for call in CALLS[:n_calls]:
        start = text.find(call.name)
        name_end = start + len(call.name)
        arguments_at = text.find("{", name_end)
        try:
            value, end = _DECODER.raw_decode(text, max(arguments_at, 0))
        except (ValueError, RecursionError):
            return None
        if value != call.arguments:
            return None
        closes.append(text[name_end:arguments_at])
        spans.append((start, end))
    calls = _name_close(closes)
    return _Found(calls, tuple(spans)) if calls else None


def _name_close(closes: Sequence[str]) -> CallFormat | None:
    """Tell what ends a name from an id behind it."""
    name_end, name_close = "", closes[0]
    if CALLS[0].id in closes[0]:
        name_end, name_close = closes[0].split(CALLS[0].id, 1)
    elif len(set(closes)) > 1:
        name_end, name_close = _common_prefix(*closes), _from_tag(_common_suffix(*closes))
        if not name_end.strip() or not name_close.strip():
            return None
    return CallFormat("tagged_json", name_end=name_end, name_close=name_close)


def _as_pythonic(text: str, n_calls: int) -> _Found | None:
    spans: list[tuple[int, int]] = []
    first = CALLS[0]
    string = rf"{KEYS[0]}\s*([=:])\s*(.*?){first.arguments[KEYS[0]]}(.*?)"
    number = rf"{KEYS[1]}\s*\2\s*{NUMBER}"
    found = re.search(rf"{first.name}\s*([({{])\s*{string},\s*{number}\s*[)}}]", text, re.DOTALL)
    if found is None:
        return None
    bracket, key_close, string_open, string_close = found.groups()
    calls = CallFormat("pythonic")
    if (bracket, key_close) != ("(", "=") or string_open not in ("'", '"'):
        calls = replace(
            calls, name_close=bracket, key_close=key_close, string_open=string_open, string_close=string_close
        )
    spans.append(found.span())
    for call in CALLS[1:n_calls]:
        start = text.find(call.name)
        value_end = text.find(call.arguments[KEYS[0]], start) + len(call.arguments[KEYS[0]])
        closer = re.compile(re.escape(string_close) + r"\s*[)}]").match(text, value_end)
        if closer is None:
            return None
        spans.append((start, closer.end()))
    return _Found(calls, tuple(spans))


def _as_tagged_values(text: str, n_calls: int) -> _Found | None:
    first = CALLS[0]
    marks: list[tuple[int, int]] = []
    at = 0
    for needle in (first.name, KEYS[0], first.arguments[KEYS[0]], KEYS[1], str(NUMBER)):
        at = text.find(needle, at)
        if at < 0:
            return None
        marks.append((at, at + len(needle)))
        at += len(needle)
    behind_name, string_key_close, between, key_close = (text[left[1] : right[0]] for left, right in pairwise(marks))
    key_open = _from_tag(_common_suffix(behind_name, between))
    value_close = between.removesuffix(key_open)
    if not (key_open.strip() and key_close.strip() and value_close.strip()):
        return None
    calls = CallFormat(
        "tagged_values",
        name_close=behind_name.removesuffix(key_open),
        key_open=key_open,
        key_close=key_close,
        value_close=value_close,
        string_key_close="" if key_close == string_key_close else string_key_close,
    )
    spans = [(marks[0][0], _behind(text, marks[-1][1], value_close))]
    for call in CALLS[1:n_calls]:
        start = text.find(call.name)
        value = call.arguments[KEYS[0]]
        spans.append((start, _behind(text, text.find(value, start) + len(value), value_close)))
    return _Found(calls, tuple(spans))


def _behind(text: str, at: int, close: str) -> int:
    """Return where ``close`` ends, which stands at ``at``, perhaps with less white space behind it."""
    core = close.rstrip()
    return at + len(close if text.startswith(close, at) else core if text.startswith(core, at) else "")


def _framed(found: _Found, text: str) -> CallFormat:
    """Add what stands around and between the calls."""
    before, behind = text[: found.spans[0][0]], text[found.spans[-1][1] :]
    if len(found.spans) == 1:
        return replace(found.calls, call_open=before, call_close=behind)
    between = text[found.spans[0][1] : found.spans[1][0]]
    call_open = _common_suffix(before, between)
    call_open = call_open if call_open == before else _from_tag(call_open)
    rest = between.removesuffix(call_open)
    call_close = _common_prefix(rest, behind)
    call_close = call_close if call_close in (rest, behind) else _to_tag(call_close)
    if not call_close.strip():
        call_close = ""
    section_open = before.removesuffix(call_open)
    section_close = behind.removeprefix(call_close) if section_open else ""  # else it ends the message
    return replace(
        found.calls,
        call_open=call_open,
        call_close=call_close,
        separator=rest.removeprefix(call_close),
        section_open=section_open,
        section_close=_up_to_closing_tag(section_open, section_close),
    )


def _up_to_closing_tag(opening: str, closing: str) -> str:
    """Leave out what ends the message, where the section's own end is certain: ``</x>`` for ``<x>``."""
    tag = re.match(r"\s*<([^<>/]+)>", opening)
    end_tag = f"</{tag[1]}>" if tag else ""
    head, found, _ = closing.partition(end_tag) if end_tag else (closing, "", "")
    return head + found


def _common_prefix(first: str, second: str) -> str:
    n_same = next((n for n, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), None)
    return min(first, second, key=len) if n_same is None else first[:n_same]


def _common_suffix(first: str, second: str) -> str:
    return _common_prefix(first[::-1], second[::-1])[::-1]


def _from_tag(text: str) -> str:
    """Return ``text`` from where its first tag begins: what stands before may be the end of another one."""
    found = _TAG_START.search(text)
    return text[found.start() :] if found else ""


def _to_tag(text: str) -> str:
    """Return ``text`` up to where its last tag ends."""
    ends = [found.end() for found in _TAG_END.finditer(text)]
    return text[: ends[-1]] if ends else ""
