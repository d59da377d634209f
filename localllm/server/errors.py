"""How every failure looks over HTTP: one body shape, one table of codes, and the errors that only HTTP can meet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.responses import Response

from localllm.contract.errors import (
    InvalidRequestError,
    LocalLLMError,
    ModelBusyError,
    ModelMisconfiguredError,
    ModelNotLoadedError,
)
from localllm.contract.sessions import SessionConflictError, SessionQuotaExceededError
from localllm.hookspecs import ErrorForm


class UnsupportedMediaTypeError(InvalidRequestError):
    """The body's content type, charset or content encoding is not one that we read."""

    code = "unsupported_media_type"


class RequestTooLargeError(LocalLLMError):
    """The body is longer than the route allows."""

    code = "request_too_large"

    def __init__(self, limit_bytes: int) -> None:
        message = f"The request body is longer than {limit_bytes} bytes. Send less, or raise server.max_body_bytes."
        super().__init__(message, detail={"limit_bytes": limit_bytes})


class BodyTimeoutError(LocalLLMError):
    """The body did not arrive within ``server.body_timeout_seconds``."""

    code = "body_timeout"


class DeadlineExceededError(LocalLLMError):
    """The request ran longer than ``server.request_timeout_seconds``."""

    code = "deadline_exceeded"


class UriTooLongError(LocalLLMError):
    """The request target is longer than we read."""

    code = "uri_too_long"


class HeadersTooLargeError(LocalLLMError):
    """There are more header fields, or longer ones, than we read."""

    code = "headers_too_large"


class MalformedRequestError(LocalLLMError):
    """The HTTP message itself is ambiguous or broken; the connection is closed after the answer."""

    code = "malformed_request"


class InvalidApiKeyError(LocalLLMError):
    """No API key, or one that the server doesn't know."""

    code = "invalid_api_key"


class HostNotAllowedError(LocalLLMError):
    """The Host header names a host that this server doesn't answer for (a guard against DNS rebinding)."""

    code = "host_not_allowed"


class OriginNotAllowedError(LocalLLMError):
    """A web page of another origin asks, and ``server.cors_origins`` doesn't list it."""

    code = "origin_not_allowed"


class OperationNotAllowedError(LocalLLMError):
    """The configuration does not let clients do this."""

    code = "operation_not_allowed"


class PullNotFoundError(LocalLLMError):
    """No pull has this id, or it ended so long ago that it was forgotten."""

    code = "pull_not_found"


class RouteNotFoundError(LocalLLMError):
    """No endpoint has this path."""

    code = "not_found"


class MethodNotAllowedError(LocalLLMError):
    """The endpoint exists, but not for this method."""

    code = "method_not_allowed"


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """How one code is answered: the status, OpenAI's ``type``, and whether the connection is closed afterwards."""

    status: int
    type: str
    close: bool = False


_CALLER = "invalid_request_error"
_SERVER = "server_error"

ERROR_KINDS: Mapping[str, ErrorKind] = {
    # The caller can mend these; clients don't repeat them.
    "invalid_request": ErrorKind(400, _CALLER),
    "unsupported_feature": ErrorKind(400, _CALLER),
    "context_length_exceeded": ErrorKind(400, _CALLER),
    "model_unsupported": ErrorKind(400, _CALLER),
    "model_not_found": ErrorKind(404, _CALLER),
    "model_too_large": ErrorKind(400, _CALLER),
    "model_not_loaded": ErrorKind(409, _CALLER),
    "model_busy": ErrorKind(409, _CALLER),
    "model_file_invalid": ErrorKind(422, _CALLER),
    "invalid_configuration": ErrorKind(422, _CALLER),
    "malformed_request": ErrorKind(400, _CALLER, close=True),
    "invalid_api_key": ErrorKind(401, "authentication_error"),
    "host_not_allowed": ErrorKind(403, "permission_error"),
    "origin_not_allowed": ErrorKind(403, "permission_error"),
    "operation_not_allowed": ErrorKind(403, "permission_error"),
    "address_refused": ErrorKind(403, "permission_error"),
    "pull_not_found": ErrorKind(404, _CALLER),
    "pull_cancelled": ErrorKind(409, _CALLER),
    "session_not_found": ErrorKind(404, _CALLER),
    "session_conflict": ErrorKind(409, _CALLER),
    "response_not_found": ErrorKind(404, _CALLER),
    "previous_response_not_found": ErrorKind(400, _CALLER),  # as OpenAI has it: the body is wrong, not the path
    "conversation_not_found": ErrorKind(404, _CALLER),
    "item_not_found": ErrorKind(404, _CALLER),
    "not_found": ErrorKind(404, _CALLER),
    "method_not_allowed": ErrorKind(405, _CALLER),
    "body_timeout": ErrorKind(408, _CALLER, close=True),
    "slow_reader": ErrorKind(408, _CALLER, close=True),
    "request_too_large": ErrorKind(413, _CALLER, close=True),
    "uri_too_long": ErrorKind(414, _CALLER, close=True),
    "unsupported_media_type": ErrorKind(415, _CALLER),
    "headers_too_large": ErrorKind(431, _CALLER, close=True),
    # These are ours; clients try again by themselves.
    "internal_error": ErrorKind(500, _SERVER),
    "model_misconfigured": ErrorKind(500, _SERVER),
    "worker_crashed": ErrorKind(502, _SERVER),
    "protocol_error": ErrorKind(502, _SERVER),
    "pull_failed": ErrorKind(502, _SERVER),
    "model_load_failed": ErrorKind(503, _SERVER),
    "overloaded": ErrorKind(503, _SERVER),
    "service_unavailable": ErrorKind(503, _SERVER),
    "deadline_exceeded": ErrorKind(504, _SERVER),
    "session_store_unavailable": ErrorKind(503, _SERVER),
    "insufficient_storage": ErrorKind(507, _SERVER),
    "session_quota_exceeded": ErrorKind(507, _CALLER),
    "session_storage_full": ErrorKind(507, _SERVER),
}
"""Every code that an answer can carry. ``docs/errors.md`` explains each; a test compares the two."""

