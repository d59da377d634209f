"""Templates that imitate families of models, and what there is to be read from each."""

# ruff: noqa: RUF001  # DeepSeek spells its control tokens with full-width bars

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from localllm import CallFormat, ThoughtFormat, Tool
from localllm_llama_cpp.sandbox import SandboxedTemplate
from tests.engine.reply_kit import CODER, HERMES, THINK

TEMPLATES = Path(__file__).parent / "templates"

PYTHONIC = CallFormat(
    "pythonic", section_open="<|tool_call_start|>[", section_close="]<|tool_call_end|>", separator=", "
)
R1 = CallFormat(
    "tagged_json",
    section_open="<｜tool▁calls▁begin｜>",
    call_open="<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
    name_close="\n```json\n",
    call_close="\n```<｜tool▁call▁end｜>",
    separator="\n",
    section_close="<｜tool▁calls▁end｜>",
)
GLM = CallFormat(
    "tagged_values",
    call_open="<tool_call>",
    name_close="\n",
    key_open="<arg_key>",
    key_close="</arg_key>\n<arg_value>",
    value_close="</arg_value>\n",
    call_close="</tool_call>",
    separator="\n",
)


def json_list(opening: str, closing: str, **fields: str) -> CallFormat:
    return CallFormat("json", section_open=opening, section_close=closing, separator=", ", **fields)


@dataclass(frozen=True)
class Family:
    """What a template must be found to say. ``end`` is what ends a message with calls in it."""

    thought: ThoughtFormat | None
    calls: CallFormat | None
    source: str = "template"
    end: str = "<|im_end|>"
    shows_calls: bool = True
    shows_tools: bool = True
    arguments_as_text: bool = False


