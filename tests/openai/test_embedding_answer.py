"""The embeddings answer is JSON that gives back the very floats, whatever they are."""

from __future__ import annotations

import base64
import struct
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.contract.pooling import PoolFinished
from localllm.openai import embedding_pieces

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.integers(1, 5).flatmap(lambda n: st.lists(st.lists(FLOATS, min_size=n, max_size=n), min_size=1, max_size=5)))
@pytest.mark.parametrize("encoding_format", ["float", "base64"])
def test_floats_come_back_exactly(encoding_format: Any, vectors: list[list[float]]) -> None:
    packed = [struct.pack(f"<{len(vector)}f", *vector) for vector in vectors]
    body = orjson.loads(b"".join(embedding_pieces("m", packed, PoolFinished(5), encoding_format)))
    assert [item["index"] for item in body["data"]] == list(range(len(vectors)))
    for item, expected in zip(body["data"], packed, strict=True):
        one = item["embedding"]
        sent = base64.b64decode(one) if isinstance(one, str) else struct.pack(f"<{len(one)}f", *one)
        assert sent == expected
    assert (body["object"], body["model"], body["usage"]["total_tokens"]) == ("list", "m", 5)
    assert "truncated" not in body


def test_what_was_cut_is_listed() -> None:
    pieces = embedding_pieces("m", [bytes(4), bytes(4)], PoolFinished(5, truncated=(1, 0)), "float")
    assert orjson.loads(b"".join(pieces))["truncated"] == [0, 1]
