"""``echo`` and the legacy ``logprobs``: prompt and answer as one text, streamed or not, however tokens cut it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.contract.generation import (
    ChoiceFinished,
    Chunk,
    Finished,
    GenerateEvent,
    PromptLogprobs,
    PromptToken,
    Started,
    Timings,
    TokenAlternative,
    TokenLogprob,
    Usage,
)
from localllm.openai import CompletionShape, Reply, parse_completion, response_chunks, whole_response

EXAMPLES = 1000 if os.environ.get("LOCALLLM_TEST_FULL") == "1" else 100
NAMES = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
END = Finished(Usage(3, 2), Timings(0.0, 1.0, 1.0))
THE = TokenAlternative("the", b"the", -0.25, 4)


def prompt_token(data: bytes, logprob: float | None = -1.0, *top: TokenAlternative) -> PromptToken:
    return PromptToken(len(data), data.decode("utf-8", "replace"), data, logprob, top)


def prompt_tokens(*pieces: bytes) -> tuple[PromptToken, ...]:
    """The first has no log-probability, as nothing comes before it."""
    return tuple(prompt_token(piece, -float(index) if index else None, THE) for index, piece in enumerate(pieces))


def drawn(data: bytes, logprob: float = -1.0, *top: TokenAlternative) -> TokenLogprob:
    return TokenLogprob(data.decode("utf-8", "replace"), data, logprob, top)


class Answering:
    """Words scripted events in one completions request's shape, whole and as a stream."""

    def __init__(self, run: Any, gather: Any, script: Any, **fields: Any) -> None:
        self.request = parse_completion({"prompt": "", **fields})
        self._run, self._gather, self._script = run, gather, script
        self.n_choices = len(self.request.prompts()) * self.request.n

    def _shape(self) -> CompletionShape:
        return CompletionShape(Reply("cmpl-1", 0, "demo", "fp"), self.request)

    def whole(self, *events: GenerateEvent) -> list[dict[str, Any]]:
        played = self._script(Started(3), *events, END).play()
        body = self._run(whole_response(self._shape(), played, n_choices=self.n_choices))
        json.dumps(body, allow_nan=False)
        return body["choices"]  # type: ignore[no-any-return]

    def chunks(self, *events: GenerateEvent) -> list[dict[str, Any]]:
        played = self._script(Started(3), *events, END).play()
        chunks = self._gather(response_chunks(self._shape(), played, n_choices=self.n_choices))
        return [choice for chunk in chunks for choice in chunk["choices"]]

    def joined(self, *events: GenerateEvent) -> list[dict[str, Any]]:
        """The choices of a stream, put together by their index."""
        choices: list[dict[str, Any]] = [
            {"index": index, "text": "", "logprobs": None, "finish_reason": None} for index in range(self.n_choices)
        ]
        for piece in self.chunks(*events):
            choice = choices[piece["index"]]
            choice["text"] += piece["text"]
            choice["finish_reason"] = piece["finish_reason"] or choice["finish_reason"]
            if piece["logprobs"] is not None:
                known = choice["logprobs"] or {name: [] for name in NAMES}
                choice["logprobs"] = {name: known[name] + piece["logprobs"][name] for name in NAMES}
        return choices


@pytest.fixture
def answering(run: Any, gather: Any, script: Any) -> Any:
    return lambda **fields: Answering(run, gather, script, **fields)