FAMILIES = {
    "apertus": Family(None, json_list("<|tools_prefix|>[", "]<|tools_suffix|>", name_key=""), end="$"),
    "apriel": Family(
        ThoughtFormat("Here are my reasoning steps:\n", "[BEGIN FINAL RESPONSE]"),
        json_list("<tool_calls>[", "]</tool_calls>"),
        end="<|end|>",
    ),
    "bielik": Family(THINK, HERMES),
    "broken": Family(None, None, "none", shows_calls=False, shows_tools=False),
    "command_r7b": Family(
        ThoughtFormat("<|START_THINKING|>", "<|END_THINKING|>"),
        CallFormat(
            "json",
            section_open="<|START_ACTION|>[\n    ",
            section_close="\n]<|END_ACTION|>",
            separator=",\n    ",
            name_key="tool_name",
            arguments_key="parameters",
            id_key="tool_call_id",
        ),
        end="<|END_OF_TURN_TOKEN|>",
    ),
    "deepseek_r1": Family(THINK, R1, end="<｜end▁of▁sentence｜>", shows_tools=False),
    "deepseek_r1_distill": Family(
        THINK, R1, "preset", end="<｜end▁of▁sentence｜>", shows_calls=False, shows_tools=False
    ),
    "deepseek_v3": Family(
        THINK,
        CallFormat(
            "tagged_json",
            section_open="<｜tool▁calls▁begin｜>",
            call_open="<｜tool▁call▁begin｜>",
            name_close="<｜tool▁sep｜>",
            call_close="<｜tool▁call▁end｜>",
            section_close="<｜tool▁calls▁end｜>",
        ),
        end="<｜end▁of▁sentence｜>",
    ),
    "deepseek_v3_2": Family(
        THINK,
        CallFormat(
            "tagged_values",
            section_open="<｜DSML｜function_calls>\n",
            call_open='<｜DSML｜invoke name="',
            name_close='">\n',
            key_open='<｜DSML｜parameter name="',
            key_close='" string="false">',
            string_key_close='" string="true">',
            value_close="</｜DSML｜parameter>\n",
            call_close="</｜DSML｜invoke>\n",
            section_close="</｜DSML｜function_calls>",
        ),
        end="<｜end▁of▁sentence｜>",
    ),
    "firefunction": Family(None, json_list("functools[", "]"), "preset", shows_calls=False),
    "functionary_3_1": Family(
        None,
        CallFormat("tagged_json", call_open="<function=", name_close=">", call_close="</function>"),
        end="<|eom_id|>",
    ),
    "functionary_3_2": Family(None, None, "none", arguments_as_text=True),  # the prompt opens the call
    "gemma_2": Family(None, None, "none", shows_calls=False, shows_tools=False),
    "gemma_4": Family(
        ThoughtFormat("<|channel>thought\n", "<channel|>"),
        CallFormat(
            "pythonic",
            call_open="<|tool_call>call:",
            name_close="{",
            key_close=":",
            string_open='<|"|>',
            string_close='<|"|>',
            call_close="<tool_call|>",
        ),
        end="<turn|>",
    ),
    "gigachat": Family(None, CallFormat("json", call_open="<|function_call|>", parallel=False), end="<|message_sep|>"),
    "glm_4_6": Family(THINK, GLM, end="$"),
    "glm_4_7": Family(
        THINK,
        replace(GLM, name_close="", key_close="</arg_key><arg_value>", value_close="</arg_value>", separator=""),
        end="$",
    ),
    "gpt_oss": Family(
        ThoughtFormat("<|channel|>analysis<|message|>", "<|end|><|start|>assistant"),
        CallFormat(
            "tagged_json",
            call_open=" to=functions.",
            name_end="<|channel|>",
            name_close="<|message|>",
            also_open=("<|channel|>commentary to=functions.",),
            parallel=False,
        ),
        "preset",
        end="<|call|>",
    ),
    "granite_3_3": Family(THINK, json_list("<|tool_call|>[", "]"), "preset", shows_calls=False),
    "granite_4": Family(None, HERMES, end="<|end_of_text|>"),
    "hermes": Family(None, HERMES),
    "hunyuan": Family(
        ThoughtFormat("<think:opensource>", "</think:opensource>"),
        CallFormat(
            "tagged_values",
            section_open="<tool_calls:opensource>\n",
            call_open="<tool_call:opensource>",
            name_close="<tool_sep:opensource>\n",
            key_open="<arg_key:opensource>",
            key_close="</arg_key:opensource>\n<arg_value:opensource>",
            value_close="</arg_value:opensource>\n",
            call_close="</tool_call:opensource>\n",
            section_close="</tool_calls:opensource>",
        ),
        end="<｜hy_eos:opensource｜>",
    ),
    "kimi_k2": Family(
        THINK,
        CallFormat(
            "tagged_json",
            section_open="<|tool_calls_section_begin|>",
            call_open="<|tool_call_begin|>functions.",
            name_end=":",
            name_close="<|tool_call_argument_begin|>",
            call_close="<|tool_call_end|>",
            section_close="<|tool_calls_section_end|>",
        ),
    ),
    "lfm2": Family(None, PYTHONIC, "preset", shows_calls=False),
    "lfm2_5": Family(THINK, PYTHONIC),
    "llama_3": Family(None, CallFormat("json", arguments_key="parameters", parallel=False), end="<|eot_id|>"),
    "llama_4": Family(
        None, CallFormat("pythonic", section_open="[", section_close="]", separator=", "), "preset", shows_calls=False
    ),
    "minicpm5": Family(
        THINK,
        CallFormat(
            "tagged_values",
            call_open='<function name="',
            name_close='">',
            key_open='<param name="',
            key_close='">',
            value_close="</param>",
            call_close="</function>",
            separator="\n",
        ),
    ),
    "minimax_m1": Family(
        None,
        CallFormat("json", section_open="<tool_calls>\n", section_close="\n</tool_calls>", separator="\n"),
        end="<end_of_sentence>",
    ),
    "minimax_m2": Family(
        THINK,
        CallFormat(
            "tagged_values",
            section_open="<minimax:tool_call>\n",
            call_open='<invoke name="',
            name_close='">\n',
            key_open='<parameter name="',
            key_close='">',
            value_close="</parameter>\n",
            call_close="</invoke>\n",
            section_close="</minimax:tool_call>",
        ),
        end="[e~[",
    ),
    "minimax_m3": Family(ThoughtFormat("<mm:think>", "</mm:think>"), None),  # keys in closing tags
    "ministral": Family(
        ThoughtFormat("[THINK]", "[/THINK]"),
        CallFormat("tagged_json", call_open="[TOOL_CALLS]", name_close="[ARGS]"),
        end="</s>",
    ),
    "mistral_nemo": Family(None, json_list("[TOOL_CALLS][", "]", id_key="id"), end="</s>"),
    "mistral_small": Family(
        None,
        CallFormat("tagged_json", call_open="[TOOL_CALLS]", name_end="[CALL_ID]", name_close="[ARGS]"),
        end="</s>",
    ),
    "nemotron_3": Family(THINK, CODER),
    "nemotron_nano": Family(THINK, json_list("<TOOLCALL>[", "]</TOOLCALL>"), end="<SPECIAL_12>"),
    "phi_3_5": Family(None, None, "none", shows_calls=False, shows_tools=False),
    "phi_4_mini": Family(None, json_list("<|tool_call|>[", "]<|/tool_call|>"), "preset", shows_calls=False),
    "python_arguments": Family(  # objects come out as Python writes them, JSON text as it is
        None,
        CallFormat("tagged_json", call_open="<call>", name_close="<args>", call_close="</call>"),
        end="<|eot_id|>",
        arguments_as_text=True,
    ),
    "qwen3": Family(THINK, HERMES),
    "qwen3_5": Family(THINK, CODER),
    "qwen3_coder": Family(None, CODER),
    "qwq": Family(THINK, HERMES),
    "seed_oss": Family(
        ThoughtFormat("<seed:think>", "</seed:think>"),
        replace(
            CODER,
            call_open="<seed:tool_call>\n<function=",
            key_close=">",
            value_close="</parameter>\n",
            call_close="</function>\n</seed:tool_call>",
        ),
        end="<seed:eos>",
    ),
    "smollm3": Family(THINK, HERMES, "preset", shows_calls=False, shows_tools=False),
    "solar": Family(ThoughtFormat("<|think|>", "<|end|>"), None),  # an id before the name
}

