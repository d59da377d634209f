"""Frames survive any cut of the stream; what is no frame is refused before it costs memory."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.contract.errors import ProtocolError
from localllm.transport.framing import HEADER_BYTES, FrameReader, pack_frame, read_frame

PAYLOADS = st.lists(st.binary(max_size=300), max_size=8)


@given(PAYLOADS, st.data())
def test_frames_come_out_whole_however_the_stream_is_cut(payloads: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(map(pack_frame, payloads))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    reader = FrameReader()
    received = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        received += reader.feed(stream[start:end])
    assert received == payloads
    reader.end()


@given(PAYLOADS)
def test_the_blocking_reader_returns_the_frames_and_then_none(payloads: list[bytes]) -> None:
    stream = io.BytesIO(b"".join(map(pack_frame, payloads)))
    assert [read_frame(stream) for _ in payloads] == payloads
    assert read_frame(stream) is None


@given(st.binary(min_size=1, max_size=50), st.data())
def test_a_stream_that_ends_inside_a_frame_is_an_error_for_both_readers(payload: bytes, data: st.DataObject) -> None:
    whole = pack_frame(payload)
    part = whole[: data.draw(st.integers(1, len(whole) - 1))]
    reader = FrameReader()
    assert reader.feed(part) == []
    with pytest.raises(ProtocolError, match="ended inside a frame"):
        reader.end()
    with pytest.raises(ProtocolError, match="ended inside a frame"):
        read_frame(io.BytesIO(part))


def test_a_length_of_four_gigabytes_is_refused_by_its_header_alone() -> None:
    header = b"\xff\xff\xff\xff"
    with pytest.raises(ProtocolError, match="4294967295 bytes is longer than the limit"):
        FrameReader().feed(header)

    class NoMore(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            assert size == HEADER_BYTES, "it asked for the payload"
            return super().read(size)

    with pytest.raises(ProtocolError, match="longer than the limit"):
        read_frame(NoMore(header))


def test_the_limit_itself_is_allowed_and_one_byte_more_is_not() -> None:
    assert FrameReader(max_bytes=5).feed(pack_frame(b"12345", max_bytes=5)) == [b"12345"]
    with pytest.raises(ProtocolError):
        pack_frame(b"123456", max_bytes=5)
    with pytest.raises(ProtocolError):
        FrameReader(max_bytes=5).feed(pack_frame(b"123456"))
