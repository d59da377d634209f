"""The JSON schemas of those request fields that are read by hand, and whose types say little."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

Schema = Mapping[str, Any]

_TEXT: Final = {"type": "string"}
_OBJECT: Final = {"type": "object"}
_SCHEMA_OR_TEXT: Final = {"anyOf": [{"type": "object"}, {"type": "string", "minLength": 1}]}

_PARTS: Final = {
    "type": "array",
    "maxItems": 64,
    "items": {
        "anyOf": [
            {
                "type": "object",
                "required": ["type", "text"],
                "properties": {"type": {"enum": ["text", "thinking", "reasoning"]}, "text": _TEXT},
            },
            *(
                {
                    "type": "object",
                    "required": ["type", kind],
                    "properties": {"type": {"const": kind}, kind: _TEXT},
                }
                for kind in ("refusal", "thinking", "reasoning")
            ),
        ]
    },
}
_TEXT_OR_PARTS: Final = {"anyOf": [_TEXT, _PARTS]}

_FUNCTION: Final = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": {"type": "string", "pattern": "^[A-Za-z0-9_.:/-]{1,128}$"},
        "description": {"type": ["string", "null"]},
        "parameters": {"type": ["object", "null"], "description": "JSON schema of the arguments, an object."},
        "strict": {"type": ["boolean", "null"]},
    },
}
_NAMED: Final = {"type": "object", "required": ["name"], "properties": {"name": _TEXT}}
_FUNCTIONS: Final = {"type": "array", "maxItems": 512, "items": _FUNCTION}

_MADE_FUNCTION: Final = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": _TEXT,
        "arguments": {"type": ["string", "object", "null"], "description": "The arguments' JSON."},
    },
}
_MADE_CALL: Final = {
    "type": "object",
    "required": ["function"],
    "properties": {
        "id": {"type": ["string", "integer", "null"]},
        "type": {"enum": ["function", None]},
        "function": _MADE_FUNCTION,
    },
}

_TOOL_CHOICE: Final = {
    "anyOf": [
        {"enum": ["none", "auto", "required"]},
        {
            "type": "object",
            "required": ["type"],
            "properties": {
                "type": {"enum": ["function", "allowed_tools"]},
                "function": _NAMED,
                "name": _TEXT,
                "allowed_tools": _OBJECT,
                "mode": {"enum": ["auto", "required"]},
                "tools": {"type": "array", "minItems": 1, "maxItems": 512, "items": _OBJECT},
            },
        },
    ]
}

_RESPONSE_FORMAT: Final = {
    "type": "object",
    "properties": {
        "type": {"enum": ["text", "json_object", "json_schema", "structural_tag"]},
        "json_schema": {
            "type": ["object", "null"],
            "properties": {
                "name": {"type": ["string", "null"]},
                "description": {"type": ["string", "null"]},
                "schema": {"type": ["object", "string", "null"]},
                "strict": {"type": ["boolean", "null"]},
            },
        },
        "schema": {"description": "For `json_object`, as llama-server has it: a JSON schema, or its text."},
    },
}

_STRUCTURED_OUTPUTS: Final = {
    "type": "object",
    "properties": {
        "json": {"type": ["object", "string", "null"]},
        "regex": {"type": ["string", "null"]},
        "choice": {"type": ["array", "null"], "items": _TEXT, "maxItems": 1024},
        "grammar": {"type": ["string", "null"], "description": "In Lark's form, or GBNF."},
        "structural_tag": {"type": ["object", "string", "null"]},
        "json_object": {"type": ["boolean", "null"]},
    },
}

_BIAS: Final = {"anyOf": [{"type": "number", "minimum": -100, "maximum": 100}, {"const": False}]}
_LOGIT_BIAS: Final = {
    "anyOf": [
        {"type": "object", "maxProperties": 1024, "additionalProperties": _BIAS},
        {
            "type": "array",
            "maxItems": 1024,
            "items": {
                "type": "array",
                "minItems": 2,
                "maxItems": 2,
                "prefixItems": [
                    {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "minLength": 1}]},
                    _BIAS,
                ],
            },
        },
    ]
}

_LORA: Final = {
    "type": "array",
    "maxItems": 32,
    "items": {
        "type": "object",
        "properties": {
            "id": {"type": ["integer", "null"], "minimum": 0, "maximum": 31},
            "name": {"type": ["string", "null"], "minLength": 1, "maxLength": 256},
            "scale": {"type": "number", "minimum": -1000, "maximum": 1000, "default": 1},
        },
    },
}

FIELD_SCHEMAS: Final[Mapping[str, Schema]] = {
    "tools": {
        "type": "array",
        "maxItems": 512,
        "items": {
            "type": "object",
            "required": ["type", "function"],
            "properties": {"type": {"const": "function"}, "function": _FUNCTION},
        },
    },
    "functions": _FUNCTIONS,
    "tool_choice": _TOOL_CHOICE,
    "function_call": {"anyOf": [{"enum": ["none", "auto"]}, _NAMED]},
    "response_format": _RESPONSE_FORMAT,
    "structured_outputs": _STRUCTURED_OUTPUTS,
    "guided_json": _SCHEMA_OR_TEXT,
    "json_schema": {"type": ["object", "string"]},
    "guided_regex": {"type": "string", "minLength": 1},
    "guided_grammar": {"type": "string", "minLength": 1},
    "guided_choice": {
        "type": "array",
        "minItems": 1,
        "maxItems": 1024,
        "items": {"type": "string", "minLength": 1, "maxLength": 4096},
    },
    "logit_bias": _LOGIT_BIAS,
    "lora": _LORA,
    "documents": {
        "type": "array",
        "minItems": 1,
        "maxItems": 2048,
        "items": {"anyOf": [{"type": "string", "minLength": 1}, _OBJECT]},
    },
}
"""By field. ``_told`` of request_schema.py adds null and the meaning."""

NESTED_SCHEMAS: Final[Mapping[str, Schema]] = {
    "Message.content": _TEXT_OR_PARTS,
    "Message.tool_calls": {"type": "array", "maxItems": 128, "items": _MADE_CALL},
    "Message.function_call": _MADE_FUNCTION,
    "Message.tool_call_id": {"type": ["string", "integer"]},
    "Message.reasoning_content": _TEXT_OR_PARTS,
    "Message.reasoning": _TEXT_OR_PARTS,
    "Message.thinking": _TEXT_OR_PARTS,
}
"""By definition and field."""

_DURATION: Final = {"type": ["number", "string"], "description": "Seconds, or text such as 5m; below 0: for ever."}

MODEL_OPTIONS: Final[Mapping[str, Schema]] = {
    "autoload": {"type": ["boolean", "string"]},
    "ttl": _DURATION,
    "keep_alive": _DURATION,
}
"""What every request to a model may say about the model itself; the query may say it too."""
