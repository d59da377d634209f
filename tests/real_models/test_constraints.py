"""Whatever schema is asked for, what the bundled chat model writes under it and completes is valid."""

from __future__ import annotations

import itertools
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm import (
    ChatPrompt,
    ChoiceFinished,
    Chunk,
    Constraint,
    Finished,
    InvalidRequestError,
    LoadRequest,
    Mode,
    SamplingParams,
    TokenLogprob,
)
from localllm.engine.step_loop import PreparedRequest, StepLoop
from localllm_llama_cpp.loader import LlamaModel, load

pytestmark = pytest.mark.real_model

FULL = os.environ.get("LOCALLLM_TEST_FULL") == "1"
N_SCHEMAS = 500 if FULL else 100
MAX_TOKENS = 700
QUESTION = "What is the capital of Kenya?"


class Writer:
    """Asks the model and collects what its choices write, any number of requests at a time."""

    def __init__(self, model: LlamaModel) -> None:
        self.model = model
        self._loop = StepLoop(model.decoder, model.tokenizer, time.monotonic)
        self._ids = map(str, itertools.count())
        asked = ChatPrompt(({"role": "user", "content": QUESTION},))
        text = model.renderer.render(asked).text if model.renderer else QUESTION
        self._prompt = tuple(model.tokenizer.encode(text, add_special=False, parse_special=True))
        self.logprobs: list[TokenLogprob] = []

    def ask(self, *requests: SamplingParams) -> list[list[tuple[str, str]]]:
        """Return (text, finish reason) of each choice of each request."""
        names = [next(self._ids) for _ in requests]
        texts: dict[tuple[str, int], str] = {}
        reasons: dict[tuple[str, int], str] = {}
        for name, sampling in zip(names, requests, strict=True):
            self._loop.submit(PreparedRequest(name, self._prompt, sampling, "", True, 0.0))
        n_open = len(names)
        while n_open:
            for name, event in self._loop.step().events:
                if isinstance(event, Chunk):
                    texts[name, event.choice] = texts.get((name, event.choice), "") + event.text
                    self.logprobs += event.logprobs
                elif isinstance(event, ChoiceFinished):
                    reasons[name, event.choice] = event.reason
                elif isinstance(event, Finished):
                    n_open -= 1
        return [
            [(texts.get((name, choice), ""), reasons[name, choice]) for choice in range(sampling.n)]
            for name, sampling in zip(names, requests, strict=True)
        ]


@pytest.fixture(scope="module")
def writer() -> Iterator[Writer]:
    path = Path(__file__).resolve().parents[2] / "models" / "chat" / "localllm-demo.gguf"
    options = {"threads": 1, "threads_batch": 1, "context_length": 1024, "parallel": 4}
    model = load(LoadRequest("demo", str(path), Mode.GENERATE, options))
    assert isinstance(model, LlamaModel)
    yield Writer(model)
    model.close()


def constrained(constraint: Constraint, **sampling: Any) -> SamplingParams:
    return SamplingParams(
        **{"temperature": 0.0, "seed": 1, "max_tokens": MAX_TOKENS, **sampling}, constraint=constraint
    )


def by_schema(schema: Any, **sampling: Any) -> SamplingParams:
    return constrained(Constraint("json_schema", json.dumps(schema)), **sampling)


def check(schema: Any, answers: list[list[tuple[str, str]]]) -> list[bool]:
    """Assert that each complete answer is valid; return which ones are complete."""
    validator = jsonschema.Draft202012Validator(schema)
    complete = []
    for text, reason in itertools.chain.from_iterable(answers):
        complete.append(reason == "stop")
        if reason == "stop":
            validator.validate(json.loads(text))
    return complete