TOOLS = (
    Tool(
        "get_weather",
        {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer"},
                "hours": {"type": "array", "items": {"type": "number"}},
                "metric": {"type": "boolean"},
            },
            "required": ["city"],
        },
    ),
    Tool("set-alarm", {"type": "object", "properties": {"note": {"type": "string"}}, "required": ["note"]}),
)

Call = tuple[str, dict[str, Any]]

CALLS: tuple[Call, ...] = (
    ("get_weather", {"city": "Köln <am Rhein>, 5 > 4", "days": 3, "hours": [6, 18.5], "metric": True}),
    ("set-alarm", {"note": "wake up {now}\nor [later]"}),
)

PLAIN_CALLS: tuple[Call, ...] = (
    ("get_weather", {"city": "Bonn", "days": 3, "hours": [6, 18.5]}),
    ("set-alarm", {"note": "wake up"}),
)  # nothing that one could escape in more than one way


class Renderer:
    """A family's template, as the plugin renders it."""

    def __init__(self, name: str) -> None:
        self.source = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
        self._template = SandboxedTemplate(self.source)

    def __call__(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]
    ) -> str:
        offered = {"tools": tools} if tools else {}
        return self._template.render(
            {"messages": messages, "bos_token": "<s>", "eos_token": "</s>", **offered, **variables}
        )


def written_calls(name: str, calls: Sequence[Call]) -> str:
    """What a message with ``calls`` has of its own, as the family's template writes it."""
    family = FAMILIES[name]
    made = [
        {
            "id": f"call{index:05}",
            "type": "function",
            "function": {
                "name": function,
                "arguments": json.dumps(arguments, ensure_ascii=False) if family.arguments_as_text else arguments,
            },
        }
        for index, (function, arguments) in enumerate(calls)
    ]
    messages = [{"role": "user", "content": "what?"}, {"role": "assistant", "content": "", "tool_calls": made}]
    text = Renderer(name)(messages, [], {"add_generation_prompt": False})
    text = text[text.rindex("what?") :]
    if family.end != "$":
        text = text[: text.rindex(family.end)]
    assert family.calls is not None
    opening = (family.calls.section_open + family.calls.call_open) or '{"name"'
    return text[text.index(opening) :]


def read_arguments(text: str) -> dict[str, Any]:
    value = json.loads(text)
    assert isinstance(value, dict)
    return value
