"""The answers of MyLLM's endpoints, whole and as events, and the sentences in which they tell what went wrong."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final

from localllm import (
    Chunk,
    ContextLengthExceededError,
    Finished,
    GenerateEvent,
    ModelAccess,
    ModelInfo,
    ModelNotFoundError,
    ModelSpec,
    ProtocolError,
    Started,
    Usage,
)

from .bodies import DEFAULTS

Events = AsyncGenerator[GenerateEvent, None]
MEBIBYTE: Final = 1024 * 1024
_NAMED_IN_ERRORS: Final = 20
_SHOWN_CHARACTERS: Final = 200

Known = ModelNotFoundError | ContextLengthExceededError


@dataclass(slots=True)
class _Heard:
    """One answer as far as it is written; ``noted`` is what the response carries beside its own fields."""

    pieces: list[str] = field(default_factory=list)
    noted: dict[str, Any] = field(default_factory=dict)
    usage: Usage | None = None

    def hear(self, event: GenerateEvent) -> str:
        """Take in one event and return the text that it brings; thoughts are not shown."""
        match event:
            case Started():
                self.noted = {**event.fields, **({"warnings": list(event.warnings)} if event.warnings else {})}
            case Chunk(region="content", text=text):
                self.pieces.append(text)
                return text
            case Finished():
                self.usage = event.usage
        return ""

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def counts(self) -> Usage:
        if self.usage is None:
            message = "The model's worker ended an answer without saying that it is complete. Send the request again."
            raise ProtocolError(message)
        return self.usage


async def whole_text(events: Events) -> dict[str, Any]:
    """Return the answer of ``/api/generate``. Raises what the generation raises."""
    heard = await _hear_all(events)
    return {"text": heard.text, "usage": _usage(heard.counts), **heard.noted}


async def whole_message(events: Events) -> dict[str, Any]:
    """Return the answer of ``/api/chat``: ``session_id`` is null where no plugin keeps conversations."""
    heard = await _hear_all(events)
    return {
        "message": {"role": "assistant", "content": heard.text},
        "session_id": None,
        "usage": _usage(heard.counts),
        **heard.noted,
    }


async def text_events(events: Events) -> AsyncGenerator[dict[str, Any], None]:
    """Yield the events of a stream of ``/api/generate``; closing it closes ``events``."""
    heard = _Heard()
    async with aclosing(_tokens(events, heard)) as tokens:
        async for token in tokens:
            yield token
    n_tokens = heard.counts.completion_tokens
    yield {"done": True, "full_text": heard.text, "token_count": n_tokens, **heard.noted}


async def message_events(events: Events) -> AsyncGenerator[dict[str, Any], None]:
    """Yield the events of a stream of ``/api/chat``; closing it closes ``events``."""
    heard = _Heard()
    async with aclosing(_tokens(events, heard)) as tokens:
        async for token in tokens:
            yield token
    yield {"done": True, "session_id": None, "usage": _usage(heard.counts), **heard.noted}


async def _hear_all(events: Events) -> _Heard:
    heard = _Heard()
    async with aclosing(events):
        async for event in events:
            heard.hear(event)
    return heard


async def _tokens(events: Events, heard: _Heard) -> AsyncGenerator[dict[str, Any], None]:
    async with aclosing(events):
        async for event in events:
            text = heard.hear(event)
            if text:
                yield {"token": text, "done": False}


def _usage(usage: Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def model_entry(spec: ModelSpec, info: ModelInfo | None) -> dict[str, Any]:
    """Return one model as ``/api/models`` shows it. ``size_mb`` counts 1024 * 1024 bytes, as MyLLM did."""
    meta = spec.meta
    context = (
        info.context_length if info is not None else spec.settings.get("context_length") or meta.get("n_ctx_train")
    )
    return {
        "name": spec.id,
        "family": str(meta.get("arch") or spec.backend),
        "size_mb": int(meta.get("size") or 0) // MEBIBYTE,
        "quantization": str(meta.get("quantisation") or ""),
        "context_size": int(context or 0),
        "template": _template(spec),
        "parameters": {
            name: spec.rules.force.get(name, spec.rules.defaults.get(name, value)) for name, value in DEFAULTS.items()
        },
        "loaded": info is not None,
    }


def _template(spec: ModelSpec) -> str:
    """Return how messages become a prompt: by a format that is configured, by the file's template, or not at all."""
    return str(spec.settings.get("chat_format") or ("gguf" if spec.meta.get("has_chat_template") else "none"))


def in_their_words(error: Known, asked: str, models: ModelAccess) -> Known:
    """Return an error in the words that MyLLM's clients know. ``asked`` is the model that the request names."""
    if isinstance(error, ContextLengthExceededError):
        n_ctx, n_tokens = error.detail["n_ctx"], error.detail["n_prompt_tokens"]
        sentence = f"Prompt too long for context window ({n_ctx} tokens)"
        return ContextLengthExceededError(n_tokens, n_ctx, param=error.param, message=sentence)
    names = [spec.id for spec in models.list_specs()]
    more = f" and {len(names) - _NAMED_IN_ERRORS} more" if len(names) > _NAMED_IN_ERRORS else ""
    known = f". Available models: {', '.join(names[:_NAMED_IN_ERRORS])}{more}" if names else ""
    return ModelNotFoundError(f"Model '{asked[:_SHOWN_CHARACTERS]}' not found{known}", param="model")


async def events_in_their_words(events: Events, spec: ModelSpec, models: ModelAccess) -> Events:
    """Yield the same events, and raise errors as :func:`in_their_words` words them."""
    try:
        async with aclosing(events):
            async for event in events:
                yield event
    except (ModelNotFoundError, ContextLengthExceededError) as error:
        raise in_their_words(error, spec.id, models) from error
