"""The words in which endpoints describe JSON: schemas that every description needs, and how they are put together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from localllm.contract.endpoint_doc import JsonSchema

TEXT: Final = {"type": "string"}
TEXT_OR_NULL: Final = {"type": ["string", "null"]}
FLAG: Final = {"type": "boolean"}
COUNT: Final = {"type": "integer", "minimum": 0}
NUMBER: Final = {"type": "number"}
MILLISECONDS: Final = {"type": "number", "minimum": 0, "description": "Milliseconds."}
UNIX_TIME: Final = {"type": "integer", "description": "Seconds since 1970."}
OBJECT: Final = {"type": "object"}


def record(
    required: Mapping[str, Any], optional: Mapping[str, Any] | None = None, *, title: str = "", about: str = ""
) -> dict[str, Any]:
    """Return the schema of an object. One with a ``title`` becomes a component of the description."""
    return {
        **({"title": title} if title else {}),
        **({"description": about} if about else {}),
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
    }


def listing(item: JsonSchema, about: str = "") -> dict[str, Any]:
    """Return the schema of an array."""
    return {"type": "array", "items": dict(item), **({"description": about} if about else {})}


def or_null(schema: JsonSchema) -> dict[str, Any]:
    """Return the schema of a value that may be null."""
    return {"anyOf": [dict(schema), {"type": "null"}]}


def one_of(*values: str | None, about: str = "") -> dict[str, Any]:
    """Return the schema of one of these values."""
    return {"enum": list(values), **({"description": about} if about else {})}
