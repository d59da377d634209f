"""The requests of MyLLM's endpoints: which fields they have, what they mean where they are left out, their ranges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from localllm import GenerateRequest, InvalidRequestError, PoolRequest, SessionWish, TextPrompt
from localllm.openai import field_names, fill_defaults, parse_chat, parse_completion
from localllm.openai.sampling import GenerationFields
from localllm.openai.thinking import ThinkingFields

DEFAULTS: Final[Mapping[str, Any]] = {
    "temperature": 0.7,
    "top_p": 0.9,
    "top_k": 40,
    "max_tokens": 512,
    "repeat_penalty": 1.1,
}
"""What counts where neither a request nor the model's configuration says anything."""

NO_PENALTY: Final = 1.0

_RANGES: Final[Mapping[str, tuple[float, float | None]]] = {
    "temperature": (0.0, 2.0),
    "top_p": (0.0, 1.0),
    "top_k": (0, None),
    "max_tokens": (1, None),
    "repeat_penalty": (0.0, 10.0),
}

_ONE_ANSWER: Final = frozenset({"model", "stream", "stream_options", "n", "prompt_logprobs", "timings_per_token"})
SAMPLING: Final = frozenset(field_names(GenerationFields)) - _ONE_ANSWER
"""The fields that ``options`` may have: MyLLM's own, and whatever else says how an answer is written."""

_UNDERSTOOD: Final = SAMPLING | frozenset(field_names(ThinkingFields))
_ABOUT_THE_MODEL: Final = ("model", "autoload", "ttl", "keep_alive")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A checked request for an answer."""

    generate: GenerateRequest
    stream: bool
    session: SessionWish | None = None


def flatten_generate(body: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a body for ``/api/generate``, options beside the others. Raises ``InvalidRequestError``."""
    return _flatten(body, "prompt", "stream")


def flatten_chat(body: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a body for ``/api/chat``, options beside the others. Raises ``InvalidRequestError``."""
    return _flatten(body, "messages", "stream", "session_id")


def flatten_embeddings(body: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a body for ``/api/embeddings``. Raises ``InvalidRequestError``."""
    return _flatten({name: value for name, value in body.items() if name != "options"}, "input")


def parse_generate(fields: Mapping[str, Any]) -> Wanted:
    """Return the checked request in a flat body, to which the model's rules were applied."""
    prompt = _required_text(fields, "prompt")
    (generate,) = parse_completion({**_sampling(fields), "prompt": prompt}).generate_requests()
    return Wanted(generate, _streams(fields))


def parse_conversation(fields: Mapping[str, Any], system_prompt: str | None) -> Wanted:
    """Return the checked request in a flat body, to which the model's rules were applied."""
    if fields.get("messages") is None:
        message = "messages is required"
        raise InvalidRequestError(message, param="messages")
    session_id = fields.get("session_id")
    if session_id is not None and not isinstance(session_id, str):
        message = "session_id must be a string"
        raise InvalidRequestError(message, param="session_id")
    generate = parse_chat({**_sampling(fields), "messages": fields["messages"]}).generate_request(system_prompt)
    return Wanted(generate, _streams(fields), SessionWish(session_id))


def parse_text(fields: Mapping[str, Any]) -> PoolRequest:
    """Return what the model is asked for a vector."""
    text = _required_text(fields, "input")
    if not text:
        message = "input must not be empty"
        raise InvalidRequestError(message, param="input")
    return PoolRequest((TextPrompt(text),))


def _flatten(body: Mapping[str, Any], *names: str) -> dict[str, Any]:
    _required_text(body, "model")
    fields = {name: body[name] for name in (*_ABOUT_THE_MODEL, *names) if name in body}
    return fields | _options(body)


def _options(body: Mapping[str, Any]) -> dict[str, Any]:
    options = body.get("options")
    if options is None:
        return {}
    if not isinstance(options, dict):
        message = "options must be an object"
        raise InvalidRequestError(message, param="options")
    for name, (least, most) in _RANGES.items():
        _check_range(name, options.get(name), least, most)
    known = {name: value for name, value in options.items() if name in SAMPLING and value is not None}
    if known.get("repeat_penalty") == 0:
        known["repeat_penalty"] = NO_PENALTY  # it would divide by zero; MyLLM's manual allows it
    return known


def _check_range(name: str, value: object, least: float, most: float | None) -> None:
    """Raise the sentences that MyLLM's clients know."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        message = f"{name} must be a number"
    elif isinstance(least, int) and not isinstance(value, int):
        message = f"{name} must be an integer"
    elif most is None and value < least:
        message = f"{name} must be at least {least}"
    elif most is not None and not least <= value <= most:
        message = f"{name} must be between {least} and {most}"
    else:
        return
    raise InvalidRequestError(message, param=name)


def _sampling(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a flat body says how to write, MyLLM's defaults included: one answer, and nothing beside it."""
    return fill_defaults({name: value for name, value in fields.items() if name in _UNDERSTOOD}, DEFAULTS)


def _required_text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if isinstance(value, str):
        return value
    message = f"{name} is required" if value is None else f"{name} must be a string"
    raise InvalidRequestError(message, param=name)


def _streams(fields: Mapping[str, Any]) -> bool:
    stream = fields.get("stream")
    if stream is not None and not isinstance(stream, bool):
        message = "stream must be true or false"
        raise InvalidRequestError(message, param="stream")
    return stream is not False
