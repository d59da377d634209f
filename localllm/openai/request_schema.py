"""The JSON schemas of requests, as the description of the service shows them to callers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from pydantic import BaseModel

from localllm.openai.field_help import FIELD_HELP, NESTED_HELP
from localllm.openai.field_schemas import FIELD_SCHEMAS, MODEL_OPTIONS, NESTED_SCHEMAS
from localllm.openai.wire_model import names_of_fields

_NOISE: Final = frozenset({"title", "description", "default"})
_TOLD_DEFAULTS: Final = (bool, int, float, str)


def request_schema(
    model: type[BaseModel], *, help_texts: Mapping[str, str] | None = None, extra: Mapping[str, Any] | None = None
) -> Callable[[], dict[str, Any]]:
    """Return what makes the schema of a request model, for ``EndpointDoc.request``.

    It says what the model's own schema leaves out: that null counts as absent, that fields have several names, what is
    behind values that are read by hand, and what a field means (``help_texts`` by name, beside those of this package).
    ``extra`` are schemas of fields that the endpoint reads besides the model.
    """

    def make() -> dict[str, Any]:
        schema = model.model_json_schema()
        required = schema.get("required", [])
        texts = {**FIELD_HELP, **(help_texts or {})}
        fields: dict[str, Any] = {}
        for name, names in names_of_fields(model).items():
            own = FIELD_SCHEMAS.get(name) or schema["properties"][names[0]]
            field = _told(own, texts.get(name, ""), is_optional=names[0] not in required)
            for alias in names:
                fields[alias] = field if alias == name else {**field, "description": f"Another name of `{name}`."}
        fields |= {name: _told(own, texts.get(name, ""), is_optional=True) for name, own in MODEL_OPTIONS.items()}
        fields |= extra or {}
        order = {name: place for place, name in enumerate(texts)}
        definitions = {name: _definition(name, inner) for name, inner in schema.get("$defs", {}).items()}
        return {
            "title": schema["title"],
            "type": "object",
            "properties": dict(sorted(fields.items(), key=lambda one: order.get(one[0], len(order)))),
            **({"required": required} if required else {}),
            **({"$defs": definitions} if definitions else {}),
        }

    return make


def _definition(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of an object inside of a request."""
    required = schema.get("required", [])
    fields = {
        field: _told(
            NESTED_SCHEMAS.get(f"{name}.{field}") or own,
            NESTED_HELP.get(f"{name}.{field}", ""),
            is_optional=field not in required,
        )
        for field, own in schema.get("properties", {}).items()
    }
    return {"type": "object", "properties": fields, **({"required": required} if required else {})}


def _told(schema: Mapping[str, Any], text: str, *, is_optional: bool) -> dict[str, Any]:
    """Return a field's schema with its meaning, without what is only known inside, and null where it may be absent."""
    told = _as_any_of({key: value for key, value in schema.items() if key not in _NOISE})
    if is_optional:
        told = _or_null(told)
    default = schema.get("default")
    if isinstance(default, _TOLD_DEFAULTS):
        told["default"] = default
    return {**told, **({"description": text} if text else {})}


def _as_any_of(schema: Any) -> Any:  # noqa: ANN401 - true and false are schemas too
    """Return the schema with ``anyOf`` for ``oneOf``, and with alternatives in one list: a tag tells them apart."""
    if not isinstance(schema, Mapping):
        return schema
    plain = {key: _as_any_of(value) for key, value in schema.items() if key not in ("oneOf", "anyOf", "discriminator")}
    choices: list[Any] = []
    for choice in map(_as_any_of, [*schema.get("anyOf", ()), *schema.get("oneOf", ())]):
        choices += choice["anyOf"] if set(choice) == {"anyOf"} else [choice]
    return {**plain, **({"anyOf": choices} if choices else {})}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    choices = [choice for choice in schema.get("anyOf", [schema]) if choice != {"type": "null"}]
    if len(choices) == 1 and isinstance(choices[0].get("type"), str) and "enum" not in choices[0]:
        return {**choices[0], "type": [choices[0]["type"], "null"]}
    return {"anyOf": [*choices, {"type": "null"}]}
