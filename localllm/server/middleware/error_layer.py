"""Turns every exception into an answer, whether or not the response has begun."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from localllm.contract.errors import LocalLLMError, SlowReaderError
from localllm.server.blame import blame
from localllm.server.disconnect import ClientDisconnected
from localllm.server.errors import error_response, from_http_exception, internal_error
from localllm.server.record import RequestRecord, request_record
from localllm.server.routes import RouteTable
from localllm.server.sse import encode_error

NOT_FOUND = 404
METHOD_NOT_ALLOWED = 405
_MAX_SHOWN_CHARS = 200


class ErrorLayer:
    """Answers typed errors by their table, and anything else as a 500 whose traceback is in the log.

    Before the response has begun the answer is JSON with its status. A stream that has begun ends with one error
    event, in its own words where it has some. Another response that has begun is left incomplete, which closes the
    connection: the client must not take half an answer for a whole one. Each route's failures are worded as it says
    (``RouteEntry.errors``).
    """

    def __init__(self, app: ASGIApp, *, routes: RouteTable, logger: logging.Logger) -> None:
        self.app = app
        self.routes = routes
        self.logger = logger

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app and answer what it raises."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        progress = _Progress(send)
        try:
            await self.app(scope, receive, progress.send)
        except (ClientDisconnected, ClientDisconnect):
            request_record(scope).finish = "cancelled"
        except HTTPException as error:
            allowed = self.routes.methods(scope)
            typed = from_http_exception(error, _routing_fault(error, scope, allowed))
            request_record(scope).finish = typed.code
            if not progress.started:
                form = self.routes.error_form(scope)
                headers = dict(error.headers or {})
                if error.status_code == METHOD_NOT_ALLOWED:
                    headers["Allow"] = ", ".join(allowed)
                response = error_response(typed, status=error.status_code, headers=headers, form=form)
                await response(scope, receive, progress.send)
        except Exception as error:  # noqa: BLE001 - the last place that can answer; the log gets all of it
            record = request_record(scope)
            await self._answer(self._typed(error, scope, record), record, progress, scope, receive)

    def _typed(self, error: Exception, scope: Scope, record: RequestRecord) -> LocalLLMError:
        if isinstance(error, LocalLLMError) and type(error) is not LocalLLMError:
            return self._blamed(error, scope, record)
        self.logger.error("request %s failed", record.request_id, exc_info=error)
        return internal_error(record.request_id)

    def _blamed(self, error: LocalLLMError, scope: Scope, record: RequestRecord) -> LocalLLMError:
        blamed = blame(error, scope)
        if blamed is not error:
            self.logger.error("request %s: %s", record.request_id, blamed.message)
        return blamed

    async def _answer(
        self, error: LocalLLMError, record: RequestRecord, progress: _Progress, scope: Scope, receive: Receive
    ) -> None:
        record.finish = error.code
        form = self.routes.error_form(scope)
        with suppress(SlowReaderError):  # then not even the farewell is read
            if not progress.started:
                await error_response(error, form=form)(scope, receive, progress.send)
            elif progress.is_event_stream and not progress.finished:
                farewell = encode_error(error, form) if record.farewell is None else record.farewell(error)
                await progress.send({"type": "http.response.body", "body": farewell, "more_body": False})


def _routing_fault(error: HTTPException, scope: Scope, allowed: Sequence[str]) -> str | None:
    """Return what there is to say of a request that no route takes; ``allowed`` are the methods of its path.

    None where a route raised the exception itself: that has its own words.
    """
    path = scope["path"][:_MAX_SHOWN_CHARS]
    if error.status_code == NOT_FOUND and not allowed:
        return f"There is no endpoint at {path}: check the client's base URL, which ends in /v1 for OpenAI's clients."
    if error.status_code == METHOD_NOT_ALLOWED and scope["method"] not in allowed:
        return f"{path} takes {', '.join(allowed)}, not {scope['method']}."
    return None


class _Progress:
    """How far the response has come."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False
        self.finished = False
        self.is_event_stream = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            kinds = [value for name, value in message.get("headers", ()) if name.lower() == b"content-type"]
            self.is_event_stream = any(kind.startswith(b"text/event-stream") for kind in kinds)
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self.finished = True
        await self._send(message)
