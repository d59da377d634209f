"""Answers in pieces: short ones whole, long ones as they are taken, and the event loop free in between."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from localllm.server.json_pieces import PIECE_BYTES, json_in_pieces

SCOPE = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "method": "POST"}


async def send_to(pieces: Iterator[bytes], send: Any) -> None:
    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    await json_in_pieces(pieces, headers={"x-more": "yes"})(SCOPE, receive, send)


def messages_of(pieces: list[bytes]) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(send_to(iter(pieces), send))
    return sent


@pytest.mark.parametrize("pieces", [[b"[]"], [b"[", b"1", b"]"], [b"x" * PIECE_BYTES], []])
def test_a_short_answer_is_one_message_with_its_length(pieces: list[bytes]) -> None:
    start, *body = messages_of(pieces)
    headers = dict(start["headers"])
    assert headers[b"content-type"] == b"application/json"
    assert headers[b"x-more"] == b"yes"
    assert [message["body"] for message in body] == [b"".join(pieces)]
    assert int(headers[b"content-length"]) == sum(map(len, pieces))


def test_a_long_answer_is_whole_and_no_piece_of_it_is_long() -> None:
    pieces = [bytes([index % 256]) * 1000 for index in range(500)]
    start, *body = messages_of(pieces)
    assert b"content-length" not in dict(start["headers"])
    assert b"".join(message["body"] for message in body) == b"".join(pieces)
    assert max(len(message["body"]) for message in body) <= PIECE_BYTES + 1000


def test_pieces_are_made_as_they_are_taken_while_others_run() -> None:
    made = 0
    turns = 0

    def pieces() -> Iterator[bytes]:
        nonlocal made
        for _ in range(100):
            made += 1
            yield bytes(PIECE_BYTES)

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def scenario() -> None:
        taken = 0

        async def send(message: Any) -> None:
            nonlocal taken
            taken += len(message.get("body", b"")) // PIECE_BYTES
            assert made <= taken + 2

        other = asyncio.create_task(others())
        await send_to(pieces(), send)
        other.cancel()
        assert taken == 100
        assert turns >= 90

    asyncio.run(scenario())
