"""Whole replies of the bundled chat model, and of a random one, under one grammar: thoughts, calls and content."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from localllm import ChatFormat, Constraint, LoadRequest, Mode, ReplyRules, ThoughtFormat, Tool
from localllm.engine.reply_reader import CallPart, ReplyReader, TextPart
from localllm.testing.tiny_model import write_tiny_llama
from localllm_llama_cpp.format_presets import PRESETS
from localllm_llama_cpp.loader import LlamaModel, load
from localllm_llama_cpp.reply_grammar import reply_constraint
from tests.plugins.llama_cpp.families import CALLS, FAMILIES, written_calls
from tests.plugins.llama_cpp.families import TOOLS as OFFERED
from tests.plugins.llama_cpp.grammar_kit import chat_of
from tests.real_models.test_constraints import Writer, constrained

pytestmark = pytest.mark.real_model

TOOLS = (
    Tool(
        "set_light",
        {
            "type": "object",
            "properties": {
                "room": {"enum": ["kitchen", "hall"]},
                "level": {"enum": [1, 2, 3]},
            },
            "required": ["room", "level"],
            "additionalProperties": False,
        },
        strict=True,
    ),
    Tool("stop", {"type": "object", "properties": {}, "additionalProperties": False}, strict=True),
)
NUMBER = {
    "type": "object",
    "properties": {"n": {"type": "integer", "maximum": 99, "minimum": 0}},
    "required": ["n"],
    "additionalProperties": False,
}
FORMATS = ["qwen3", "qwen3_coder", "llama3", "lfm2", "deepseek_v3", "kimi_k2", "mistral_nemo", "glm4"]


@pytest.fixture(scope="module", params=["demo", "random"])
def writer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Writer]:
    path = Path(__file__).resolve().parents[2] / "models" / "chat" / "localllm-demo.gguf"
    if request.param == "random":
        path = write_tiny_llama(tmp_path_factory.mktemp("models") / "random.gguf", n_vocab=2048)
    options = {"threads": 1, "threads_batch": 1, "context_length": 1024, "parallel": 4}
    model = load(LoadRequest("model", str(path), Mode.GENERATE, options))
    assert isinstance(model, LlamaModel)
    yield Writer(model)
    model.close()


def held(writer: Writer, chat: ChatFormat, **options: Any) -> Constraint:
    asked: dict[str, Any] = {"opening": "none", "choice": "required", "parallel": False, "content": None, **options}
    found, warnings = reply_constraint(
        chat,
        calls=chat.calls,
        tools=TOOLS,
        special_token=writer.model.constraints.special_token,
        ends=writer.model.tokenizer.end_tokens,
        **asked,
    )
    assert found is not None
    assert warnings == writer.model.constraints.compile(found) == ()
    return found


def read(chat: ChatFormat, text: str, *, in_thought: bool = False) -> tuple[list[tuple[str, Any]], str]:
    """Return the calls and the content of a reply."""
    reader = ReplyReader(ReplyRules(chat.thought, in_thought, chat.calls, TOOLS))
    parts = reader.feed(text) + reader.finish()
    names = [part.name for part in parts if isinstance(part, CallPart) and part.name]
    arguments = [""] * len(names)
    for part in parts:
        if isinstance(part, CallPart):
            arguments[part.index] += part.arguments
    content = [part.text for part in parts if isinstance(part, TextPart) and part.region == "content"]
    return list(zip(names, map(json.loads, arguments), strict=True)), "".join(content)


@pytest.mark.parametrize("name", FORMATS)
def test_a_required_call_is_made_whatever_the_model_would_have_said(writer: Writer, name: str) -> None:
    chat = PRESETS[name]
    constraint = held(writer, chat, opening="closed")
    answers = writer.ask(*(constrained(constraint, temperature=heat, n=2, seed=3) for heat in (0.0, 1.5)))
    for text, reason in (choice for answer in answers for choice in answer):
        assert reason == "stop", text
        ((function, arguments),), content = read(chat, text)
        assert content == ""
        jsonschema.validate(arguments, next(tool.parameters for tool in TOOLS if tool.name == function))


def test_content_is_held_behind_a_thought_however_that_ends(writer: Writer) -> None:
    """A full stop ends this thought, which any model writes with a bias: nobody taught these to close one."""
    chat = replace(PRESETS["qwen3"], thought=ThoughtFormat("<think>", "."))
    content = Constraint("json_schema", json.dumps(NUMBER))
    n_closed = 0
    for choice in ("none", "auto"):
        constraint = held(writer, chat, opening="open", choice=choice, content=content)
        (answers,) = writer.ask(constrained(constraint, temperature=1.0, n=4, seed=5, text_bias=((".", 9.0),)))
        for text, reason in answers:
            calls, said = read(chat, text, in_thought=True)
            if reason == "stop":
                n_closed += 1
                assert calls or 0 <= json.loads(said)["n"] <= 99
    assert n_closed


def test_free_text_stays_as_it_was_until_a_call_begins(writer: Writer) -> None:
    chat = PRESETS["qwen3"]
    constraint = held(writer, chat, opening="closed", choice="auto", parallel=True)
    ((plain,),) = writer.ask(constrained(constraint, max_tokens=40))
    ((free,),) = writer.ask(constrained(Constraint("regex", r"(.|\n)*"), max_tokens=40))
    assert plain == free


@pytest.mark.parametrize(
    "name", sorted(name for name, family in FAMILIES.items() if family.calls and family.shows_calls)
)
def test_what_a_family_writes_is_taken_as_the_models_own_tokens(writer: Writer, name: str) -> None:
    chat = chat_of(name)
    model = writer.model
    text = written_calls(name, CALLS[:1]).rstrip()
    opened = f"I'd {{call}} it.\n{chat.thought.close}\n\n" if chat.thought else ""
    constraint, _ = reply_constraint(
        chat,
        opening="open",
        calls=chat.calls,
        tools=OFFERED,
        choice="required",
        parallel=True,
        content=None,
        special_token=model.constraints.special_token,
        ends=model.tokenizer.end_tokens,
    )
    assert constraint
    for written, right in ((opened + text, True), (opened + text.replace("city", "town"), False)):
        state = model.constraints.begin(constraint)
        tokens = model.tokenizer.encode(written, add_special=False, parse_special=True)
        assert state.matcher.validate_tokens(tokens) == len(tokens) or not right
        taken = state.matcher.try_consume_tokens(tokens)
        assert (taken == len(tokens) and state.matcher.is_accepting()) is right