def test_prompt_and_answer_are_one_text(answering: Any) -> None:
    asked = answering(prompt="Le é", echo=True, logprobs=1)
    events = (
        PromptLogprobs(prompt_tokens(b"Le", b" ")),
        PromptLogprobs(prompt_tokens(b"", "é".encode())[1:]),
        Chunk(0, "Eif", 1, (drawn(b"Eif", -0.5, THE),)),
        Chunk(0, "fel", 1, (drawn(b"fel", float("-inf")),)),
        ChoiceFinished(0, "length"),
    )
    expected = {
        "index": 0,
        "text": "Le éEiffel",
        "logprobs": {
            "tokens": ["Le", " ", "é", "Eif", "fel"],
            "token_logprobs": [None, -1.0, -1.0, -0.5, -9999.0],
            "top_logprobs": [
                None,
                {" ": -1.0, "the": -0.25},
                {"é": -1.0, "the": -0.25},
                {"Eif": -0.5, "the": -0.25},
                {"fel": -9999.0},
            ],
            "text_offset": [0, 2, 3, 4, 7],
        },
        "finish_reason": "length",
    }
    assert asked.whole(*events) == [expected]
    assert asked.joined(*events) == [expected]
    assert [piece["text"] for piece in asked.chunks(*events)] == ["Le ", "é", "Eif", "fel", ""]


def test_parts_of_a_code_point_share_its_offset_and_are_named_by_their_bytes(answering: Any) -> None:
    asked = answering(prompt="a€b", echo=True, logprobs=0)
    euro = "€".encode()
    events = (
        PromptLogprobs(prompt_tokens(b"a", euro[:2], euro[2:] + b"b")),
        Chunk(0, "", 1),
        Chunk(0, "€", 1, (drawn(euro[:1]), drawn(euro[1:]))),
        Chunk(0, "\ufffd", 1, (drawn("\ufffd".encode()),)),
        ChoiceFinished(0, "length"),
    )
    for choice in (asked.whole(*events)[0], asked.joined(*events)[0]):
        assert choice["text"] == "a€b€\ufffd"
        assert choice["logprobs"]["text_offset"] == [0, 1, 1, 3, 3, 4]
        assert choice["logprobs"]["tokens"] == [
            "a",
            "bytes:\\xe2\\x82",
            "bytes:\\xac\\x62",
            "bytes:\\xe2",
            "bytes:\\x82\\xac",
            "\ufffd",
        ]


def test_alternatives_of_the_same_name_keep_the_likelier(answering: Any) -> None:
    tops = (TokenAlternative("a", b"a", -0.5), TokenAlternative("\ufffd", b"\xe2", -1.0))
    (choice,) = answering(logprobs=2).whole(
        Chunk(0, "a", 1, (drawn(b"a", -2.0, *tops),)), Chunk(0, "", 1, (drawn(b"\xc3", -3.0, *tops),))
    )
    assert choice["logprobs"]["top_logprobs"] == [
        {"a": -0.5, "bytes:\\xe2": -1.0},
        {"bytes:\\xc3": -3.0, "a": -0.5, "bytes:\\xe2": -1.0},
    ]


def test_several_prompts_with_several_answers(answering: Any) -> None:
    asked = answering(prompt=["Ab", "Cd"], n=2, echo=True, logprobs=0)
    events = (
        PromptLogprobs(prompt_tokens(b"C", b"d"), prompt=1),
        Chunk(3, "x", 1, (drawn(b"x"),)),
        PromptLogprobs(prompt_tokens(b"Ab"), prompt=0),
        *(Chunk(index, "y", 1, (drawn(b"y"),)) for index in range(4)),
        *(ChoiceFinished(index, "length") for index in range(4)),
    )
    seen = [
        (choice["index"], choice["text"], choice["logprobs"]["tokens"], choice["logprobs"]["text_offset"])
        for choice in asked.whole(*events)
    ]
    assert seen == [
        (0, "Aby", ["Ab", "y"], [0, 2]),
        (1, "Aby", ["Ab", "y"], [0, 2]),
        (2, "Cdy", ["C", "d", "y"], [0, 1, 2]),
        (3, "Cdxy", ["C", "d", "x", "y"], [0, 1, 2, 3]),
    ]
    assert asked.joined(*events) == asked.whole(*events)


