"""What an endpoint says of itself, for the generated description of the whole service."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

JsonSchema = Mapping[str, Any]
SchemaSource = JsonSchema | Callable[[], JsonSchema]
"""A schema, or what makes it: called when somebody first asks for the description, never while plugins register."""

MODEL_ERRORS = (404, 409, 422, 502)
"""The statuses for :attr:`EndpointDoc.errors` of whatever has a model work: not found, not loaded, broken, crashed."""


@dataclass(frozen=True, slots=True)
class ResponseDoc:
    """One kind of answer. ``media`` names the content types; ``schema`` None: not described, or not JSON.

    ``events`` is the schema of what each event of a ``text/event-stream`` holds, errors and a final ``[DONE]`` apart.
    ``headers`` has what response headers mean, by name.
    """

    description: str
    schema: SchemaSource | None = None
    media: tuple[str, ...] = ("application/json",)
    example: Any = None
    events: SchemaSource | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ParameterDoc:
    """One part of the path, the query or the header. ``example`` is a value that works."""

    name: str
    where: Literal["path", "query", "header"]
    description: str
    schema: JsonSchema = field(default_factory=lambda: {"type": "string"})
    required: bool = False
    example: Any = None


@dataclass(frozen=True, slots=True)
class EndpointDoc:
    """One operation of OpenAPI 3.1, for one method of a route.

    ``request`` is the JSON schema of the body, None where there is none: ``$defs`` and all, so that a pydantic model's
    own method will do (``request=Body.model_json_schema``, not called: making schemas takes time). ``examples`` are
    bodies that work as they stand, by title. ``errors`` are the statuses that the endpoint itself may answer besides
    those that every endpoint may (:data:`MODEL_ERRORS` where a model works). ``responses`` are the good answers.
    """

    summary: str
    description: str = ""
    tag: str = ""
    request: SchemaSource | None = None
    request_media: str = "application/json"
    examples: Mapping[str, Any] = field(default_factory=dict)
    parameters: tuple[ParameterDoc, ...] = ()
    responses: Mapping[int, ResponseDoc] = field(default_factory=dict)
    errors: tuple[int, ...] = ()
