"""The public JSON of OpenAI's ``/v1/responses`` and ``/v1/conversations``: request models, items, bodies, events."""

from __future__ import annotations

from localllm.openai.responses.body import UNFINISHED, Body, ResponseHead, error_fields, simple_body
from localllm.openai.responses.conversations import (
    ConversationBody,
    ConversationChange,
    MoreItems,
    PageQuery,
    conversation_fields,
    item_list,
    parse_change,
    parse_conversation,
    parse_more_items,
    parse_page,
)
from localllm.openai.responses.history import drop_oldest, to_messages
from localllm.openai.responses.ids import (
    ItemPlace,
    item_id,
    new_conversation_id,
    new_item_id,
    new_response_id,
    place_of,
)
from localllm.openai.responses.items import InputItems, Item, is_reference, with_ids
from localllm.openai.responses.missing import (
    ConversationNotFoundError,
    ItemNotFoundError,
    PreviousResponseNotFoundError,
    ResponseNotFoundError,
)
from localllm.openai.responses.request import ResponseRequest, SimpleRequest, parse_response, parse_simple
from localllm.openai.responses.run import ResponseRun, lost_event

__all__ = [
    "UNFINISHED",
    "Body",
    "ConversationBody",
    "ConversationChange",
    "ConversationNotFoundError",
    "InputItems",
    "Item",
    "ItemNotFoundError",
    "ItemPlace",
    "MoreItems",
    "PageQuery",
    "PreviousResponseNotFoundError",
    "ResponseHead",
    "ResponseNotFoundError",
    "ResponseRequest",
    "ResponseRun",
    "SimpleRequest",
    "conversation_fields",
    "drop_oldest",
    "error_fields",
    "is_reference",
    "item_id",
    "item_list",
    "lost_event",
    "new_conversation_id",
    "new_item_id",
    "new_response_id",
    "parse_change",
    "parse_conversation",
    "parse_more_items",
    "parse_page",
    "parse_response",
    "parse_simple",
    "place_of",
    "simple_body",
    "to_messages",
    "with_ids",
]
