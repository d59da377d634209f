"""What all chunks of one answer share (id, time, model), and the token counts and timings that end it."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from localllm.contract.generation import Timings, Usage
from localllm.contract.model import ModelSpec

_ID_BYTES: Final = 12


@dataclass(frozen=True, slots=True)
class Reply:
    """The constant part of an answer: ``created`` is in seconds since 1970."""

    id: str
    created: int
    model: str
    system_fingerprint: str

    def envelope(self, kind: str) -> dict[str, Any]:
        """Return the outer object of a response or chunk of ``kind``; the caller adds ``choices`` and ``usage``."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.system_fingerprint,
        }


def new_reply(prefix: str, spec: ModelSpec, version: str) -> Reply:
    """Return a reply with a fresh id (``prefix`` is "chatcmpl" or "cmpl") for an answer of ``spec``."""
    identity = f"{prefix}-{secrets.token_hex(_ID_BYTES)}"
    return Reply(identity, int(time.time()), spec.id, system_fingerprint(spec, version))


def system_fingerprint(spec: ModelSpec, version: str) -> str:
    """Return a name that changes when the server's version, the model's file or its settings do."""
    parts = [version, spec.id, spec.backend, spec.path, spec.created, dict(spec.settings)]
    digest = hashlib.sha256(orjson.dumps(parts, default=str, option=orjson.OPT_SORT_KEYS))
    return f"fp_{digest.hexdigest()[:12]}"


def usage_fields(usage: Usage) -> dict[str, Any]:
    """Return the ``usage`` object."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def timings_fields(usage: Usage, timings: Timings) -> dict[str, Any]:
    """Return the ``timings`` object with llama-server's names, and ``queue_ms`` for the time spent waiting."""
    evaluated = usage.prompt_tokens - usage.cached_tokens
    return {
        "cache_n": usage.cached_tokens,
        "queue_ms": timings.queue_ms,
        "prompt_n": evaluated,
        "prompt_ms": timings.prompt_ms,
        "prompt_per_token_ms": _ratio(timings.prompt_ms, evaluated),
        "prompt_per_second": _ratio(1000.0 * evaluated, timings.prompt_ms),
        **predicted_fields(usage.completion_tokens, timings.predicted_ms),
    }


def predicted_fields(n_tokens: int, milliseconds: float) -> dict[str, Any]:
    """Return the part of ``timings`` that is about the answer."""
    return {
        "predicted_n": n_tokens,
        "predicted_ms": milliseconds,
        "predicted_per_token_ms": _ratio(milliseconds, n_tokens),
        "predicted_per_second": _ratio(1000.0 * n_tokens, milliseconds),
    }


def body_pieces(body: Mapping[str, Any]) -> Iterator[bytes]:
    """Yield the JSON of a response, with one piece for each choice or other entry of a list: some are very long."""
    for index, (name, value) in enumerate(body.items()):
        yield b"%b%b:" % (b"," if index else b"{", orjson.dumps(name))
        if not isinstance(value, list):
            yield orjson.dumps(value)
            continue
        for position, entry in enumerate(value):
            yield b"%b%b" % (b"," if position else b"[", orjson.dumps(entry))
        yield b"]" if value else b"[]"
    yield b"}" if body else b"{}"


def _ratio(dividend: float, divisor: float) -> float:
    return dividend / divisor if divisor > 0 else 0.0
