"""The bodies of requests about sessions, and the messages that they are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson
from pydantic import Field

from localllm.contract.errors import InvalidRequestError
from localllm.openai.messages import Message, Messages, to_plain_messages
from localllm.openai.wire_model import WireModel, validate

MAX_SESSION_ID_CHARS: Final = 256
MAX_TITLE_CHARS: Final = 200
MAX_METADATA_BYTES: Final = 16 * 1024
_MAX_MODEL_CHARS: Final = 256
_MAX_MESSAGES: Final = 10**9


class SessionChangeRequest(WireModel):
    """What may be changed of a session; null leaves it. :func:`parse_session_change` makes it."""

    title: str | None = Field(None, max_length=MAX_TITLE_CHARS)
    metadata: dict[str, Any] | None = None


class NewSessionRequest(SessionChangeRequest):
    """What a session begins with: nothing, ``messages``, or the first ``n_messages`` of another session (absent: all).

    :func:`parse_new_session` makes it.
    """

    model: str | None = Field(None, max_length=_MAX_MODEL_CHARS)
    messages: Messages | None = None
    copy_of: str | None = Field(None, min_length=1, max_length=MAX_SESSION_ID_CHARS)
    n_messages: int | None = Field(None, ge=1, le=_MAX_MESSAGES)

    @property
    def plain_messages(self) -> tuple[Mapping[str, Any], ...]:
        """The messages as the engine takes them. Raises ``InvalidRequestError`` as ``to_plain_messages`` does."""
        return to_plain_messages(self.messages) if self.messages else ()


def parse_session_change(body: Mapping[str, Any]) -> SessionChangeRequest:
    """Return the checked body. Raises ``InvalidRequestError``, for unknown fields too: nothing is to be half done."""
    _refuse_unknown(body, SessionChangeRequest)
    return _checked(validate(SessionChangeRequest, body))


def parse_new_session(body: Mapping[str, Any]) -> NewSessionRequest:
    """Return the checked body. Raises as :func:`parse_session_change` does."""
    _refuse_unknown(body, NewSessionRequest)
    wanted = validate(NewSessionRequest, body)
    _checked(wanted)
    if wanted.copy_of is not None and wanted.messages is not None:
        message = "copy_of and messages can't both be given: a session begins with one of them."
        raise InvalidRequestError(message, param="messages")
    if wanted.n_messages is not None and wanted.copy_of is None:
        message = "n_messages needs copy_of: it says how many messages of another session are copied."
        raise InvalidRequestError(message, param="n_messages")
    return wanted


def parse_session_message(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return one message as the engine takes it. Raises ``InvalidRequestError``."""
    (plain,) = to_plain_messages([validate(Message, message)])
    return plain


def _checked(wanted: SessionChangeRequest) -> SessionChangeRequest:
    n_bytes = len(orjson.dumps(wanted.metadata or {}))
    if n_bytes > MAX_METADATA_BYTES:
        message = f"metadata must have at most {MAX_METADATA_BYTES} bytes of JSON, but it has {n_bytes}."
        raise InvalidRequestError(message, param="metadata")
    return wanted


def _refuse_unknown(body: Mapping[str, Any], model: type[WireModel]) -> None:
    for name in body:
        if name not in model.model_fields:
            message = f"Unknown field {name[:40]!r}; there are: {', '.join(model.model_fields)}."
            raise InvalidRequestError(message, param=name[:40])