def test_token_ids_come_back_as_text(answering: Any) -> None:
    """Also where their end cuts a code point in two: it does not join with the answer's first byte."""
    events = (
        PromptLogprobs(prompt_tokens(b"", b"Le ", b"\xc3")),
        Chunk(0, "\ufffdx", 1),
        Chunk(0, "", 1),
        ChoiceFinished(0, "length"),
    )
    plain = answering(prompt=[1, 2, 3], echo=True)
    assert plain.whole(*events)[0]["text"] == "Le \ufffd\ufffdx"
    assert plain.whole(*events)[0]["logprobs"] is None
    assert plain.joined(*events) == plain.whole(*events)
    scored = answering(prompt=[1, 2, 3], echo=True, logprobs=0)
    events = (*events[:1], Chunk(0, "\ufffdx", 1, (drawn(b"\xa9x"),)), *events[2:])
    assert scored.whole(*events)[0]["logprobs"]["text_offset"] == [0, 0, 3, 4]
    assert scored.joined(*events) == scored.whole(*events)


def test_text_comes_back_as_it_was_sent(answering: Any) -> None:
    """Control tokens have no bytes, and a tokenizer may add tokens: the echo is the prompt all the same."""
    asked = answering(prompt="<|user|>Hi<|end|>", echo=True, logprobs=0)
    events = (
        PromptLogprobs(prompt_tokens(b"", b"", b"Hi", b"")),
        Chunk(0, "Yo", 1, (drawn(b"Yo"),)),
        ChoiceFinished(0, "length"),
    )
    (choice,) = asked.whole(*events)
    assert choice["text"] == "<|user|>Hi<|end|>Yo"
    assert choice["logprobs"]["text_offset"] == [0, 0, 8, 10, 17]
    assert asked.joined(*events) == [choice]
    assert "".join(piece["text"] for piece in asked.chunks(*events[1:])) == "<|user|>Hi<|end|>Yo"


def test_echo_without_logprobs_opens_a_stream(answering: Any) -> None:
    asked = answering(prompt=["P", "Q"], echo=True)
    events = (Chunk(1, "q", 1), Chunk(0, "p", 1), ChoiceFinished(0, "stop"), ChoiceFinished(1, "stop"))
    pieces = asked.chunks(*events)
    assert [(piece["index"], piece["text"]) for piece in pieces[:2]] == [(0, "P"), (1, "Q")]
    assert [choice["text"] for choice in asked.joined(*events)] == ["Pp", "Qq"]
    assert asked.joined(*events) == asked.whole(*events)


def test_prompt_alone(answering: Any) -> None:
    """``max_tokens`` 0: nothing is drawn, and the arrays hold the prompt's tokens and no more."""
    asked = answering(prompt="Hi you", echo=True, max_tokens=0, logprobs=1)
    events = (PromptLogprobs(prompt_tokens(b"Hi", b" you")), ChoiceFinished(0, "length"))
    (choice,) = asked.whole(*events)
    assert (choice["text"], choice["finish_reason"]) == ("Hi you", "length")
    assert choice["logprobs"]["token_logprobs"] == [None, -1.0]
    assert asked.joined(*events) == [choice]
    unscored = answering(prompt="Hi you", echo=True, max_tokens=0)
    (choice,) = unscored.whole(*events)
    assert (choice["text"], choice["logprobs"]) == ("Hi you", None)
    assert unscored.joined(*events) == [choice]


def test_ending_counts_as_a_token_beside_an_echo(answering: Any) -> None:
    """A harness drops the last entry, for the token that it had to ask for: it must not be one of the prompt's."""
    events = (PromptLogprobs(prompt_tokens(b"H", b"i")), ChoiceFinished(0, "stop"))
    asked = answering(prompt="Hi", echo=True, logprobs=1)
    (choice,) = asked.whole(*events)
    assert choice["logprobs"] == {
        "tokens": ["H", "i", ""],
        "token_logprobs": [None, -1.0, None],
        "top_logprobs": [None, {"i": -1.0, "the": -0.25}, None],
        "text_offset": [0, 1, 2],
    }
    assert asked.joined(*events) == [choice]
    stopped = (*events[:1], Chunk(0, "", 1, (drawn(b"."),)), ChoiceFinished(0, "stop", stop="."))
    assert asked.whole(*stopped)[0]["logprobs"]["tokens"] == ["H", "i", "."]
    assert asked.joined(*stopped) == asked.whole(*stopped)
    assert answering(logprobs=1).whole(*events)[0]["logprobs"] == {name: [] for name in NAMES}


