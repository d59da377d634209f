"""Chat formats by name: for families whose templates show none, and for a setting that overrides what one shows."""

# ruff: noqa: RUF001  # DeepSeek spells its control tokens with full-width bars

from __future__ import annotations

from localllm import CallFormat, ChatFormat, ThoughtFormat

THINK = ThoughtFormat("<think>", "</think>")

HERMES = CallFormat("json", call_open="<tool_call>\n", call_close="\n</tool_call>", separator="\n")
"""The most common way to write calls, so that it is also what a model of no known format is asked for."""

_QWEN3_CODER = CallFormat(
    "tagged_values",
    call_open="<tool_call>\n<function=",
    name_close=">\n",
    key_open="<parameter=",
    key_close=">\n",
    value_close="\n</parameter>\n",
    call_close="</function>\n</tool_call>",
    separator="\n",
)
_LLAMA3 = CallFormat("json", arguments_key="parameters", parallel=False)
_LLAMA4 = CallFormat("pythonic", section_open="[", section_close="]", separator=", ")
_LFM2 = CallFormat("pythonic", section_open="<|tool_call_start|>[", section_close="]<|tool_call_end|>", separator=", ")
_MISTRAL_LIST = CallFormat("json", section_open="[TOOL_CALLS][", section_close="]", separator=", ", id_key="id")
_MISTRAL = CallFormat("tagged_json", call_open="[TOOL_CALLS]", name_close="[ARGS]")
_DEEPSEEK_V3 = CallFormat(
    "tagged_json",
    section_open="<｜tool▁calls▁begin｜>",
    call_open="<｜tool▁call▁begin｜>",
    name_close="<｜tool▁sep｜>",
    call_close="<｜tool▁call▁end｜>",
    section_close="<｜tool▁calls▁end｜>",
)
_DEEPSEEK_R1 = CallFormat(
    "tagged_json",
    section_open="<｜tool▁calls▁begin｜>",
    call_open="<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
    name_close="\n```json\n",
    call_close="\n```<｜tool▁call▁end｜>",
    separator="\n",
    section_close="<｜tool▁calls▁end｜>",
)
_GLM4 = CallFormat(
    "tagged_values",
    call_open="<tool_call>",
    name_close="\n",
    key_open="<arg_key>",
    key_close="</arg_key>\n<arg_value>",
    value_close="</arg_value>\n",
    call_close="</tool_call>",
    separator="\n",
)
_KIMI_K2 = CallFormat(
    "tagged_json",
    section_open="<|tool_calls_section_begin|>",
    call_open="<|tool_call_begin|>functions.",
    name_end=":",
    name_close="<|tool_call_argument_begin|>",
    call_close="<|tool_call_end|>",
    section_close="<|tool_calls_section_end|>",
)
_GRANITE = CallFormat("json", section_open="<|tool_call|>[", section_close="]", separator=", ")
_PHI4_MINI = CallFormat("json", section_open="<|tool_call|>[", section_close="]<|/tool_call|>", separator=", ")
_COMMAND_R7B = CallFormat(
    "json",
    section_open="<|START_ACTION|>[\n    ",
    section_close="\n]<|END_ACTION|>",
    separator=",\n    ",
    name_key="tool_name",
    arguments_key="parameters",
    id_key="tool_call_id",
)
_MINIMAX_M2 = CallFormat(
    "tagged_values",
    section_open="<minimax:tool_call>\n",
    call_open='<invoke name="',
    name_close='">\n',
    key_open='<parameter name="',
    key_close='">',
    value_close="</parameter>\n",
    call_close="</invoke>\n",
    section_close="</minimax:tool_call>",
)
_FUNCTIONARY_31 = CallFormat("tagged_json", call_open="<function=", name_close=">", call_close="</function>")
_FUNCTOOLS = CallFormat("json", section_open="functools[", section_close="]", separator=", ")
_NEMOTRON_NANO = CallFormat("json", section_open="<TOOLCALL>[", section_close="]</TOOLCALL>", separator=", ")
_GEMMA4 = CallFormat(
    "pythonic",
    call_open="<|tool_call>call:",
    name_close="{",
    key_close=":",
    string_open='<|"|>',
    string_close='<|"|>',
    call_close="<tool_call|>",
)
_HARMONY = CallFormat(  # its call ends by a token that ends the reply
    "tagged_json",
    call_open=" to=functions.",
    name_end="<|channel|>",
    name_close="<|message|>",
    also_open=("<|channel|>commentary to=functions.",),
    parallel=False,
)


def _preset(name: str, calls: CallFormat | None, thought: ThoughtFormat | None = None) -> ChatFormat:
    return ChatFormat(thought, calls, source="preset", name=name)


