"""A generation becomes a response: the events of its stream, in order and complete, and the same body in the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.contract.errors import (
    InvalidRequestError,
    LocalLLMError,
    OverloadedError,
    ProtocolError,
    WorkerCrashedError,
)
from localllm.contract.generation import (
    CallDelta,
    ChoiceFinished,
    Chunk,
    Finished,
    FinishReason,
    GenerateEvent,
    Started,
    Timings,
    TokenAlternative,
    TokenLogprob,
    Usage,
)
from localllm.openai.responses import ResponseHead, ResponseRun, item_id, new_response_id, parse_response, place_of
from tests.openai.responses.wire_spec import EVENTS, check_no_extra, check_response, check_stream

Piece = Chunk | CallDelta
THOUGHT = Chunk(0, "Hm.", 1, region="reasoning")


async def generation(
    pieces: Sequence[Piece | Exception], reason: FinishReason = "stop", *, warnings: tuple[str, ...] = ()
) -> AsyncGenerator[GenerateEvent, None]:
    yield Started(5, warnings)
    for piece in pieces:
        if isinstance(piece, Exception):
            raise piece
        yield piece
    yield ChoiceFinished(0, reason)
    yield Finished(Usage(5, len(pieces), 2, 1), Timings(0, 1, 1))


class Told:
    """One run from its beginning to its end."""

    def __init__(self, pieces: Sequence[Piece | Exception], reason: FinishReason = "stop", **fields: Any) -> None:
        self.kept: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        request = parse_response({"input": "Hi", **fields})
        self.run = ResponseRun(ResponseHead(new_response_id(), 1000, "demo", request), self._keep, clock=lambda: 1001.9)
        asyncio.run(self._tell(generation(pieces, reason)))
        self.final = self.run.body

    @property
    def output(self) -> list[dict[str, Any]]:
        output: list[dict[str, Any]] = self.final["output"]
        return output

    @property
    def kinds(self) -> list[str]:
        return [event["type"].removeprefix("response.") for event in self.events]

    async def _keep(self, body: dict[str, Any]) -> None:
        assert not any(event["type"] == f"response.{body['status']}" for event in self.events), "kept before it is told"
        self.kept.append(body)

    async def _tell(self, events: AsyncGenerator[GenerateEvent, None]) -> None:
        try:
            async for event in self.run.events(events):
                self.events.append(event)
        except LocalLLMError as error:
            self.events.append(self.run.failed(error))


def test_a_text_is_told_in_the_order_that_clients_expect() -> None:
    told = Told([Chunk(0, "Hello", 1), Chunk(0, " there", 1)])
    assert told.kinds == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert check_stream(told.events) == told.final == told.kept[0]
    assert check_response(told.final).output_text == "Hello there"
    assert (told.final["created_at"], told.final["completed_at"]) == (1000, 1001)
    assert told.final["usage"] == {
        "input_tokens": 5,
        "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 3},
        "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 1},
        "total_tokens": 7,
    }


def test_a_call_is_told_with_its_name_to_the_end() -> None:
    told = Told([CallDelta(0, 0, "f", id="call_a"), CallDelta(0, 0, None, '{"x":'), CallDelta(0, 0, None, "1}")])
    assert told.kinds[2:-1] == [
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
    ]
    check_stream(told.events)
    [call] = told.output
    assert call == {
        "id": call["id"],
        "type": "function_call",
        "status": "completed",
        "call_id": "call_a",
        "name": "f",
        "arguments": '{"x":1}',
    }
    assert call["id"].startswith("fc_")


def test_thoughts_text_and_calls_are_items_of_their_own() -> None:
    told = Told([THOUGHT, Chunk(0, "I look.", 2), CallDelta(0, 0, "f", "{}"), CallDelta(0, 1, "g"), THOUGHT])
    check_stream(told.events)
    assert [item["type"] for item in told.output] == [
        "reasoning",
        "message",
        "function_call",
        "function_call",
        "reasoning",
    ]
    assert [item["id"].partition("_")[0] for item in told.output] == ["rs", "msg", "fc", "fc", "rs"]
    assert told.output[0]["content"] == [{"type": "reasoning_text", "text": "Hm."}]
    assert told.output[3]["arguments"] == "{}", "clients parse arguments as JSON"


def test_thoughts_are_the_summary_for_who_asks_for_one() -> None:
    """Clients that ask for a summary show nothing else of what was thought."""
    told = Told([THOUGHT, Chunk(0, " So.", 1, region="reasoning"), Chunk(0, "Hi", 1)], reasoning={"summary": "auto"})
    assert told.kinds[2:9] == [
        "output_item.added",
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "output_item.done",
    ]
    final = check_stream(told.events)
    assert final["output"][0]["summary"] == [{"type": "summary_text", "text": "Hm. So."}]
    assert final["output"][0]["content"] == []
    older = Told([THOUGHT], reasoning={"generate_summary": "detailed"})
    assert older.output[0]["summary"] == [{"type": "summary_text", "text": "Hm."}]


def test_thoughts_can_be_left_out() -> None:
    told = Told([THOUGHT, Chunk(0, "Yes", 1)], reasoning={"exclude": True})
    check_stream(told.events)
    assert [item["type"] for item in told.output] == ["message"]
    assert told.final["usage"]["output_tokens_details"]["reasoning_tokens"] == 1


@pytest.mark.parametrize("pieces", [[], [THOUGHT], [Chunk(0, "", 1)]])
def test_an_answer_without_any_text_has_an_empty_message(pieces: list[Piece]) -> None:
    told = Told(pieces)
    check_stream(told.events)
    assert told.output[-1]["content"] == [{"type": "output_text", "text": "", "annotations": [], "logprobs": []}]


@pytest.mark.parametrize(
    "pieces", [[], [THOUGHT], [Chunk(0, "Hel", 1)], [CallDelta(0, 0, "f", '{"x')], [CallDelta(0, 0, "f")]]
)
def test_an_answer_that_was_cut_says_so(pieces: list[Piece]) -> None:
    told = Told(pieces, "length", max_output_tokens=1)
    check_stream(told.events)
    assert told.final["status"] == "incomplete"
    assert told.final["incomplete_details"] == {"reason": "max_output_tokens"}
    assert told.final["completed_at"] is None
    assert [item["status"] for item in told.output] == ["incomplete"] * len(pieces)
    assert told.kept == [told.final]


def token(text: str, *others: str) -> TokenLogprob:
    top = tuple(TokenAlternative(other, other.encode(), -1.0) for other in (text, *others))
    return TokenLogprob(text, text.encode(), -0.5, top)


def test_log_probabilities_stand_in_events_and_in_the_item() -> None:
    pieces = [Chunk(0, "Hi", 1, (token("Hi", "Ho"),)), Chunk(0, "", 1, (token("\ufffd"),))]
    told = Told(pieces, include=["message.output_text.logprobs"], top_logprobs=2)
    check_stream(told.events)
    [part] = told.output[0]["content"]
    assert [entry["token"] for entry in part["logprobs"]] == ["Hi", "\ufffd"]
    assert part["logprobs"][0]["top_logprobs"][1] == {"token": "Ho", "logprob": -1.0, "bytes": [72, 111]}
    deltas = [event["logprobs"] for event in told.events if event["type"] == "response.output_text.delta"]
    [done] = [event["logprobs"] for event in told.events if event["type"] == "response.output_text.done"]
    assert [entry for logprobs in deltas for entry in logprobs] == done
    assert done[0]["top_logprobs"] == [{"token": "Hi", "logprob": -1.0}, {"token": "Ho", "logprob": -1.0}]


def test_log_probabilities_that_nobody_asked_for_are_not_told() -> None:
    told = Told([Chunk(0, "Hi", 1, (token("Hi"),))])
    assert told.output[0]["content"][0]["logprobs"] == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (WorkerCrashedError("The worker is gone."), "server_error"),
        (InvalidRequestError("No."), "invalid_prompt"),
        (OverloadedError("Full."), "rate_limit_exceeded"),
    ],
)
def test_an_error_on_the_way_fails_the_response(error: LocalLLMError, code: str) -> None:
    told = Told([Chunk(0, "Hel", 1), error])
    assert told.kinds[-1] == "failed"
    check_response(told.final)
    assert told.final["error"] == {"code": code, "message": error.message}
    assert [item["status"] for item in told.output] == ["incomplete"]
    assert told.kept == []
    assert told.events[-1]["sequence_number"] == len(told.events) - 1


def test_a_stream_that_is_cut_short_ends_in_its_own_words() -> None:
    """What has begun fails; where nothing has, or all was said, an event tells that official clients raise."""
    error = OverloadedError("Full.")
    told = {"error": {"message": "Full.", "type": "server_error", "param": None, "code": error.code}}

    async def cut(run: ResponseRun, n_events: int) -> dict[str, Any]:
        async with aclosing(run.events(generation([Chunk(0, "Hel", 1), Chunk(0, "lo", 1)]))) as events:
            for _ in range(n_events):
                await anext(events)
        return run.farewell(error, told)

    def begun(n_events: int) -> tuple[ResponseRun, dict[str, Any]]:
        async def keep(body: dict[str, Any]) -> None:
            pass

        run = ResponseRun(ResponseHead(new_response_id(), 1, "demo", parse_response({"input": "Hi"})), keep)
        return run, asyncio.run(cut(run, n_events))

    run, last = begun(5)
    assert (last["type"], last["sequence_number"]) == ("response.failed", 5)
    assert check_response(last["response"]).output_text == "Hel"
    for n_events in (0, 10):
        run, last = begun(n_events)
        assert last == {
            "type": "error",
            "sequence_number": n_events,
            "code": error.code,
            "message": "Full.",
            "param": None,
            **told,
        }
        assert run.status == ("completed" if n_events else "in_progress")
        check_no_extra(EVENTS.validate_python({name: last[name] for name in last if name != "error"}, strict=True))


def test_events_that_end_too_early_are_an_error() -> None:
    async def broken() -> AsyncGenerator[GenerateEvent, None]:
        yield Started(5)
        yield Chunk(0, "Hel", 1)

    request = parse_response({"input": "Hi"})

    async def keep(body: dict[str, Any]) -> None:
        raise AssertionError

    async def scenario() -> None:
        run = ResponseRun(ResponseHead(new_response_id(), 1, "demo", request), keep)
        async for _ in run.events(broken()):
            pass

    with pytest.raises(ProtocolError):
        asyncio.run(scenario())


def test_what_is_generated_stops_when_nobody_listens() -> None:
    closed = asyncio.Event()

    async def endless() -> AsyncGenerator[GenerateEvent, None]:
        try:
            yield Started(5)
            while True:
                yield Chunk(0, "x", 1)
        finally:
            closed.set()

    async def scenario() -> None:
        told = parse_response({"input": "Hi"})

        async def keep(body: dict[str, Any]) -> None:
            raise AssertionError

        run = ResponseRun(ResponseHead(new_response_id(), 1, "demo", told), keep)
        events = run.events(endless())
        for _ in range(5):
            await anext(events)
        assert run.body["status"] == "in_progress"
        check_response(run.body)
        await events.aclose()
        assert closed.is_set()

    asyncio.run(scenario())


def test_warnings_and_fields_of_others_stand_in_the_body() -> None:
    async def scenario() -> dict[str, Any]:
        async def keep(body: dict[str, Any]) -> None:
            return None

        request = parse_response({"input": "Hi", "tools": [{"type": "web_search"}]})
        run = ResponseRun(ResponseHead(new_response_id(), 1, "demo", request), keep, warnings=request.warnings())
        async for _ in run.events(generation([Chunk(0, "Hi", 1)], warnings=("Careful.",))):
            pass
        return run.body

    first, second = asyncio.run(scenario())["warnings"]
    assert "web_search" in first
    assert second == "Careful."


PIECES = st.lists(
    st.one_of(
        st.builds(Chunk, st.just(0), st.text(max_size=3), st.just(1), region=st.sampled_from(["content", "reasoning"])),
        st.tuples(st.sampled_from("fg"), st.lists(st.text(max_size=3), max_size=3)),
    ),
    max_size=8,
)


@given(PIECES, st.sampled_from(["stop", "length", "tool_calls"]), st.booleans())
def test_whatever_is_written_the_stream_and_the_response_agree(
    written: list[Any], reason: FinishReason, background: bool
) -> None:
    pieces: list[Piece] = []
    n_calls = 0
    for one in written:
        if isinstance(one, Chunk):
            pieces.append(one)
            continue
        name, arguments = one
        pieces.append(CallDelta(0, n_calls, name))
        pieces += [CallDelta(0, n_calls, None, text) for text in arguments]
        n_calls += 1
    told = Told(pieces, reason, background=background)
    assert check_stream(told.events, background=background) == told.final
    texts = "".join(one.text for one in written if isinstance(one, Chunk) and one.region == "content")
    assert check_response(told.final).output_text == texts
    for index, item in enumerate(told.output):
        assert place_of(item["id"]) == (told.final["id"], "output", index)


@given(st.integers(0, 99_999), st.sampled_from(["message", "function_call", "reasoning"]))
def test_an_item_s_id_leads_to_its_response(index: int, kind: str) -> None:
    response_id = new_response_id()
    for side in ("input", "output"):
        identity = item_id(kind, response_id, side, index)  # type: ignore[arg-type]
        assert place_of(identity) == (response_id, side, index)
        assert len(identity) <= 64
    assert place_of(f"msg_{index}") is None