def test_prompt_logprobs_stand_on_each_choice(answering: Any) -> None:
    events = (
        PromptLogprobs(prompt_tokens(b"a", b"bb"), prompt=0),
        PromptLogprobs(prompt_tokens(b"c"), prompt=1),
        *(ChoiceFinished(index, "length") for index in range(4)),
    )
    choices = answering(prompt=["abb", "c"], n=2, prompt_logprobs=1).whole(*events)
    row = {"logprob": -1.0, "rank": None, "decoded_token": "bb"}
    best = {"logprob": -0.25, "rank": 1, "decoded_token": "the"}
    assert [choice["prompt_logprobs"] for choice in choices] == [[None, {"2": row, "4": best}]] * 2 + [[None]] * 2
    assert [choice["logprobs"] for choice in choices] == [None] * 4
    assert "prompt_logprobs" not in answering().whole(ChoiceFinished(0, "length"))[0]


TEXTS = st.text(st.sampled_from("aé漢😀 \n") | st.characters(exclude_categories=["Cs"]), max_size=10)
CUTS = st.lists(st.integers(0, 30), max_size=6)


def cut(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    borders = sorted({0, *(min(at, len(data)) for at in cuts), len(data)})
    return [data[start:end] for start, end in pairwise(borders)]


@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data(), prompt=TEXTS, answer=TEXTS, as_tokens=st.booleans())
def test_offsets_point_into_the_text(data: st.DataObject, prompt: str, answer: str, as_tokens: bool) -> None:
    """Decoding what comes before a token gives as many characters as its offset, in streams too."""
    pieces, answered = cut(prompt.encode(), data.draw(CUTS)), cut(answer.encode(), data.draw(CUTS))
    scored = prompt_tokens(*pieces)
    batches = data.draw(st.integers(1, 4))
    events: list[GenerateEvent] = [
        *(PromptLogprobs(scored[start : start + batches]) for start in range(0, len(scored), batches)),
        Chunk(0, answer, len(answered), tuple(drawn(piece) for piece in answered)),
        ChoiceFinished(0, "length"),
    ]
    request = parse_completion({"prompt": [1] if as_tokens else prompt, "echo": True, "logprobs": 0})
    shape, streamed = (CompletionShape(Reply("cmpl-1", 0, "demo", "fp"), request) for _ in range(2))
    choice = _play_whole(shape, events)
    assert choice["text"] == prompt + answer
    whole_bytes = (prompt + answer).encode()
    start = 0
    for offset, piece in zip(choice["logprobs"]["text_offset"], (*pieces, *answered), strict=True):
        assert offset == len(whole_bytes[: start + 1].decode("utf-8", "replace")) - 1
        start += len(piece)
    assert _play_stream(streamed, events) == (choice["text"], choice["logprobs"]["text_offset"])


def _play_whole(shape: CompletionShape, events: Sequence[GenerateEvent]) -> dict[str, Any]:
    async def play() -> Any:
        async def generation() -> Any:
            for event in (*events, END):
                yield event

        return await whole_response(shape, generation(), n_choices=1)

    return asyncio.run(play())["choices"][0]  # type: ignore[no-any-return]


def _play_stream(shape: CompletionShape, events: Sequence[GenerateEvent]) -> tuple[str, list[int]]:
    text = ""
    offsets: list[int] = []
    for event in events:
        choices: list[dict[str, Any]] = []
        match event:
            case PromptLogprobs():
                choices = shape.prompt(event)
            case Chunk():
                choices = shape.delta(event)
            case ChoiceFinished():
                choices = shape.finish(event)
        for choice in choices:
            text += choice["text"]
            offsets += choice["logprobs"]["text_offset"] if choice["logprobs"] else []
    return text, offsets
