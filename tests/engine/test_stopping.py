"""Stop strings are found wherever token borders lie, and never let out."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.engine.answer import Answer
from localllm.engine.detokenizer import Detokenizer
from localllm.engine.stopping import StopScanner, StopStrings
from tests.engine.answer_kit import PieceTokenizer, answer_of, cut_into_pieces, drawn, end, events_of, first_stop

MAX_EXAMPLES = 5000 if os.environ.get("LOCALLLM_TEST_FULL") == "1" else 300


def answered(
    pieces: list[bytes], stops: list[str], *, include_stop: bool = False, logprobs: bool = False, per_step: int = 1
) -> tuple[str, Answer, list]:
    answer = answer_of(PieceTokenizer(pieces), stops=stops, include_stop=include_stop, logprobs=logprobs)
    chunks = events_of(answer, [*drawn(range(len(pieces))), end()], per_step)
    return "".join(chunk.text for chunk in chunks), answer, chunks


@settings(max_examples=MAX_EXAMPLES, deadline=None)
@given(
    st.text("abé€", max_size=30),
    st.lists(st.text("abé", max_size=4), max_size=3),
    st.lists(st.integers(0, 100), max_size=20),
    st.booleans(),
    st.integers(1, 3),
)
def test_any_chunking_gives_the_same_cut(
    text: str, stops: list[str], cuts: list[int], include_stop: bool, per_step: int
) -> None:
    pieces = cut_into_pieces(text.encode(), cuts)
    out, answer, _ = answered(pieces, stops, include_stop=include_stop, per_step=per_step)
    hit = first_stop(text, stops)
    assert answer.finished is not None
    if hit is None:
        assert out == text
        assert answer.finished.stop is None
        assert not any(stop in out for stop in stops if stop)
    else:
        end, stop = hit
        assert answer.finished.stop == stop
        assert out == (text[:end] if include_stop else text[: end - len(stop)])
        if not include_stop:
            assert not any(stop in out for stop in stops if stop)


@settings(max_examples=MAX_EXAMPLES, deadline=None)
@given(st.binary(max_size=20), st.lists(st.integers(0, 100), max_size=10))
def test_bytes_in_any_pieces_become_the_same_text(data: bytes, cuts: list[int]) -> None:
    detokenizer = Detokenizer()
    text = "".join(detokenizer.feed(piece) for piece in cut_into_pieces(data, cuts)) + detokenizer.finish()
    assert text == data.decode("utf-8", "replace")


def test_a_code_point_waits_for_its_last_byte() -> None:
    detokenizer = Detokenizer()
    assert [detokenizer.feed(bytes([byte])) for byte in "€!".encode()] == ["", "", "€", "!"]
    assert not detokenizer.is_inside_code_point
    detokenizer.feed(b"\xe2")
    assert detokenizer.is_inside_code_point
    assert detokenizer.finish() == "�"


@settings(max_examples=MAX_EXAMPLES, deadline=None)
@given(
    st.text("abé€", min_size=1, max_size=24),
    st.lists(st.text("abé", min_size=1, max_size=4), max_size=2),
    st.lists(st.integers(0, 100), max_size=20),
    st.integers(1, 3),
)
def test_log_probabilities_go_with_their_text(text: str, stops: list[str], cuts: list[int], per_step: int) -> None:
    pieces = cut_into_pieces(text.encode(), cuts)
    out, _, chunks = answered(pieces, stops, logprobs=True, per_step=per_step)
    reported = [entry.bytes for chunk in chunks for entry in chunk.logprobs]
    # A token is reported if it begins before the end of what was let out.
    expected, position = [], 0
    for piece in pieces:
        if position < len(out.encode()):
            expected.append(piece)
        position += len(piece)
    assert reported == expected
    sent = 0
    entries = 0
    for chunk in chunks:  # and never before its text
        sent += len(chunk.text.encode())
        entries += len(b"".join(entry.bytes for entry in chunk.logprobs))
        assert entries <= sent or chunk is chunks[-1]


@pytest.mark.parametrize(
    ("stops", "fed", "held"),
    [
        (["<end>"], "text <en", 3),
        (["aab"], "aaa", 2),
        (["abab", "bx"], "aba", 3),
        (["stop"], "no", 0),
        ([], "anything", 0),
    ],
)
def test_the_longest_possible_beginning_of_a_stop_is_held_back(stops: list[str], fed: str, held: int) -> None:
    scanner = StopScanner(StopStrings.prepare(stops))
    assert scanner.feed(fed) is None
    assert scanner.n_held == held


def test_the_stop_that_is_complete_first_wins_and_of_several_the_longest() -> None:
    assert StopScanner(StopStrings.prepare(["abcd", "c"])).feed("abcd") == (3, "c")
    assert StopScanner(StopStrings.prepare(["c", "bc"])).feed("abcd") == (3, "bc")


def test_chunks_count_each_token_once() -> None:
    out, answer, chunks = answered([b"a", b"<", b"e", b"b", b"<"], ["<end>"])
    assert out == "a<eb<"
    assert [(chunk.text, chunk.tokens) for chunk in chunks] == [("a", 1), ("<eb", 3), ("<", 1)]
    assert answer.n_tokens == 5


def test_a_token_without_text_is_reported_among_log_probabilities() -> None:
    _, _, chunks = answered([b"a", b"", b"b"], [], logprobs=True)
    assert [[entry.bytes for entry in chunk.logprobs] for chunk in chunks] == [[b"a"], [b""], [b"b"]]
    assert [chunk.text for chunk in chunks] == ["a", "", "b"]
