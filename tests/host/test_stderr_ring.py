"""The end of stderr is kept whatever comes, and the line that tells the cause is found in it."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.host.stderr_ring import LINE_CHARACTERS, RING_BYTES, LineLog, StderrRing


@given(st.lists(st.binary(max_size=50)), st.integers(1, 64))
def test_it_keeps_exactly_the_end_of_what_came(pieces: list[bytes], size: int) -> None:
    ring = StderrRing(size)
    for piece in pieces:
        ring.feed(piece)
    assert ring.text() == b"".join(pieces)[-size:].decode("utf-8", errors="replace")


def test_a_flood_without_newline_stays_small_and_gives_one_short_line() -> None:
    ring = StderrRing()
    for _ in range(100):
        ring.feed(b"x" * 100_000)
    assert len(ring.text()) == RING_BYTES
    assert ring.telling_line() == "x" * LINE_CHARACTERS


ASSERTION = """\
llama.cpp:2544: GGML_ASSERT(a == b) failed
WARNING: Using native backtrace.
[New LWP 7]
0x7f in wait4
"""
EXCEPTION = """\
Traceback (most recent call last):
  File "x.py", line 1, in <module>
    raise ValueError(1)
localllm.contract.errors.ModelLoadError: no room
some thread says goodbye
"""
NATIVE_CRASH = """\
Fatal Python error: Segmentation fault

Current thread 0x00007f (most recent call first):
  File "decoder.py", line 96 in submit

Extension modules: numpy (total: 1)
"""


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", ""),
        ("\n \n", ""),
        ("loading\nready\n", "ready"),
        (ASSERTION, "llama.cpp:2544: GGML_ASSERT(a == b) failed"),
        (EXCEPTION, "localllm.contract.errors.ModelLoadError: no room"),
        ("load: error loading model: tensor missing\nbye\n", "load: error loading model: tensor missing"),
        (NATIVE_CRASH, "Fatal Python error: Segmentation fault"),
    ],
)
def test_the_telling_line_is_not_simply_the_last(text: str, line: str) -> None:
    ring = StderrRing()
    ring.feed(text.encode())
    assert ring.telling_line() == line


def test_stderr_goes_to_the_log_by_lines_when_somebody_listens(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("localllm.host")
    log = LineLog(logger, "demo")
    with caplog.at_level(logging.INFO, "localllm.host"):
        log.feed(b"unheard\n")
    with caplog.at_level(logging.DEBUG, "localllm.host"):
        log.feed(b"one\ntw")
        log.feed(b"o\n\n")
        log.feed(b"x" * 10_000)
    assert caplog.messages == ["worker of demo: one", "worker of demo: two", "worker of demo: " + "x" * 4_000]
