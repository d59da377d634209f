"""What the endpoints say of themselves."""

from __future__ import annotations

from typing import Final

from localllm import MODEL_ERRORS, EndpointDoc, ParameterDoc, ResponseDoc
from localllm.openai.responses import answer_schemas, request_schemas

_TAG: Final = "responses"
_RESPONSE_ID: Final = ParameterDoc("response_id", "path", "The response's id.", required=True)
_CONVERSATION_ID: Final = ParameterDoc("conversation_id", "path", "The conversation's id.", required=True)
_ITEM_ID: Final = ParameterDoc("item_id", "path", "The item's id.", required=True)
_PAGE: Final = (
    ParameterDoc("limit", "query", "How many items at most.", {"type": "integer", "minimum": 1, "maximum": 100}),
    ParameterDoc("order", "query", "Oldest first (asc) or newest first.", {"enum": ["asc", "desc"]}),
    ParameterDoc("after", "query", "The id of the item behind which the page begins."),
)
_QUESTION: Final = "What is the capital of France?"
_FINDING: Final = (404,)
_KEEPING: Final = (404, 507)
_WRITING: Final = (*MODEL_ERRORS, 507)
_STREAMED: Final = ("application/json", "text/event-stream")
_WEATHER_TOOL: Final = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the weather in a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
_CITY_SCHEMA: Final = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "large": {"type": "boolean"}},
    "required": ["city", "large"],
    "additionalProperties": False,
}

CREATE: Final = EndpointDoc(
    summary="Write a response",
    description=(
        "OpenAI's Responses API. A response is kept unless `store` is false; `previous_response_id` goes on from one, "
        "`conversation` with many. `background` answers at once: poll `GET /v1/responses/{response_id}`."
    ),
    tag=_TAG,
    request=request_schemas.response_request_schema,
    examples={
        "A question": {"input": _QUESTION, "max_output_tokens": 40},
        "Streamed, with instructions": {
            "input": _QUESTION,
            "instructions": "You answer in one sentence.",
            "max_output_tokens": 40,
            "stream": True,
        },
        "Held to a JSON schema": {
            "input": "Describe the city of Paris.",
            "max_output_tokens": 100,
            "text": {"format": {"type": "json_schema", "name": "city", "schema": _CITY_SCHEMA}},
        },
        "With a function to call": {
            "input": "What is the weather in Paris?",
            "max_output_tokens": 100,
            "tools": [_WEATHER_TOOL],
        },
    },
    responses={
        200: ResponseDoc(
            "The response; with `stream` its events, the last of which has all of it.",
            schema=answer_schemas.response_schema,
            media=_STREAMED,
            events=answer_schemas.response_event_schema,
        )
    },
    errors=_WRITING,
)
SIMPLE: Final = EndpointDoc(
    summary="Answer one text",
    description='One text in, one message out: `shape = "simple"` in `[plugin.responses]`.',
    tag=_TAG,
    request=request_schemas.simple_request_schema,
    examples={"A question": {"input": _QUESTION, "instructions": "You answer in one sentence."}},
    responses={200: ResponseDoc("The answer.", answer_schemas.simple_schema)},
    errors=MODEL_ERRORS,
)
INPUT_TOKENS: Final = EndpointDoc(
    summary="Count the tokens of a response's prompt",
    tag=_TAG,
    request=request_schemas.response_request_schema,
    examples={"A question": {"input": _QUESTION}},
    responses={200: ResponseDoc("How many there are.", answer_schemas.input_tokens_schema)},
    errors=MODEL_ERRORS,
)
GET: Final = EndpointDoc(
    summary="Fetch a response",
    description="As it is now: one in the background may still be on its way.",
    tag=_TAG,
    parameters=(
        _RESPONSE_ID,
        ParameterDoc("stream", "query", "Follow the stream of one in the background.", {"type": "boolean"}),
        ParameterDoc("starting_after", "query", "Follow from behind this event on.", {"type": "integer", "minimum": 0}),
    ),
    responses={
        200: ResponseDoc(
            "The response, or its events.",
            schema=answer_schemas.response_schema,
            media=_STREAMED,
            events=answer_schemas.response_event_schema,
        )
    },
    errors=_FINDING,
)
DELETE: Final = EndpointDoc(
    summary="Forget a response",
    tag=_TAG,
    parameters=(_RESPONSE_ID,),
    responses={200: ResponseDoc("It is gone.", answer_schemas.deletion_schema("response"))},
    errors=_KEEPING,
)
CANCEL: Final = EndpointDoc(
    summary="Cancel a response in the background",
    tag=_TAG,
    parameters=(_RESPONSE_ID,),
    responses={200: ResponseDoc("The response, which is no longer on its way.", answer_schemas.response_schema)},
    errors=_KEEPING,
)
INPUT_ITEMS: Final = EndpointDoc(
    summary="List a response's input",
    tag=_TAG,
    parameters=(_RESPONSE_ID, *_PAGE),
    responses={200: ResponseDoc("A page of items.", answer_schemas.item_list_schema)},
    errors=_FINDING,
)
NEW_CONVERSATION: Final = EndpointDoc(
    summary="Begin a conversation",
    tag=_TAG,
    request=request_schemas.conversation_request_schema,
    examples={"With a first message": {"items": [{"role": "user", "content": "My name is Ada."}]}},
    responses={200: ResponseDoc("The conversation.", answer_schemas.conversation_schema)},
    errors=_KEEPING,
)
GET_CONVERSATION: Final = EndpointDoc(
    summary="Fetch a conversation",
    tag=_TAG,
    parameters=(_CONVERSATION_ID,),
    responses={200: ResponseDoc("The conversation.", answer_schemas.conversation_schema)},
    errors=_FINDING,
)
CHANGE_CONVERSATION: Final = EndpointDoc(
    summary="Change a conversation's metadata",
    tag=_TAG,
    request=request_schemas.change_request_schema,
    parameters=(_CONVERSATION_ID,),
    responses={200: ResponseDoc("The conversation.", answer_schemas.conversation_schema)},
    errors=_KEEPING,
)
DELETE_CONVERSATION: Final = EndpointDoc(
    summary="Forget a conversation",
    tag=_TAG,
    parameters=(_CONVERSATION_ID,),
    responses={200: ResponseDoc("It is gone.", answer_schemas.deletion_schema("conversation.deleted"))},
    errors=_KEEPING,
)
ADD_ITEMS: Final = EndpointDoc(
    summary="Add items to a conversation",
    tag=_TAG,
    request=request_schemas.items_request_schema,
    parameters=(_CONVERSATION_ID,),
    responses={200: ResponseDoc("The items, with their ids.", answer_schemas.item_list_schema)},
    errors=_KEEPING,
)
LIST_ITEMS: Final = EndpointDoc(
    summary="List a conversation's items",
    tag=_TAG,
    parameters=(_CONVERSATION_ID, *_PAGE),
    responses={200: ResponseDoc("A page of items.", answer_schemas.item_list_schema)},
    errors=_FINDING,
)
GET_ITEM: Final = EndpointDoc(
    summary="Fetch an item of a conversation",
    tag=_TAG,
    parameters=(_CONVERSATION_ID, _ITEM_ID),
    responses={200: ResponseDoc("The item.", answer_schemas.item_schema)},
    errors=_FINDING,
)
DELETE_ITEM: Final = EndpointDoc(
    summary="Forget an item of a conversation",
    tag=_TAG,
    parameters=(_CONVERSATION_ID, _ITEM_ID),
    responses={200: ResponseDoc("The conversation.", answer_schemas.conversation_schema)},
    errors=_KEEPING,
)