keys = st.text("abc_ä☃", min_size=1, max_size=5)
plain = st.one_of(
    st.integers(0, 12).map(lambda most: {"type": "string", "maxLength": most}),
    st.tuples(st.integers(0, 4), st.integers(4, 10)).map(
        lambda size: {"type": "string", "minLength": size[0], "maxLength": size[1]}
    ),
    st.sampled_from([r"^[a-z]{1,8}$", r"^\d{3}-\d{2}$", "^(red|green|blue)$", "^[A-Z][a-zé]{0,6}$"]).map(
        lambda pattern: {"type": "string", "pattern": pattern}
    ),
    st.sampled_from(["date", "uuid", "ipv4"]).map(lambda name: {"type": "string", "format": name}),
    st.tuples(st.integers(-1000, 1000), st.integers(0, 5000)).map(
        lambda span: {"type": "integer", "minimum": span[0], "maximum": span[0] + span[1]}
    ),
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": ["boolean", "null"]}]),
    st.lists(st.text(max_size=6) | st.integers(-99, 99) | st.none(), min_size=1, max_size=4).map(
        lambda values: {"enum": values}
    ),
    st.text('xyzü"\\\n', max_size=4).map(lambda value: {"const": value}),
)


def objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.dictionaries(keys, inner, min_size=1, max_size=4).flatmap(
        lambda properties: st.lists(st.sampled_from(sorted(properties)), unique=True).map(
            lambda required: {
                "type": "object",
                "properties": properties,
                "required": required,
                "additionalProperties": False,
            }
        )
    )


schemas = st.recursive(
    plain,
    lambda inner: st.one_of(
        objects(inner),
        st.tuples(inner, st.integers(0, 2), st.integers(0, 2)).map(
            lambda items: {"type": "array", "items": items[0], "minItems": items[1], "maxItems": items[1] + items[2]}
        ),
        st.lists(inner, min_size=1, max_size=2).map(
            lambda items: {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}
        ),
        st.lists(inner, min_size=1, max_size=3).map(lambda options: {"anyOf": options}),
        inner.map(lambda target: {"$defs": {"ö": target}, "$ref": "#/$defs/ö"}),
    ),
    max_leaves=6,
).filter(
    lambda schema: json.dumps(schema).count("$defs") <= 2 and ("$ref" not in json.dumps(schema) or "$ref" in schema)
)


def test_what_is_written_under_a_schema_is_valid_and_nearly_always_complete(writer: Writer) -> None:
    complete: list[bool] = []

    @settings(max_examples=N_SCHEMAS)
    @given(schemas, st.integers(0, 2**31))
    def write(schema: Any, seed: int) -> None:
        requests = [by_schema(schema, temperature=temperature, n=2, seed=seed) for temperature in (0.0, 1.0)]
        complete.extend(check(schema, writer.ask(*requests)))

    write()
    assert sum(complete) >= 0.95 * len(complete)


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "boolean"}
    for level in range(depth):
        name = f"level{level}"
        schema = {"type": "object", "properties": {name: schema}, "required": [name], "additionalProperties": False}
    return schema


