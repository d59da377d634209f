"""Writes what a request asks of its text in llguidance's terms, after the checks that native code should not need."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llguidance import LLMatcher

from localllm import Constraint, InvalidRequestError

from .constraint_error import ConstraintError
from .gbnf_convert import convert_gbnf
from .json_schema import TYPES, check_multiples, checked_schema, read_schema, without
from .lark_text import SpecialToken, quoted

MAX_SOURCE_BYTES = 128 * 1024
MAX_RULES = 1000  # of a Lark grammar; llguidance recurs once for each rule in a chain
PARAMS: Mapping[str, str] = {"json_object": "response_format", "json_schema": "response_format", "gbnf": "grammar"}
"""The request's field that a kind of constraint comes from; all others come from ``structured_outputs``."""

WHITE_SPACE = r"[ ]|\n[ \t]{0,20}"
"""What may stand between the tokens of JSON: one space, or a line end with its indentation.

Without a bound a model may write white space for ever.
"""

_RULE = re.compile(r"[A-Za-z0-9_]\s*(?:\[[^\]\n]{0,200}\])?\s*:")


@dataclass(frozen=True, slots=True)
class GrammarText:
    """One grammar as ``LLMatcher`` takes it, in JSON. ``warning`` says what it leaves out, if anything."""

    text: str
    warning: str = ""


def param_of(constraint: Constraint) -> str:
    """Return the name of the request's field that the constraint comes from."""
    return constraint.param or PARAMS.get(constraint.kind, "structured_outputs")


def title_of(constraint: Constraint) -> str:
    """Return what a message calls the constraint."""
    return constraint.title or f"The {constraint.kind}"


def is_too_large(source: str) -> bool:
    """Whether a Lark grammar is beyond the limits of what is compiled."""
    return len(source.encode(errors="replace")) > MAX_SOURCE_BYTES or len(_RULE.findall(source)) > MAX_RULES


def grammar_texts(constraint: Constraint, special: SpecialToken) -> Iterator[GrammarText]:
    """Yield grammars for a constraint: the first that compiles is to be used. Raises ``InvalidRequestError``.

    There is more than one only where the constraint is not strict: the last then holds no more than a type, and
    compiles. ``special`` gives the id of a special token that an answer shows. Parts are left out.
    """
    try:
        yield from _texts(constraint, special)
    except ConstraintError as error:
        message = f"{constraint.title} can't be honoured: {error}" if constraint.title else str(error)
        raise InvalidRequestError(message, param=param_of(constraint)) from error


def assembled(frame: str, parts: Sequence[str]) -> str:
    """Return the grammar of a frame that refers to ``parts`` by number."""
    first, *others = (json.loads(text)["grammars"][0] for text in (frame, *parts))
    named = [{**grammar, "name": f"part{number}"} for number, grammar in enumerate(others)]
    return json.dumps({"grammars": [first, *named]})


def _texts(constraint: Constraint, special: SpecialToken) -> Iterator[GrammarText]:
    source = constraint.source
    if len(source) > MAX_SOURCE_BYTES or _n_bytes(constraint, source) > MAX_SOURCE_BYTES:
        message = f"The {constraint.kind} is longer than {MAX_SOURCE_BYTES} bytes; shorten it."
        raise ConstraintError(message)
    if constraint.kind == "json_object":
        yield GrammarText(_from_schema({"type": "object"}))
    elif constraint.kind == "json_schema":
        yield from _from_json_schema(constraint)
    elif constraint.kind == "regex":
        yield GrammarText(LLMatcher.grammar_from_regex(source))
    elif constraint.kind == "gbnf":
        yield GrammarText(_from_gbnf(source))
    else:
        yield GrammarText(_from_lark(_lark(constraint, special)))


def _lark(constraint: Constraint, special: SpecialToken) -> str:
    if constraint.kind == "choice":
        return _choice(constraint)
    if constraint.kind == "structural_tag":
        return _structural_tag(constraint, special)
    if len(_RULE.findall(constraint.source)) > MAX_RULES:
        message = f"The grammar has more than {MAX_RULES} rules."
        raise ConstraintError(message)
    return constraint.source


def _from_lark(source: str) -> str:
    """Return a Lark grammar in JSON. The library would take a source that is JSON itself for more than Lark."""
    return json.dumps({"grammars": [{"lark_grammar": source}]})


def _from_schema(schema: Mapping[str, Any], *, lenient: bool = False) -> str:
    return LLMatcher.grammar_from_json_schema(
        json.dumps(schema), overrides={"whitespace_pattern": WHITE_SPACE, "lenient": lenient}
    )


