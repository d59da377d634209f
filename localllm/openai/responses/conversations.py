"""Bodies and objects of ``/v1/conversations``, and the lists in which items are paged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import Field, PlainValidator

from localllm.contract.errors import InvalidRequestError
from localllm.openai.responses.items import InputItems, Item, read_items
from localllm.openai.responses.request import Metadata
from localllm.openai.wire_model import WireModel, describe, validate

DEFAULT_PAGE: Final = 20
MAX_PAGE: Final = 100

Items = Annotated[InputItems, PlainValidator(read_items, list[dict[str, Any]])]


class ConversationBody(WireModel):
    """The body that begins a conversation."""

    items: Items = InputItems(())
    metadata: Metadata = Field(default_factory=dict)


class ConversationChange(WireModel):
    """The body that changes a conversation."""

    metadata: Metadata


class MoreItems(WireModel):
    """The body that adds to a conversation."""

    items: Items


def parse_conversation(body: Mapping[str, Any]) -> ConversationBody:
    """Return the checked body. Raises ``InvalidRequestError``, also for no items at all where there is a list."""
    if body.get("items") == []:
        body = {name: value for name, value in body.items() if name != "items"}
    return validate(ConversationBody, body)


def parse_change(body: Mapping[str, Any]) -> ConversationChange:
    """Return the checked body; metadata that is null is taken away. Raises ``InvalidRequestError``."""
    if "metadata" in body and body["metadata"] is None:
        body = {**body, "metadata": {}}
    return validate(ConversationChange, body)


def parse_more_items(body: Mapping[str, Any]) -> MoreItems:
    """Return the checked body. Raises ``InvalidRequestError``."""
    return validate(MoreItems, body)


def conversation_fields(identity: str, created_at: float, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return the object of a conversation."""
    return {
        "id": identity,
        "object": "conversation",
        "created_at": int(created_at),
        "metadata": dict(metadata),
    }


class PageQuery(WireModel):
    """How a list is paged."""

    limit: int = Field(DEFAULT_PAGE, ge=1, le=MAX_PAGE)
    order: Literal["asc", "desc"] = "desc"
    after: str | None = Field(None, min_length=1, max_length=512)


def parse_page(query: Mapping[str, str]) -> PageQuery:
    """Return what a query says of the page. Raises ``InvalidRequestError``."""
    fields: dict[str, Any] = {name: query[name] for name in ("order", "after") if name in query}
    if "limit" in query:
        text = query["limit"]
        if not (text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_PAGE))):
            message = f"limit must be a number from 1 to {MAX_PAGE}, not {describe(text)}."
            raise InvalidRequestError(message, param="limit")
        fields["limit"] = int(text)
    return validate(PageQuery, fields)


def item_list(items: Sequence[Item], *, has_more: bool = False) -> dict[str, Any]:
    """Return a page of items. The clients' types have no null for the ids, so of an empty page they are empty."""
    return {
        "object": "list",
        "data": list(items),
        "first_id": items[0]["id"] if items else "",
        "last_id": items[-1]["id"] if items else "",
        "has_more": has_more,
    }