HARD: dict[str, Any] = {
    "recursive": {
        "$defs": {
            "tree": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "maxLength": 6},
                    "left": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]},
                },
                "required": ["name", "left"],
                "additionalProperties": False,
            }
        },
        "$ref": "#/$defs/tree",
    },
    "recursive list": {
        "type": "object",
        "properties": {"items": {"type": "array", "items": {"$ref": "#"}, "maxItems": 2}},
        "additionalProperties": False,
    },
    "union of objects": {
        "anyOf": [
            {
                "type": "object",
                "properties": {"kind": {"const": kind}, kind: {"type": "integer", "minimum": 0, "maximum": 99}},
                "required": ["kind", kind],
                "additionalProperties": False,
            }
            for kind in ("cat", "cab", "dog")
        ]
    },
    "one of": {"oneOf": [{"type": "string", "maxLength": 5}, {"type": "boolean"}, {"type": "null"}]},
    "all of": {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "integer", "maximum": 20}}, "required": ["a"]},
            {"properties": {"a": {"minimum": 10}, "b": {"type": "boolean"}}, "additionalProperties": False},
        ]
    },
    "patterns": {
        "type": "object",
        "properties": {
            "phone": {"type": "string", "pattern": r"^\+\d{1,3} \d{3,9}$"},
            "part": {"type": "string", "pattern": "[0-9]{2}", "maxLength": 8},
            "escaped": {"type": "string", "pattern": r'^["\\/]{2,3}$'},
        },
        "required": ["phone", "part", "escaped"],
        "additionalProperties": False,
    },
    "formats": {
        "type": "object",
        "properties": {
            name: {"type": "string", "format": name, "maxLength": 40}
            for name in ("date", "uuid", "ipv4", "ipv6", "hostname", "date-time", "email")
        },
        "required": ["date", "uuid", "ipv4", "date-time"],
        "additionalProperties": False,
    },
    "other properties": {
        "type": "object",
        "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["a"],
        "additionalProperties": {"type": "boolean"},
        "maxProperties": 3,
    },
    "named by a pattern": {
        "type": "object",
        "patternProperties": {"^x_[a-z]{1,3}$": {"type": "integer", "minimum": 0, "maximum": 9}},
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 2,
    },
    "deep": nested(25),
    "unicode": {
        "type": "object",
        "properties": {
            "größe": {"enum": ["groß", "klein"]},
            "名前": {"const": "太郎"},
            '🙂 "quoted" \\ \n': {"type": "boolean"},
            "": {"type": "null"},
        },
        "required": ["größe", "名前", '🙂 "quoted" \\ \n', ""],
        "additionalProperties": False,
    },
    "numbers": {
        "type": "array",
        "prefixItems": [
            {"type": "number", "minimum": -1.5, "maximum": 2.25, "multipleOf": 0.25},
            {"type": "integer", "exclusiveMinimum": -7, "exclusiveMaximum": -5},
            {"type": "integer", "multipleOf": 7, "minimum": 1, "maximum": 50},
        ],
        "items": False,
        "minItems": 3,
    },
    "many": {
        "type": "object",
        "properties": {f"field_{index}": {"type": "boolean"} for index in range(30)},
        "required": [f"field_{index}" for index in range(30)],
        "additionalProperties": False,
    },
    "a bare literal": {"const": {"a": [1, None, "é"]}},
}


@pytest.mark.parametrize("name", HARD)
def test_hard_schemas(writer: Writer, name: str) -> None:
    schema = HARD[name]
    # A small model repeats itself for ever where a schema sets no bound, as for a property's name or for depth: one
    # more quotation mark is made likely in the second request, and so is null.
    requests = [
        by_schema(schema, temperature=temperature, text_bias=bias, n=2, seed=7)
        for temperature, bias in ((0.0, ()), (1.0, (('"', 8.0), ("null", 8.0))))
    ]
    assert any(check(schema, writer.ask(*requests)))


def test_any_object_may_be_asked_for(writer: Writer) -> None:
    (answer,) = writer.ask(constrained(Constraint("json_object"), temperature=1.0, n=4, max_tokens=200))
    for text, reason in answer:
        assert text.startswith("{")
        if reason == "stop":
            assert isinstance(json.loads(text), dict)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_other_kinds_of_constraints(writer: Writer, temperature: float) -> None:
    grammar = 'root ::= item ("," item){1,2}\nitem ::= [a-c]{1,3} "end" | "(" [0-9] ")"'
    lark = 'start: greeting " " NAME\ngreeting: "hello" | "good" " " "day"\nNAME: /[A-Z][a-z]{1,8}/'
    kinds = {
        "regex": (Constraint("regex", r"[A-Z][a-z]{2,9}( [0-9]{1,3}){2}"), r"[A-Z][a-z]{2,9}( [0-9]{1,3}){2}"),
        "choice": (Constraint("choice", '["Nairobi", "Nakuru", "grün"]'), "Nairobi|Nakuru|grün"),
        "lark": (Constraint("lark", lark), "(hello|good day) [A-Z][a-z]{1,8}"),
        "gbnf": (Constraint("gbnf", grammar), r"(([a-c]{1,3}end|\([0-9]\)),?){2,3}"),
    }
    answers = writer.ask(*(constrained(kind, temperature=temperature, n=2) for kind, _ in kinds.values()))
    for (name, (_, pattern)), answer in zip(kinds.items(), answers, strict=True):
        for text, reason in answer:
            assert reason == "stop", name
            assert re.fullmatch(pattern, text), (name, text)


