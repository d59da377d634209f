"""Responses and chunks, key by key, from scripted generations."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from localllm.contract.errors import ProtocolError, WorkerCrashedError
from localllm.contract.generation import (
    ChoiceFinished,
    Chunk,
    Finished,
    PromptLogprobs,
    PromptToken,
    Started,
    Timings,
    TokenAlternative,
    TokenLogprob,
    Usage,
)
from localllm.openai import ChatShape, CompletionShape, Reply, parse_completion, response_chunks, whole_response

END = Finished(Usage(prompt_tokens=10, completion_tokens=4, cached_tokens=6), Timings(1.0, 8.0, 20.0))
USAGE = {
    "prompt_tokens": 10,
    "completion_tokens": 4,
    "total_tokens": 14,
    "prompt_tokens_details": {"cached_tokens": 6},
    "completion_tokens_details": {"reasoning_tokens": 0},
}
TIMINGS = {
    "cache_n": 6,
    "queue_ms": 1.0,
    "prompt_n": 4,
    "prompt_ms": 8.0,
    "prompt_per_token_ms": 2.0,
    "prompt_per_second": 500.0,
    "predicted_n": 4,
    "predicted_ms": 20.0,
    "predicted_per_token_ms": 5.0,
    "predicted_per_second": 200.0,
}
EIFFEL = TokenLogprob("Eif", b"Eif", -0.5, (TokenAlternative("Eif", b"Eif", -0.5), TokenAlternative("A", b"A", -1.0)))
BANNED = TokenLogprob("\ufffd", b"\xc3", float("-inf"), (TokenAlternative("x", b"x", -0.1),))
ONE = (Started(10), Chunk(0, "Par", 2), Chunk(0, "is", 1), Chunk(0, "", 1), ChoiceFinished(0, "stop"), END)
TWO = (
    Started(10),
    Chunk(1, "b", 1),
    Chunk(0, "a", 1),
    ChoiceFinished(1, "length"),
    Chunk(0, "A", 1),
    ChoiceFinished(0, "stop", stop="."),
    END,
)


def test_whole_chat_response(reply: Reply, script: Any, run: Any) -> None:
    assert run(whole_response(ChatShape(reply), script(*ONE).play(), n_choices=1)) == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "demo",
        "system_fingerprint": "fp_1",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Paris", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": USAGE,
        "timings": TIMINGS,
    }


def test_chat_stream(reply: Reply, script: Any, gather: Any) -> None:
    chunks = gather(response_chunks(ChatShape(reply), script(*ONE).play(), n_choices=1))
    common = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "demo",
        "system_fingerprint": "fp_1",
    }
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}, {"content": "Par"}, {"content": "is"}, {}]
    reasons = [None, None, None, "stop"]
    assert chunks == [
        {
            **common,
            "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}],
            **({"timings": TIMINGS} if reason else {}),
        }
        for delta, reason in zip(deltas, reasons, strict=True)
    ]


def test_chat_stream_with_usage_ends_with_a_chunk_without_choices(reply: Reply, script: Any, gather: Any) -> None:
    chunks = gather(response_chunks(ChatShape(reply), script(*ONE).play(), n_choices=1, include_usage=True))
    assert chunks[-1]["choices"] == []
    assert (chunks[-1]["usage"], chunks[-1]["timings"]) == (USAGE, TIMINGS)
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert all("usage" not in chunk for chunk in chunks[:-1])
    assert {chunk["id"] for chunk in chunks} == {"chatcmpl-1"}


def test_choices_are_interleaved_by_index_with_one_finish_each(reply: Reply, script: Any, gather: Any) -> None:
    chunks = gather(response_chunks(ChatShape(reply), script(*TWO).play(), n_choices=2))
    seen = [
        (choice["index"], choice["delta"].get("role") or choice["delta"].get("content"), choice["finish_reason"])
        for chunk in chunks
        for choice in chunk["choices"]
    ]
    assert seen == [
        (0, "assistant", None),
        (1, "assistant", None),
        (1, "b", None),
        (0, "a", None),
        (1, None, "length"),
        (0, "A", None),
        (0, None, "stop"),
    ]


def test_whole_response_orders_choices_by_index(reply: Reply, script: Any, run: Any) -> None:
    body = run(whole_response(ChatShape(reply), script(*TWO).play(), n_choices=2))
    assert [(choice["index"], choice["message"]["content"], choice["finish_reason"]) for choice in body["choices"]] == [
        (0, "aA", "stop"),
        (1, "b", "length"),
    ]


def test_chat_logprobs_are_the_same_streamed_or_not(reply: Reply, script: Any, run: Any, gather: Any) -> None:
    events = (
        Started(10),
        Chunk(0, "Eif", 1, (EIFFEL,)),
        Chunk(0, "", 1, (BANNED,)),
        Chunk(0, "fel", 0),
        ChoiceFinished(0, "stop"),
        END,
    )
    shape = ChatShape(reply, logprobs=True)
    whole = run(whole_response(shape, script(*events).play(), n_choices=1))["choices"][0]["logprobs"]
    assert whole == {
        "content": [
            {
                "token": "Eif",
                "logprob": -0.5,
                "bytes": [69, 105, 102],
                "top_logprobs": [
                    {"token": "Eif", "logprob": -0.5, "bytes": [69, 105, 102]},
                    {"token": "A", "logprob": -1.0, "bytes": [65]},
                ],
            },
            {
                "token": "\ufffd",
                "logprob": -9999.0,
                "bytes": [195],
                "top_logprobs": [{"token": "x", "logprob": -0.1, "bytes": [120]}],
            },
        ],
        "refusal": None,
    }
    chunks = gather(response_chunks(shape, script(*events).play(), n_choices=1))
    streamed = [c["logprobs"] for chunk in chunks for c in chunk["choices"]]
    assert [entry for part in streamed if part for entry in part["content"]] == whole["content"]
    json.dumps(chunks, allow_nan=False)


def test_completion_stream(reply: Reply, script: Any, gather: Any) -> None:
    shape = CompletionShape(reply, parse_completion({"prompt": ["P", "Q"], "echo": True}))
    chunks = gather(response_chunks(shape, script(*TWO).play(), n_choices=2))
    seen = [(c["index"], c["text"], c["finish_reason"]) for chunk in chunks for c in chunk["choices"]]
    assert seen == [
        (0, "P", None),
        (1, "Q", None),
        (1, "b", None),
        (0, "a", None),
        (1, "", "length"),
        (0, "A", None),
        (0, "", "stop"),
    ]
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert all(c["logprobs"] is None for chunk in chunks for c in chunk["choices"])


def test_timings_per_token_count_from_the_first_token(reply: Reply, script: Any, gather: Any) -> None:
    now = iter([5.0, 5.25])
    chunks = gather(
        response_chunks(
            ChatShape(reply), script(*ONE).play(), n_choices=1, timings_per_token=True, clock=lambda: next(now)
        )
    )
    paces = [chunk["timings"] for chunk in chunks if chunk["choices"][0]["delta"].get("content")]
    assert [(pace["predicted_n"], pace["predicted_ms"]) for pace in paces] == [(2, 0.0), (3, 250.0)]
    assert paces[0]["predicted_per_second"] == 0.0


@pytest.mark.parametrize("cut_at", range(len(ONE)))
def test_generation_without_an_end_is_an_error(reply: Reply, script: Any, run: Any, gather: Any, cut_at: int) -> None:
    with pytest.raises(ProtocolError):
        run(whole_response(ChatShape(reply), script(*ONE[:cut_at]).play(), n_choices=1))
    with pytest.raises(ProtocolError):
        gather(response_chunks(ChatShape(reply), script(*ONE[:cut_at]).play(), n_choices=1))


def test_error_of_the_generation_is_passed_on(reply: Reply, script: Any, run: Any) -> None:
    crash = WorkerCrashedError("The worker died of SIGSEGV.")
    with pytest.raises(WorkerCrashedError):
        run(whole_response(ChatShape(reply), script(*ONE[:2], crash).play(), n_choices=1))


def test_closing_the_chunks_closes_the_generation(reply: Reply, script: Any) -> None:
    played = script(*ONE)

    async def leave_early() -> None:
        chunks = response_chunks(ChatShape(reply), played.play(), n_choices=1)
        await anext(chunks)
        await chunks.aclose()

    asyncio.run(leave_early())
    assert played.closed_early
    assert played.played == 1


def test_timings_of_nothing_are_zero_not_infinite(reply: Reply, script: Any, run: Any) -> None:
    end = Finished(Usage(prompt_tokens=3, completion_tokens=0, cached_tokens=3), Timings(0.0, 0.0, 0.0))
    body = run(whole_response(ChatShape(reply), script(ChoiceFinished(0, "stop"), end).play(), n_choices=1))
    assert {value for key, value in body["timings"].items() if key != "cache_n"} == {0}


WARNED = (Started(10, warnings=("One is left out.", "So is two.")), *ONE[1:])


def test_warnings_stand_in_the_response(reply: Reply, script: Any, run: Any) -> None:
    body = run(whole_response(ChatShape(reply), script(*WARNED).play(), n_choices=1))
    assert body["warnings"] == ["One is left out.", "So is two."]
    assert "warnings" not in run(whole_response(ChatShape(reply), script(*ONE).play(), n_choices=1))


@pytest.mark.parametrize("n_events", [len(WARNED), 4])
def test_warnings_stand_on_the_first_chunk_of_a_stream(reply: Reply, script: Any, gather: Any, n_events: int) -> None:
    """A completion has no opening chunk, and one without text only its last one: they still arrive, and once."""
    events = WARNED if n_events == len(WARNED) else (WARNED[0], Chunk(0, "", 1), ChoiceFinished(0, "stop"), END)
    for shape in (ChatShape(reply), CompletionShape(reply, parse_completion({"prompt": "P"}))):
        first, *others = gather(response_chunks(shape, script(*events).play(), n_choices=1, include_usage=True))
        assert first["warnings"] == ["One is left out.", "So is two."]
        assert first["choices"]
        assert all("warnings" not in chunk for chunk in others)
    assert all("warnings" not in chunk for chunk in gather(response_chunks(shape, script(*ONE).play(), n_choices=1)))


def test_only_selected_answers_are_returned(reply: Reply, script: Any, run: Any) -> None:
    shape = CompletionShape(reply, parse_completion({"prompt": "P", "best_of": 2}))
    body = run(whole_response(shape, script(*TWO).play(), n_choices=2, select=lambda answers: [answers[1]]))
    assert [(choice["index"], choice["text"]) for choice in body["choices"]] == [(0, "b")]
    assert body["usage"] == USAGE


def test_prompt_logprobs_of_a_chat_are_vllms(reply: Reply, script: Any, run: Any) -> None:
    tops = (
        TokenAlternative("a", b"a", -0.5, 1),
        TokenAlternative("b", b"b", -1.0, 2),
        TokenAlternative("c", b"c", -2.0),
    )
    tokens = (
        PromptToken(9, "", b"", None),
        PromptToken(2, "b", b"b", -1.0, tops),
        PromptToken(3, "\ufffd", b"\xc3", float("-inf"), tops[:1]),
    )
    events = (ONE[0], PromptLogprobs(tokens[:2]), PromptLogprobs(tokens[2:]), *ONE[1:])
    body = run(whole_response(ChatShape(reply, prompt_logprobs=3), script(*events).play(), n_choices=1))
    best = {"logprob": -0.5, "rank": 1, "decoded_token": "a"}
    assert body["prompt_logprobs"] == [
        None,
        {"2": {"logprob": -1.0, "rank": 2, "decoded_token": "b"}, "1": best},
        {"3": {"logprob": -9999.0, "rank": None, "decoded_token": "\ufffd"}, "1": best},
    ]
    fewer = run(whole_response(ChatShape(reply, prompt_logprobs=0), script(*events).play(), n_choices=1))
    assert [entry and list(entry) for entry in fewer["prompt_logprobs"]] == [None, ["2"], ["3"]]
    assert "prompt_logprobs" not in run(whole_response(ChatShape(reply), script(*events).play(), n_choices=1))