_NOT_TO_REPEAT = frozenset(
    {
        DeadlineExceededError.code,
        ModelBusyError.code,
        ModelMisconfiguredError.code,
        ModelNotLoadedError.code,
        SessionConflictError.code,
        SessionQuotaExceededError.code,
    }
)
"""openai-python repeats 409 and 5xx by itself; this deadline took an hour, and the others are somebody's to mend."""

_BY_STATUS: Mapping[int, type[LocalLLMError]] = {404: RouteNotFoundError, 405: MethodNotAllowedError}


def error_kind(error: LocalLLMError) -> ErrorKind:
    """Return how ``error`` is answered; a plugin's own class counts as the nearest base that the table has."""
    for kind in type(error).__mro__:
        if issubclass(kind, LocalLLMError) and kind.code in ERROR_KINDS:
            return ERROR_KINDS[kind.code]
    return ERROR_KINDS[LocalLLMError.code]


def error_body(error: LocalLLMError) -> dict[str, Any]:
    """Return ``{"error": {"message", "type", "param", "code", **detail}}`` with texts that JSON can hold."""
    body = {
        **error.detail,
        "message": _clean(error.message),
        "type": error_kind(error).type,
        "param": None if error.param is None else _clean(error.param),
        "code": error.code,
    }
    return {"error": body}


def error_json(error: LocalLLMError, form: ErrorForm = "openai") -> bytes:
    """Return the error as one line of JSON, for a response or a server-sent event, in a route's form.

    "openai" is :func:`error_body`; "detail" is ``{"detail": message}`` and nothing else.
    """
    if form == "detail":
        return orjson.dumps({"detail": _clean(error.message)})
    try:
        return orjson.dumps(error_body(error))
    except TypeError:  # a detail that JSON can't hold must not hide the error itself
        return orjson.dumps(error_body(type(error).from_wire({**error.to_wire(), "detail": {}})))


def error_response(
    error: LocalLLMError,
    *,
    status: int | None = None,
    headers: Mapping[str, str] | None = None,
    form: ErrorForm = "openai",
) -> Response:
    """Return the JSON answer for ``error`` in a route's form, with the headers that belong to its code."""
    kind = error_kind(error)
    return Response(
        error_json(error, form),
        status_code=kind.status if status is None else status,
        headers={**(headers or {}), **_headers(error, kind)},
        media_type="application/json",
    )


def internal_error(request_id: str) -> LocalLLMError:
    """Return what a caller is told of an unexpected exception: nothing but where to look it up."""
    return LocalLLMError(f"The server failed to answer. Its log has the details under request id {request_id}.")


def from_http_exception(error: HTTPException, message: str | None = None) -> LocalLLMError:
    """Return the typed error for an exception that Starlette's routing, or a plugin in its style, raised.

    ``message`` stands for the exception's own.
    """
    kind = _BY_STATUS.get(error.status_code)
    if kind is None:
        kind = InvalidRequestError if error.status_code < 500 else LocalLLMError
    return kind(error.detail if message is None else message)


def _headers(error: LocalLLMError, kind: ErrorKind) -> dict[str, str]:
    headers: dict[str, str] = {}
    if kind.close:
        headers["connection"] = "close"
    if "retry_after_seconds" in error.detail:
        headers["retry-after"] = str(error.detail["retry_after_seconds"])
    if error.code == InvalidApiKeyError.code:
        headers["www-authenticate"] = "Bearer"
    if error.code in _NOT_TO_REPEAT:
        headers["x-should-retry"] = "false"
    return headers


def _clean(text: str) -> str:
    """Replace lone surrogates, which neither UTF-8 nor JSON can carry."""
    return text.encode("utf-8", "replace").decode("utf-8")
