"""Holds bodies and streams of ``/v1/responses`` to the official client's own models, leaving nothing out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import openai
from openai.types.responses import Response, ResponseItemList, ResponseStreamEvent
from pydantic import TypeAdapter

UNKNOWN_HERE = {"moderation", "prompt", "prompt_cache_options", "prompt_cache_retention"}
"""Fields of the client's model that ask for services of OpenAI's."""

EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
DONE_KINDS = {"response.completed", "response.incomplete", "response.failed"}


def check_no_extra(value: object, at: str = "") -> None:
    """Assert that no model anywhere in ``value`` was given a field that it doesn't have."""
    if isinstance(value, openai.BaseModel):
        assert not value.model_extra, (at, value.model_extra)
        for name in type(value).model_fields:
            check_no_extra(getattr(value, name), f"{at}.{name}")
    elif isinstance(value, dict):
        for name, inner in value.items():
            check_no_extra(inner, f"{at}.{name}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            check_no_extra(inner, f"{at}[{index}]")


def check_response(body: dict[str, Any]) -> Response:
    """Assert that a body is a response: every field there is, no other, all of the right types."""
    response = Response.model_validate(body, strict=True)
    check_no_extra(response)
    assert set(body) == set(Response.model_fields) - UNKNOWN_HERE
    finished = body["status"] in ("completed", "incomplete")
    assert (body["usage"] is not None) == finished
    assert (body["error"] is not None) == (body["status"] == "failed")
    assert (body["incomplete_details"] is not None) == (body["status"] == "incomplete")
    assert len({item["id"] for item in body["output"]}) == len(body["output"])
    return response


def check_items(page: dict[str, Any]) -> list[dict[str, Any]]:
    """Assert that a list of items is one, and return them."""
    check_no_extra(ResponseItemList.model_validate(page, strict=True))
    assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
    return list(page["data"])


def check_stream(events: Sequence[dict[str, Any]], *, background: bool = False) -> dict[str, Any]:
    """Assert that events are those of one response, complete and in order; return the final response."""
    for event in events:
        check_no_extra(EVENTS.validate_python(event, strict=True), event["type"])
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    opening = ["response.created", *(["response.queued"] if background else []), "response.in_progress"]
    assert [event["type"] for event in events[: len(opening)]] == opening
    for event in events[: len(opening)]:
        check_response(event["response"])
        assert event["response"]["output"] == []
    last = events[-1]
    assert last["type"] in DONE_KINDS
    assert not DONE_KINDS.intersection(event["type"] for event in events[:-1])
    final: dict[str, Any] = last["response"]
    check_response(final)
    assert f"response.{final['status']}" == last["type"]
    constant = ("id", "created_at", "model", "previous_response_id", "metadata", "tools")
    for event in events[: len(opening)]:
        assert {name: event["response"][name] for name in constant} == {name: final[name] for name in constant}
    assert _accumulate(events[len(opening) : -1]) == final["output"]
    return final


def _accumulate(events: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put the output together from deltas alone, asserting that what is told as done is what was told before."""
    output: list[dict[str, Any]] = []
    texts: dict[int, str] = {}
    open_at: int | None = None
    for event in events:
        kind, index = event["type"].removeprefix("response."), event["output_index"]
        if kind == "output_item.added":
            assert open_at is None, "one item is open at a time"
            assert index == len(output)
            assert event["item"]["status"] == "in_progress"
            assert event["item"].get("content", []) == event["item"].get("summary", []) == []
            assert event["item"].get("arguments", "") == ""
            output.append(dict(event["item"]))
            texts[index], open_at = "", index
            continue
        assert index == open_at
        item = output[index]
        if kind == "output_item.done":
            assert event["item"] == {**item, "status": event["item"]["status"]}
            output[index], open_at = event["item"], None
            continue
        assert event["item_id"] == item["id"]
        parts = "summary" if "summary" in kind else "content"
        assert event.get(f"{parts}_index") == (None if item["type"] == "function_call" else 0)
        if kind.endswith("_part.added"):
            assert item[parts] == []
            item[parts] = [event["part"]]
        elif kind.endswith("_part.done"):
            item[parts] = [event["part"]]
            assert event["part"]["text"] == texts[index]
        elif kind.endswith(".delta"):
            texts[index] += event["delta"]
        elif kind == "function_call_arguments.done":
            assert (event["name"], event["arguments"]) == (item["name"], texts[index])
            item["arguments"] = texts[index]
        else:
            assert kind in ("output_text.done", "reasoning_text.done", "reasoning_summary_text.done")
            assert event["text"] == texts[index]
    assert open_at is None
    return output
