"""What a model's configuration makes of the bodies of requests: fields it drops, fills in and forces."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from pydantic import Field

from localllm.contract.model import RequestRules
from localllm.openai.chat import ChatCompletionRequest
from localllm.openai.completions import CompletionRequest
from localllm.openai.embeddings import EmbeddingRequest
from localllm.openai.rerank import RerankRequest, TextsRerankRequest
from localllm.openai.responses.request import ResponseRequest
from localllm.openai.structured import StructuredFields
from localllm.openai.thinking import SWITCHES, ThinkingFields
from localllm.openai.wire_model import WireModel, names_of_fields, validate

TEMPLATE_KWARGS: Final = "chat_template_kwargs"

REQUESTS: Final[tuple[type[WireModel], ...]] = (
    ChatCompletionRequest,
    CompletionRequest,
    EmbeddingRequest,
    RerankRequest,
    TextsRerankRequest,
    ResponseRequest,
)


class RuledBody(NamedTuple):
    """A body as the rules leave it. ``brought`` are the names of fields whose value is the configuration's."""

    fields: dict[str, Any]
    brought: frozenset[str] = frozenset()


class _NamedModel(WireModel):
    model: str | None = Field(None, max_length=512)


def named_model(body: Mapping[str, Any]) -> str | None:
    """Return the model that a body names. Raises ``InvalidRequestError`` where that is no name."""
    return validate(_NamedModel, {"model": body.get("model")}).model


def apply_rules(body: Mapping[str, Any], rules: RequestRules) -> RuledBody:
    """Return ``body`` (decoded JSON, not checked yet) without what is stripped, with defaults and with what is forced.

    Names of one wish count as one field (:func:`same_wish`): a request that says ``max_tokens`` has no use for a
    default of ``max_completion_tokens``. ``chat_template_kwargs`` are laid over each other key by key.
    """
    if not (rules.defaults or rules.strip or rules.force):
        return RuledBody(dict(body))
    fields = {name: value for name, value in body.items() if value is not None and name not in rules.strip}
    is_callers = fields.keys() & {TEMPLATE_KWARGS}  # also where they are laid over, or under, the configuration's
    force = _known_everywhere(rules.force)
    brought = _fill_in(fields, _known_everywhere(rules.defaults))
    _force(fields, force)
    return RuledBody(fields, ((brought & fields.keys()) | force.keys()) - is_callers)


def fill_defaults(body: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``body`` with the defaults of an endpoint of its own, where the body says nothing of the kind."""
    fields = {name: value for name, value in body.items() if value is not None}
    _fill_in(fields, defaults)
    return fields


def same_wish(name: str) -> frozenset[str]:
    """Return all names by which a request may say what it says by ``name``, itself included."""
    return _SAME_WISH.get(name, frozenset((name,)))


def field_names(model: type[WireModel]) -> Iterable[str]:
    """Yield the names under which a request model takes fields."""
    for names in names_of_fields(model).values():
        yield from names


def _fill_in(fields: dict[str, Any], defaults: Mapping[str, Any]) -> frozenset[str]:
    """Add the defaults that a request leaves room for, and return their names."""
    said = frozenset(fields)
    brought: set[str] = set()
    for name, value in defaults.items():
        if name == TEMPLATE_KWARGS:
            kwargs = _without_thinking(value) if said & _THINKING else value
            own = fields.get(name, {})
            if isinstance(own, Mapping) and kwargs:
                fields[name] = {**kwargs, **own}
                brought.add(name)
        elif not said & same_wish(name):
            fields[name] = value
            brought.add(name)
    return frozenset(brought)


def _force(fields: dict[str, Any], force: Mapping[str, Any]) -> None:
    """Put what is forced in place of all that says the same."""
    kwargs = force.get(TEMPLATE_KWARGS, {})
    wishes = {mate for name in force for mate in same_wish(name)}
    if _THINKING & wishes or _without_thinking(kwargs) != kwargs:
        wishes |= _THINKING
        if isinstance(own := fields.get(TEMPLATE_KWARGS), Mapping):
            fields[TEMPLATE_KWARGS] = _without_thinking(own)
    own = fields.get(TEMPLATE_KWARGS)
    for name in wishes:
        fields.pop(name, None)
    fields.update(force)
    if kwargs and isinstance(own, Mapping):
        fields[TEMPLATE_KWARGS] = {**own, **kwargs}


def _known_everywhere(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the same under names that each endpoint knows which knows the wish."""
    return {_KNOWN_EVERYWHERE.get(name, name): value for name, value in fields.items()}


def _without_thinking(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in kwargs.items() if name not in _THINKING_KWARGS}


_KNOWN_EVERYWHERE: Final = dict.fromkeys(("max_completion_tokens", "max_output_tokens"), "max_tokens")
_THINKING: Final = frozenset(field_names(ThinkingFields)) - {TEMPLATE_KWARGS, "include_reasoning"}
_THINKING_KWARGS: Final = frozenset({*SWITCHES, "reasoning_effort"})


def _wishes() -> Mapping[str, frozenset[str]]:
    groups = [frozenset(names) for model in REQUESTS for names in names_of_fields(model).values()]
    groups += [
        frozenset({"max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict"}),
        frozenset((*field_names(StructuredFields), "text")),
        frozenset({"tools", "functions"}),
        frozenset({"tool_choice", "function_call"}),
        _THINKING,
    ]
    wishes: dict[str, frozenset[str]] = {}
    for group in groups:
        for name in group:
            wishes[name] = wishes.get(name, frozenset()) | group
    return wishes


_SAME_WISH: Final = _wishes()
