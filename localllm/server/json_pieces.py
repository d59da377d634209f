"""JSON answers that are too long to be made, or held, in one piece."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping

from starlette.responses import Response, StreamingResponse

PIECE_BYTES = 64 * 1024

_MEDIA_TYPE = "application/json"


def json_in_pieces(pieces: Iterable[bytes], *, headers: Mapping[str, str] | None = None) -> Response:
    """Return the answer whose body is ``pieces`` one after the other: UTF-8 of one JSON document.

    The pieces are made while the client takes them, 64 KB at a time, and other tasks run in between; an answer of up
    to 64 KB is sent whole. The status is sent first, so ``pieces`` must not fail: make sure before that nothing can.
    Keep each piece small (some milliseconds of work).
    """
    batches = _batches(pieces)
    first = next(batches, b"")
    second = next(batches, None)
    if second is None:
        return Response(first, media_type=_MEDIA_TYPE, headers=headers)
    return StreamingResponse(_in_turns(first, second, batches), media_type=_MEDIA_TYPE, headers=headers)


def _batches(pieces: Iterable[bytes]) -> Iterator[bytes]:
    held: list[bytes] = []
    n_bytes = 0
    for piece in pieces:
        held.append(piece)
        n_bytes += len(piece)
        if n_bytes >= PIECE_BYTES:
            yield b"".join(held)
            held, n_bytes = [], 0
    if held:
        yield b"".join(held)


async def _in_turns(first: bytes, second: bytes, rest: Iterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    yield second
    for batch in rest:
        await asyncio.sleep(0)  # sending gives way only where the connection is slower than we are
        yield batch
