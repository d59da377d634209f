"""The strict edge decoder: what gets past it is an object of finite numbers, whole strings and bounded depth."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Collection
from itertools import accumulate
from typing import Any

import orjson
from starlette.requests import Request

from localllm.contract.errors import InvalidRequestError
from localllm.server.errors import UnsupportedMediaTypeError
from localllm.server.model_options import note_body

MAX_DEPTH = 64
"""Levels of arrays and objects. What parses or walks the value later may recurse; orjson alone would allow 1,024."""

LARGE_BYTES = 64 * 1024

_OTHER_BYTES = bytes(byte for byte in range(256) if byte not in b'"[]{}')
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")  # one level down, one level up (-1 as a signed byte)


async def read_json(request: Request) -> dict[str, Any]:
    """Read the whole body and return it as a JSON object.

    Raises ``InvalidRequestError`` (400) for an empty body, bytes that are not UTF-8, a byte order mark, NaN, Infinity
    and numbers beyond a double's range, lone surrogates (escaped or not), anything else that is not JSON, nesting
    deeper than 64, and a top level that is not an object; ``UnsupportedMediaTypeError`` (415) when the content type is
    not JSON. Of a repeated key the last one counts. Lengths of lists are left to the schema. Sizes and the time for
    the body are bounded by middleware.
    """
    check_content_type(request.headers.get("content-type"))
    body = await request.body()
    check_nesting(body)
    is_large = len(body) > LARGE_BYTES
    if is_large:
        await asyncio.sleep(0)  # with what the caller makes of it, three short stops of the event loop instead of one
    value = parse_object(body)
    if is_large:
        await asyncio.sleep(0)
    note_body(request, value)
    return value


def check_content_type(content_type: str | None, others: Collection[str] = ()) -> None:
    """Refuse what is neither JSON nor one of ``others``, in lower case.

    A web page can send types such as text/plain to any server without being asked for permission.
    Raises ``UnsupportedMediaTypeError``.
    """
    essence, _, parameters = (content_type or "").partition(";")
    essence = essence.strip().lower()
    is_json = essence == "application/json" or (essence.startswith("application/") and essence.endswith("+json"))
    if not is_json and essence not in others:
        wanted = next(iter(others), "application/json")
        message = f"The content type must be {wanted}, not {essence[:80] or 'absent'!r}."
        raise UnsupportedMediaTypeError(message)
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset" and value.strip().strip('"').lower() not in {"utf-8", "utf8"}:
            message = f"The charset of a JSON body must be utf-8, not {value.strip()[:40]!r}."
            raise UnsupportedMediaTypeError(message)


def check_nesting(body: bytes) -> None:
    """Refuse deep nesting before anything parses it. Raises ``InvalidRequestError``."""
    if nesting_exceeds(body, MAX_DEPTH):
        message = f"The request body is nested deeper than {MAX_DEPTH} levels."
        raise InvalidRequestError(message)


def parse_object(body: bytes) -> dict[str, Any]:
    """Return the object that ``body`` holds. Raises ``InvalidRequestError``, and nothing else, for any bytes."""
    if not body.strip():
        message = "The request body is empty; send a JSON object."
        raise InvalidRequestError(message)
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        message = f"The request body is not valid JSON in UTF-8: {error}."
        raise InvalidRequestError(message) from None
    if not isinstance(value, dict):
        kind = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}.get(type(value), "a number")
        message = f"The request body must be a JSON object, not {kind}."
        raise InvalidRequestError(message)
    return value


def read_json_object(text: bytes) -> dict[str, Any]:
    """Return the JSON object that a part of a body holds, such as a line, as strictly as :func:`read_json` reads."""
    check_nesting(text)
    return parse_object(text)


def nesting_exceeds(body: bytes, limit: int) -> bool:
    """Say whether brackets outside of strings nest deeper than ``limit``.

    A handful of passes in C and no loop over bytes: 256 KB of anything take a few milliseconds. Exact for valid JSON;
    for anything else the parser has the last word, and it bounds its own depth.
    """
    if body.count(b"[") + body.count(b"{") <= limit:
        return False
    # Escapes first. Within a run of backslashes pairs count from the left, as bytes.replace takes them, so what
    # remains before a quote really escapes it.
    steps = body.replace(b"\\\\", b"").replace(b'\\"', b"").translate(_STEPS, _OTHER_BYTES)
    # Two quotes in a row change nothing about which brackets are inside a string: that is their count's parity.
    steps = b"".join(steps.replace(b'""', b"").split(b'"')[::2])
    return max(accumulate(array("b", steps)), default=0) > limit
