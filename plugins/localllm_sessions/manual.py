"""What the endpoints about sessions say of themselves in the description of the service."""

from __future__ import annotations

from typing import Any, Final

from localllm import EndpointDoc, ParameterDoc, ResponseDoc
from localllm.openai import MAX_TITLE_CHARS

from .objects import DEFAULT_LIMIT, MAX_LIMIT
from .transfer import JSON_LINES

_TAG: Final = "sessions"
_TEXT: Final = {"type": "string"}
_COUNT: Final = {"type": "integer", "minimum": 0}
_MAYBE_TEXT: Final = {"type": ["string", "null"]}


def _object(required: list[str], **properties: Any) -> dict[str, Any]:  # noqa: ANN401 - schemas
    return {"type": "object", "required": required, "properties": properties}


def _all_of(**properties: Any) -> dict[str, Any]:  # noqa: ANN401 - schemas
    return _object(list(properties), **properties)


def _list_of(entry: dict[str, Any]) -> dict[str, Any]:
    return _all_of(
        object={"const": "list"},
        data={"type": "array", "items": entry},
        first_id=_MAYBE_TEXT,
        last_id=_MAYBE_TEXT,
        has_more={"type": "boolean"},
    )


_USAGE: Final = _all_of(
    prompt_tokens=_COUNT, completion_tokens=_COUNT, total_tokens=_COUNT, cached_tokens=_COUNT, reasoning_tokens=_COUNT
)
_SESSION: Final = _all_of(
    id=_TEXT,
    object={"const": "session"},
    created_at={"type": "integer", "description": "Seconds since 1970."},
    used_at={"type": "integer", "description": "When the last turn was kept."},
    title=_TEXT,
    model=_MAYBE_TEXT,
    messages=_COUNT,
    context_tokens={"type": "integer", "description": "What the conversation took of the model's context last."},
    usage=_USAGE,
    metadata={"type": "object"},
)
_MESSAGE: Final = _object(["role", "content"], role=_TEXT, content=_TEXT)
_STORED: Final = _object(
    ["id", "object", "index", "turn", "created_at", "role", "content"],
    id=_TEXT,
    object={"const": "session.message"},
    index=_COUNT,
    turn={"type": "integer", "description": "Messages of one turn were kept together."},
    created_at={"type": "integer"},
    role=_TEXT,
    content=_TEXT,
    tool_calls={"type": "array", "items": {"type": "object"}},
    replaces={"const": True, "description": "These instructions count instead of those before."},
)
_TITLE: Final = {"type": ["string", "null"], "maxLength": MAX_TITLE_CHARS, "description": "What it is called."}
_METADATA: Final = {"type": ["object", "null"], "description": "The caller's own, at most 16 KB of JSON."}

_ID: Final = ParameterDoc("id", "path", "The session's id.", required=True)
_LIMIT: Final = ParameterDoc(
    "limit",
    "query",
    "How many entries to answer.",
    {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT},
)
_FAILURES: Final = (400, 404, 503)
_WRITE_FAILURES: Final = (*_FAILURES, 507)

LIST: Final = EndpointDoc(
    "List the sessions",
    "Those of the caller's API key, the one that was used last first.",
    _TAG,
    parameters=(_LIMIT, ParameterDoc("after", "query", "The id of the last session of the page before.")),
    responses={200: ResponseDoc("One page.", _list_of(_SESSION))},
    errors=_FAILURES,
)
CREATE: Final = EndpointDoc(
    "Begin a session",
    "Empty, with what was said before (`messages`), or with the first `n_messages` of another one (`copy_of`). A chat "
    'request with `"session_id": "new"` begins one by itself.',
    _TAG,
    request={
        **_object(
            [],
            title=_TITLE,
            metadata=_METADATA,
            model={"type": ["string", "null"], "maxLength": 256},
            messages={"type": ["array", "null"], "minItems": 1, "items": _MESSAGE},
            copy_of={"type": ["string", "null"], "minLength": 1, "maxLength": 256},
            n_messages={"type": ["integer", "null"], "minimum": 1, "maximum": 10**9},
        ),
        "additionalProperties": False,
    },
    examples={
        "Empty": {"title": "A first talk", "metadata": {"project": "demo"}},
        "With what was said before": {
            "messages": [
                {"role": "system", "content": "You are a helpful assistant."},
                {"role": "user", "content": "My name is Zorbani."},
                {"role": "assistant", "content": "Nice to meet you, Zorbani."},
            ]
        },
    },
    responses={201: ResponseDoc("The session.", _SESSION)},
    errors=_WRITE_FAILURES,
)
GET: Final = EndpointDoc(
    "Get a session",
    tag=_TAG,
    parameters=(_ID,),
    responses={200: ResponseDoc("The session, without its messages.", _SESSION)},
    errors=_FAILURES,
)
CHANGE: Final = EndpointDoc(
    "Change a session's title or metadata",
    "What is left out, or null, stays as it is; metadata is replaced as a whole.",
    _TAG,
    request={**_object([], title=_TITLE, metadata=_METADATA), "additionalProperties": False},
    examples={"Another title": {"title": "About names"}},
    parameters=(_ID,),
    responses={200: ResponseDoc("The session.", _SESSION)},
    errors=_WRITE_FAILURES,
)
DELETE: Final = EndpointDoc(
    "Delete a session",
    "With all its messages.",
    _TAG,
    parameters=(_ID,),
    responses={
        200: ResponseDoc("It is gone.", _all_of(id=_TEXT, object={"const": "session.deleted"}, deleted={"const": True}))
    },
    errors=_WRITE_FAILURES,
)
MESSAGES: Final = EndpointDoc(
    "Read a session",
    "Its messages, the oldest first, instructions and calls of tools included.",
    _TAG,
    parameters=(_ID, _LIMIT, ParameterDoc("after", "query", "The id of the last message of the page before.")),
    responses={200: ResponseDoc("One page.", _list_of(_STORED))},
    errors=_FAILURES,
)
EXPORT: Final = EndpointDoc(
    "Export a session",
    "As JSON lines: one about the session, then one for each message.",
    _TAG,
    parameters=(_ID,),
    responses={200: ResponseDoc("The lines.", media=(JSON_LINES,))},
    errors=_FAILURES,
)
IMPORT: Final = EndpointDoc(
    "Import a session",
    "The lines that an export gave become a new session of the caller's, all of them or none. Token counts are not "
    "taken over: nothing was spent for it here.",
    _TAG,
    request=_TEXT,
    request_media=JSON_LINES,
    examples={
        "Two messages": (
            '{"object": "session.export", "format": 1, "title": "A greeting", "messages": 2}\n'
            '{"turn": 0, "message": {"role": "user", "content": "Hello!"}}\n'
            '{"turn": 0, "message": {"role": "assistant", "content": "Hello! How can I help you?"}}\n'
        )
    },
    responses={201: ResponseDoc("The session.", _SESSION)},
    errors=(400, 413, 415, 503, 507),
)