_PRESETS = (
    _preset("none", None),
    _preset("hermes", HERMES),
    _preset("qwen3", HERMES, THINK),
    _preset("qwen3_coder", _QWEN3_CODER),
    _preset("llama3", _LLAMA3),
    _preset("llama4", _LLAMA4),
    _preset("lfm2", _LFM2),
    _preset("mistral", _MISTRAL, ThoughtFormat("[THINK]", "[/THINK]")),
    _preset("mistral_nemo", _MISTRAL_LIST),
    _preset("deepseek_r1", _DEEPSEEK_R1, THINK),
    _preset("deepseek_v3", _DEEPSEEK_V3, THINK),
    _preset("glm4", _GLM4, THINK),
    _preset("kimi_k2", _KIMI_K2, THINK),
    ChatFormat(THINK, _GRANITE, ("<response>",), ("</response>",), source="preset", name="granite3"),
    _preset("phi4_mini", _PHI4_MINI),
    ChatFormat(
        ThoughtFormat("<|START_THINKING|>", "<|END_THINKING|>"),
        _COMMAND_R7B,
        ("<|START_RESPONSE|>", "<|START_TEXT|>"),
        ("<|END_RESPONSE|>", "<|END_TEXT|>"),
        source="preset",
        name="command_r7b",
    ),
    _preset("minimax_m2", _MINIMAX_M2, THINK),
    _preset("functionary_v3.1", _FUNCTIONARY_31),
    _preset("firefunction", _FUNCTOOLS),
    _preset("nemotron_nano", _NEMOTRON_NANO, THINK),
    _preset("gemma4", _GEMMA4, ThoughtFormat("<|channel>thought\n", "<channel|>")),
    ChatFormat(
        ThoughtFormat("<|channel|>analysis<|message|>", "<|end|><|start|>assistant"),
        _HARMONY,
        ("<|channel|>final<|message|>", "<|channel|>commentary<|message|>"),
        ("<|end|><|start|>assistant", "<|return|>"),
        source="preset",
        name="harmony",
    ),
    _preset("apriel", None, ThoughtFormat("Here are my reasoning steps:\n", "[BEGIN FINAL RESPONSE]")),
)
PRESETS = {preset.name: preset for preset in _PRESETS}
"""All presets by name. Formats that none can tell, and that are left as content: functionary 3.2 (the prompt opens the
call), MiniMax M3 (keys in closing tags), Kimi K3, muse, and Solar Open (an id before the name)."""

FAMILIES = (  # what only one family's template says, and its preset; the first that fits
    (("<|channel|>", "<|start|>", "functions"), "harmony"),
    (("<|channel>thought",), "gemma4"),
    (("<|START_ACTION|>",), "command_r7b"),
    (("Here are my reasoning steps", "[BEGIN FINAL RESPONSE]"), "apriel"),
    (("<|tool_calls_section_begin|>",), "kimi_k2"),
    (("<minimax:tool_call>",), "minimax_m2"),
    (("<｜tool▁calls▁begin｜>", "```json"), "deepseek_r1"),
    (("<｜tool▁calls▁begin｜>",), "deepseek_v3"),
    (("functools[",), "firefunction"),
    (("<|tool_list_start|>",), "lfm2"),
    (("<|tool_call_start|>",), "lfm2"),
    (("<|/tool_call|>",), "phi4_mini"),
    (("<|tool|>", "<|/tool|>"), "phi4_mini"),
    (("<|start_of_role|>", "<|tool_call|>"), "granite3"),
    (("<|im_start|>", "List of tools: ["), "lfm2"),
    (("xml_tools",), "hermes"),
    (("<TOOLCALL>",), "nemotron_nano"),
    (("<arg_key>",), "glm4"),
    (("<tool_call>", "<function="), "qwen3_coder"),
    (("<|python_start|>",), "llama4"),
    (("[TOOL_CALLS]", "[ARGS]"), "mistral"),
    (("[TOOL_CALLS]",), "mistral_nemo"),
    (("<tool_call>",), "hermes"),
)
UNTAGGED_THOUGHTS = frozenset({"apriel", "gemma4"})
"""Presets whose thoughts begin with words, which no rendering tells from the reply's own."""

OVERRULING = frozenset({"harmony"})
"""Presets that hold against what is read from the template: it shows one of several ways to write a call."""

THOUGHTS = (  # marks that tell a thought's format where no rendering shows it
    ("<|START_THINKING|>", ThoughtFormat("<|START_THINKING|>", "<|END_THINKING|>")),
    ("[THINK]", ThoughtFormat("[THINK]", "[/THINK]")),
    ("<seed:think>", ThoughtFormat("<seed:think>", "</seed:think>")),
    ("<think>", THINK),
    ("</think>", THINK),
)
