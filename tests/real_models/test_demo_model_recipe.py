"""The bundled demo chat model is the one that the sources in `models/training` describe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import pytest

from localllm_llama_cpp.template import ChatTemplate
from models.training import recipe
from models.training.chat_markup import CHAT_TEMPLATE, SPECIAL_TOKENS, Message, Setting, Tool, ToolCall, prompt_text
from models.training.heldout import BELOW_TARGET, KINDS, SETTING_KINDS, heldout_dialogues, setting_dialogues

DEMO = Path(recipe.__file__).resolve().parent.parent / "chat" / "localllm-demo.gguf"
MAX_BYTES = 8 * 1024 * 1024
TARGET, FLOOR = 0.95, 0.65


@pytest.fixture(scope="module")
def header() -> gguf.GGUFReader:
    return gguf.GGUFReader(DEMO)


def _value(header: gguf.GGUFReader, key: str) -> object:
    field = header.get_field(key)
    assert field is not None, f"{DEMO.name} lacks {key}"
    return field.contents()


def test_the_file_is_small() -> None:
    assert DEMO.stat().st_size <= MAX_BYTES


def test_the_recorded_recipe_is_that_of_the_sources(header: gguf.GGUFReader) -> None:
    """After a change to a training source: train again; where the text stays the same, measure and export again."""
    assert _value(header, "localllm.recipe.sha256") == recipe.chat_recipe_sha256()
    assert _value(header, "localllm.recipe.seed") == recipe.CHAT_SEED
    assert _value(header, "localllm.recipe.steps") == recipe.CHAT_STEPS


def test_the_kinds_below_the_target_are_the_named_ones(header: gguf.GGUFReader) -> None:
    accuracy = {kind: _value(header, f"localllm.accuracy.{kind}") for kind in KINDS + SETTING_KINDS}
    shares = {kind: round(share, 3) for kind, share in accuracy.items() if isinstance(share, float)}  # kept as float32
    assert shares.keys() == accuracy.keys()
    assert {kind for kind, share in shares.items() if share < TARGET} == set(BELOW_TARGET)
    assert min(shares.values()) >= FLOOR


def test_the_header_holds_template_and_special_tokens(header: gguf.GGUFReader) -> None:
    tokens = _value(header, "tokenizer.ggml.tokens")
    assert isinstance(tokens, list)
    assert tokens[: len(SPECIAL_TOKENS)] == list(SPECIAL_TOKENS)
    assert tokens[_index(header, "eos")] == tokens[_index(header, "eot")] == "<|im_end|>"
    assert tokens[_index(header, "fim_mid")] == "<|fim_middle|>"
    assert _value(header, "tokenizer.ggml.add_bos_token") is False
    assert _value(header, "tokenizer.chat_template") == CHAT_TEMPLATE


def _index(header: gguf.GGUFReader, name: str) -> int:
    index = _value(header, f"tokenizer.ggml.{name}_token_id")
    assert isinstance(index, int)
    return index


def test_held_out_dialogues_are_the_same_for_the_same_seed_and_end_with_the_user() -> None:
    dialogues = heldout_dialogues(44, seed=5)
    assert dialogues == heldout_dialogues(44, seed=5)
    assert dialogues != heldout_dialogues(44, seed=6)
    assert {dialogue.kind for dialogue in dialogues} == set(KINDS)
    assert all(dialogue.messages[-1].role == "user" for dialogue in dialogues)
    assert all(dialogue.accepts(dialogue.answer) and not dialogue.accepts("") for dialogue in dialogues)


def _on_the_wire(message: Message, arguments_as_text: bool) -> dict[str, object]:
    wire: dict[str, object] = {"role": message.role, "content": message.content, "reasoning_content": message.thought}
    if message.calls:
        functions = [{"name": call.name, "arguments": dict(call.arguments)} for call in message.calls]
        if arguments_as_text:
            texts = [json.dumps(function["arguments"], ensure_ascii=False) for function in functions]
            functions = [{**function, "arguments": text} for function, text in zip(functions, texts, strict=True)]
        wire["tool_calls"] = [{"id": "x", "type": "function", "function": function} for function in functions]
    return wire


def _render(template: ChatTemplate, messages: list[dict[str, object]], kwargs: dict[str, Any]) -> str:
    variables = {name: value for name, value in kwargs.items() if name != "tools"}
    return template.render_once(messages, kwargs.get("tools", []), variables)


def _kwargs(setting: Setting) -> dict[str, object]:
    kwargs: dict[str, object] = {} if setting.thinking is None else {"enable_thinking": setting.thinking}
    if setting.tools:
        kwargs["tools"] = [
            {
                "type": "function",
                "function": {"name": tool.name, "description": "Not shown.", "parameters": _schema(tool)},
            }
            for tool in setting.tools
        ]
    return kwargs


def _schema(tool: Tool) -> dict[str, object]:
    properties = {key: {"type": kind, "description": "Not shown."} for key, kind in tool.parameters}
    return {"type": "object", "properties": properties, "required": [key for key, _ in tool.parameters]}


@pytest.mark.parametrize("arguments_as_text", [False, True])
def test_the_template_writes_what_the_training_wrote(arguments_as_text: bool) -> None:
    template = ChatTemplate(CHAT_TEMPLATE)
    for dialogue in setting_dialogues(80, seed=5) + heldout_dialogues(22, seed=5):
        messages = [_on_the_wire(message, arguments_as_text) for message in dialogue.messages]
        assert _render(template, messages, _kwargs(dialogue.setting)) == prompt_text(
            dialogue.messages, dialogue.setting
        )


def test_only_the_required_parameters_are_shown_and_all_where_none_is_required() -> None:
    template = ChatTemplate(CHAT_TEMPLATE)
    properties = {"city": {"type": "string"}, "unit": {"type": ["string", "null"]}}
    tool = {"name": "f", "parameters": {"type": "object", "properties": properties, "required": ["city"]}}
    asked = [{"role": "user", "content": "Hi"}]
    assert '"f", "arguments": {"city": "string"}}' in _render(template, asked, {"tools": [{"function": tool}]})
    del tool["parameters"]["required"]
    assert '{"city": "string", "unit": "any"}}' in _render(template, asked, {"tools": [{"function": tool}]})


def test_thoughts_before_the_last_question_are_dropped_and_those_after_it_stay() -> None:
    call = ToolCall("f", (("x", 1),))
    messages = (
        Message("user", "a"),
        Message("assistant", "b", (), "early"),
        Message("user", "c"),
        Message("assistant", "", (call,), "late"),
        Message("tool", "d"),
    )
    text = _render(ChatTemplate(CHAT_TEMPLATE), [_on_the_wire(message, False) for message in messages], {})
    assert "early" not in text
    assert "<think>\nlate\n</think>\n\n<tool_call>\n" in text


def test_without_settings_the_prompt_is_plain_chatml_and_thinking_off_opens_an_empty_thought() -> None:
    template, asked = ChatTemplate(CHAT_TEMPLATE), [{"role": "user", "content": "Hi"}]
    plain = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert _render(template, asked, {}) == plain
    assert _render(template, asked, {"enable_thinking": False}) == plain + "<think>\n\n</think>\n\n"
    assert _render(template, asked, {"enable_thinking": True}) == "<|im_start|>system\n/think<|im_end|>\n" + plain


def test_held_out_settings_cover_their_kinds_and_think_wants_a_closed_thought() -> None:
    dialogues = setting_dialogues(40, seed=5)
    assert dialogues == setting_dialogues(40, seed=5)
    assert {dialogue.kind for dialogue in dialogues} == set(SETTING_KINDS)
    thinking = next(dialogue for dialogue in dialogues if dialogue.kind == "think")
    assert thinking.accepts(f"<think>\nWell.\n</think>\n\n{thinking.answer}")
    assert not thinking.accepts(thinking.answer)
    assert not thinking.accepts(f"<think>\n{thinking.answer}")