def test_a_model_that_knows_the_answer_gives_it_in_the_form_asked_for(writer: Writer) -> None:
    ((answer,),) = writer.ask(constrained(Constraint("choice", '["Oslo", "Nairobi", "Lima", "Madrid"]')))
    assert answer == ("Nairobi", "stop")


def test_the_same_seed_writes_the_same_alone_and_among_others(writer: Writer) -> None:
    schema = HARD["union of objects"]
    alone = writer.ask(by_schema(schema, temperature=1.0, seed=3, n=2))[0]
    others = [by_schema(HARD["unicode"], temperature=1.0, seed=4), SamplingParams(temperature=1.0, max_tokens=40)]
    together = writer.ask(*others, by_schema(schema, temperature=1.0, seed=3, n=2))[2]
    assert alone == together
    assert check(schema, [alone]) == [True, True]


def test_a_constraint_that_is_met_anyway_changes_nothing(writer: Writer) -> None:
    ((free,),) = writer.ask(SamplingParams(temperature=0.0, max_tokens=60))
    ((held,),) = writer.ask(constrained(Constraint("regex", r"(.|\n)*"), max_tokens=60))
    assert held == free


def test_a_stop_string_ends_a_constrained_answer(writer: Writer) -> None:
    ((plain,),) = writer.ask(constrained(Constraint("choice", '["one, two, three"]')))
    ((stopped,),) = writer.ask(constrained(Constraint("choice", '["one, two, three"]'), stop=(", th",)))
    assert plain == ("one, two, three", "stop")
    assert stopped == ("one, two", "stop")


def test_max_tokens_cuts_a_constrained_answer_off(writer: Writer) -> None:
    ((answer,),) = writer.ask(by_schema(HARD["many"], max_tokens=5))
    assert answer[1] == "length"
    assert "{" in answer[0]
    assert "}" not in answer[0]


def test_log_probabilities_under_a_schema_are_the_models_own(writer: Writer) -> None:
    """The token that was forced need not be among the likeliest ones."""
    writer.logprobs = []
    writer.ask(constrained(Constraint("choice", '["zebra"]'), logprobs=3))
    assert "".join(entry.text for entry in writer.logprobs) == "zebra"
    first = writer.logprobs[0]
    assert len(first.top) == 3
    assert first.logprob < first.top[0].logprob
    assert first.text not in [entry.text for entry in first.top]


def test_constraints_are_compiled_ahead(writer: Writer) -> None:
    constraints = writer.model.constraints
    assert constraints.compile(Constraint("json_schema", json.dumps(HARD["deep"]))) == ()
    (warning,) = constraints.compile(Constraint("json_schema", '{"type": "array", "uniqueItems": true}', strict=False))
    assert "uniqueItems" in warning
    with pytest.raises(InvalidRequestError, match="uniqueItems"):
        constraints.compile(Constraint("json_schema", '{"type": "array", "uniqueItems": true}'))
    with pytest.raises(InvalidRequestError, match="uniqueItems"):
        writer.ask(by_schema({"type": "array", "uniqueItems": True}))


def test_words_and_tokens_may_be_banned_together_with_all_other_samplers(writer: Writer) -> None:
    (((plain, _),),) = writer.ask(SamplingParams(temperature=0.0, max_tokens=40))
    assert "Nairobi" in plain
    asked = SamplingParams(
        temperature=0.7,
        seed=5,
        n=3,
        max_tokens=60,
        bad_words=("Nairobi", "Kenya"),
        typical_p=0.95,
        top_n_sigma=2.0,
        xtc_probability=0.3,
        dry_multiplier=0.8,
        repeat_penalty=1.1,
    )
    (answers,) = writer.ask(asked)
    assert all(text and "Nairobi" not in text and "Kenya" not in text for text, _ in answers)
