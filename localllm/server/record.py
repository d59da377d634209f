"""What is known of one request while it runs; the access log, the events and the helpers share it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from starlette.requests import Request

from localllm.contract.errors import LocalLLMError
from localllm.contract.generation import Timings, Usage

SCOPE_KEY = "localllm.record"


@dataclass(slots=True)
class RequestRecord:
    """One HTTP request. Created by the outermost middleware; event loop only.

    ``started_at`` and ``first_token_at`` are readings of ``clock``. ``finish`` stays None until something ended the
    request: "stop" and "length" by the model, "cancelled" by the client, else the code of an error.
    """

    request_id: str = "-"
    clock: Callable[[], float] = monotonic
    started_at: float = 0.0
    ping_seconds: float = 15.0
    owner: str = ""  # who shares cached prefixes: the fingerprint of the API key, "" when everybody does
    caller: str = ""  # fingerprint of the API key, to whom what is stored belongs; "" where no key was sent
    authenticated: bool = False  # a known key was sent, or the server asks for none
    model: str | None = None
    usage: Usage | None = None
    timings: Timings | None = None
    pooled_tokens: int | None = None  # of texts that were turned into vectors or scores
    pooling_ms: float = 0.0  # by the worker's clock
    unfinished: Usage | None = None  # of generations that ended early; what they took from the cache is not known
    first_token_at: float | None = None
    finish: str | None = None
    farewell: Callable[[LocalLLMError], bytes] | None = None  # how an event stream words the error that cuts it short
    status: int | None = None  # of the response, once it has started
    response_headers: list[tuple[bytes, bytes]] = field(default_factory=list)  # added to whatever is answered

    @contextmanager
    def noting_failure(self) -> Iterator[None]:
        """Note in ``finish`` by which error, or by whose leaving, what runs inside ended."""
        try:
            yield
        except LocalLLMError as error:
            self.finish = error.code
            raise
        except asyncio.CancelledError:
            self.finish = "cancelled"
            raise

    def add_usage(self, usage: Usage, timings: Timings) -> None:
        """Count one generation; a request with several prompts has several, which run side by side."""
        if self.usage is None or self.timings is None:
            self.usage, self.timings = usage, timings
            return
        self.usage += usage
        self.timings = max(self.timings, timings, key=lambda one: one.predicted_ms)

    def add_unfinished(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Count one generation that an error or the client ended, as far as it came."""
        self.unfinished = (self.unfinished or Usage(0, 0)) + Usage(prompt_tokens, completion_tokens)

    def add_pooling(self, prompt_tokens: int, compute_ms: float = 0.0) -> None:
        """Count texts that are being pooled; an endpoint may pool several times in one request."""
        self.pooled_tokens = prompt_tokens + (self.pooled_tokens or 0)
        self.pooling_ms += compute_ms

    @property
    def prompt_tokens(self) -> int | None:
        """Tokens of all prompts and texts; None while no generation and no pooling has started."""
        counts = [usage.prompt_tokens for usage in (self.usage, self.unfinished) if usage is not None]
        if self.pooled_tokens is not None:
            counts.append(self.pooled_tokens)
        return sum(counts) if counts else None

    @property
    def completion_tokens(self) -> int | None:
        """Tokens of all answers; None while no generation has started."""
        counts = [usage.completion_tokens for usage in (self.usage, self.unfinished) if usage is not None]
        return sum(counts) if counts else None

    @property
    def first_token_seconds(self) -> float | None:
        """Time to first token, from the request's arrival."""
        return None if self.first_token_at is None else self.first_token_at - self.started_at

    @property
    def tokens_per_second(self) -> float | None:
        """Decoding speed, or that of pooling, as the worker's clock saw it."""
        if self.pooled_tokens is not None and self.pooling_ms > 0:
            return self.pooled_tokens / self.pooling_ms * 1000
        if self.usage is None or self.timings is None or self.timings.predicted_ms <= 0:
            return None
        return self.usage.completion_tokens / self.timings.predicted_ms * 1000


def request_record(scope: MutableMapping[str, Any]) -> RequestRecord:
    """Return the record of a scope; a bare one is made where no middleware did (a plugin's own small test app)."""
    record = scope.get(SCOPE_KEY)
    if not isinstance(record, RequestRecord):
        record = RequestRecord(started_at=monotonic())
        scope[SCOPE_KEY] = record
    return record


def caller_of(request: Request) -> str:
    """Return the fingerprint of the API key that a request brought, to whom what it stores belongs; "" without keys."""
    return request_record(request.scope).caller