def _from_json_schema(constraint: Constraint) -> Iterator[GrammarText]:
    schema = read_schema(constraint.source)
    if constraint.strict:
        check_multiples(schema)
        yield GrammarText(_from_schema(schema))
        return
    left_out = ""
    try:
        check_multiples(schema)
    except ConstraintError as error:
        schema, left_out = without(schema, "multipleOf"), f"{error} They are not enforced."
    yield GrammarText(_from_schema(schema, lenient=True), left_out)
    # Look-around in a pattern is an error even to a lenient compiler.
    warning = f"{left_out} The patterns in the JSON schema are not enforced.".lstrip()
    yield GrammarText(_from_schema(without(schema, "pattern"), lenient=True), warning)
    kinds, name = _types(schema, default=() if constraint.param == "tools" else ("object",))
    warning = f"Of the JSON schema, nothing is enforced but the type of the answer: {name}."
    yield GrammarText(_from_schema(kinds), warning)


def _types(schema: Mapping[str, Any], *, default: Sequence[str]) -> tuple[dict[str, Any], str]:
    """Return what a schema says of the type, as a schema, and its name. An answer is an object unless it says more."""
    kinds = schema.get("type", [])
    known = [
        kind for kind in (kinds if isinstance(kinds, list) else [kinds]) if isinstance(kind, str) and kind in TYPES
    ]
    if not known and any(keyword in schema for keyword in ("anyOf", "oneOf", "allOf", "enum", "const")):
        default = ()
    known = known or list(default)
    return ({"type": known}, " or ".join(known)) if known else ({}, "JSON")


def _from_gbnf(source: str) -> str:
    converted = convert_gbnf(source)
    if converted.kind == "regex":
        return LLMatcher.grammar_from_regex(converted.source)
    return _from_lark(converted.source)


def _choice(constraint: Constraint) -> str:
    texts = _read_json(constraint, list, "a list of strings")
    if not texts or not all(isinstance(text, str) for text in texts):
        message = "A choice needs a list of at least one string."
        raise ConstraintError(message)
    return "start: " + " | ".join(map(quoted, dict.fromkeys(texts)))


def _structural_tag(constraint: Constraint, special: SpecialToken) -> str:
    """Return a grammar of free text in which each trigger begins one of the structures.

    A lazy lexeme ends with the trigger, so that text can't run on over it. A trigger, a beginning or an end that is a
    token of its own may be written as that token or as text.
    """
    asked = _read_json(constraint, dict, "an object")
    structures, triggers = asked.get("structures"), asked.get("triggers")
    if not isinstance(structures, list) or not isinstance(triggers, list) or not structures:
        message = "A structural_tag needs 'structures', a list of at least one, and 'triggers', a list of strings."
        raise ConstraintError(message)
    lines = [
        "%llguidance {}",
        f"start: ({' | '.join(f'tag_{index}' for index in range(len(structures)))})* rest",
        "rest: TEXT",
        r"TEXT: /(.|\n)*/",
    ]
    for index, structure in enumerate(structures):
        lines += _tag(constraint, index, structure, triggers, special)
    return "\n".join(lines) + "\n"


def _tag(
    constraint: Constraint,
    index: int,
    structure: Any,  # noqa: ANN401  # any JSON value
    triggers: list[Any],
    special: SpecialToken,
) -> Iterator[str]:
    path = f"structures[{index}]"
    begin, end = (structure.get(key) if isinstance(structure, dict) else None for key in ("begin", "end"))
    if not isinstance(begin, str) or not isinstance(end, str):
        message = f"{path} of a structural_tag needs 'begin' and 'end', both strings."
        raise ConstraintError(message)
    trigger = next((text for text in triggers if isinstance(text, str) and text and begin.startswith(text)), None)
    if trigger is None:
        message = f"{path} of a structural_tag begins with {begin!r}, which no trigger is a beginning of."
        raise ConstraintError(message)
    schema = checked_schema(structure.get("schema", {}))
    check_multiples(schema)
    options = {**_object(schema.get("x-guidance")), "whitespace_pattern": WHITE_SPACE, "lenient": not constraint.strict}
    body = json.dumps({**schema, "x-guidance": options})
    yield f"open_{index}[lazy]: TEXT {quoted(trigger)}"
    token = special(trigger)
    opened = f"open_{index}" if token is None else f"(open_{index} | TEXT <[{token}]>)"
    token = special(end)
    closed = quoted(end) if token is None else f"({quoted(end)} | <[{token}]>)"
    yield f"tag_{index}: {opened} {quoted(begin[len(trigger) :])} %json {body} {closed}"


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _read_json(constraint: Constraint, kind: type, wanted: str) -> Any:  # noqa: ANN401  # any JSON value
    try:
        value = json.loads(constraint.source)
        written = json.dumps(value, ensure_ascii=False)
    except (ValueError, RecursionError) as error:
        message = f"The {constraint.kind} is not JSON: {error}."
        raise ConstraintError(message) from error
    _n_bytes(constraint, written)
    if not isinstance(value, kind):
        message = f"The {constraint.kind} must be {wanted}."
        raise ConstraintError(message)
    return value


def _n_bytes(constraint: Constraint, text: str) -> int:
    """Return the length of a text as UTF-8. Raises ``InvalidRequestError`` where it can't be written so."""
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        message = f"The {constraint.kind} holds half of a surrogate pair; leave it out."
        raise ConstraintError(message) from error
