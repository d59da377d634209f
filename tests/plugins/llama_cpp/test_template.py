from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm import ChatPrompt, InvalidRequestError, ModelUnsupportedError
from localllm.testing.tiny_model import CHATML_TEMPLATE
from localllm_llama_cpp import sandbox
from localllm_llama_cpp.chat_renderer import BrokenRenderer, ChatRenderer
from localllm_llama_cpp.template import ChatTemplate, Form, Rendered

ALTERNATING = (  # as Mistral's: roles alternate, beginning with the user, and there is no system role
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}[INST] {{ message['content'] }} [/INST]"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] }}{{ eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
SYSTEM_FIRST = (  # as Llama 2's: a system message only at the start
    "{% for message in messages %}"
    "{% if message.role == 'system' and not loop.first %}{{ raise_exception('System must come first') }}{% endif %}"
    "<{{ message.role }}>{{ message.content }}{% endfor %}"
)
DROPS_SYSTEM = (
    "{% for message in messages if message.role != 'system' %}<{{ message.role }}>{{ message.content }}{% endfor %}"
)
TOOL = {"type": "function", "function": {"name": "get", "description": "", "parameters": {"type": "object"}}}

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"


def message(role: str, content: str) -> dict[str, object]:
    return {"role": role, "content": content}


def render(source: str, *messages: dict[str, object], **kwargs: object) -> str:
    renderer = ChatRenderer(ChatTemplate(source, bos_token="<s>", eos_token="</s>"))
    return renderer.render(ChatPrompt(messages, kwargs)).text


def test_chatml():
    text = render(CHATML_TEMPLATE, message(SYSTEM, "Be brief."), message(USER, "Hi"))
    assert text == ("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def test_a_conversation_that_the_template_takes_is_rendered_as_it_is():
    text = render(CHATML_TEMPLATE, message(USER, "a"), message(USER, "b"), message(SYSTEM, "late"))
    assert text.index("a<|im_end|>") < text.index("b<|im_end|>") < text.index("late<|im_end|>")


def test_template_kwargs_reach_the_template():
    source = "{{ enable_thinking }} {{ add_generation_prompt }} {{ reasoning_effort }}"
    assert render(source, message(USER, "x"), enable_thinking=False, reasoning_effort="low") == "False True low"
    assert render(source, message(USER, "x"), enable_thinking=1, add_generation_prompt=False) == "1 False "


def test_template_kwargs_cannot_replace_the_messages():
    assert render("{{ messages[0].content }}", message(USER, "x"), messages=[], bos_token="evil") == "x"


def test_neighbours_of_one_role_are_joined_for_templates_that_insist():
    text = render(ALTERNATING, message(USER, "a"), message(USER, "b"), message(ASSISTANT, "c"), message(USER, "d"))
    assert text == "<s>[INST] a\n\nb [/INST]c</s>[INST] d [/INST]"


def test_a_system_message_is_folded_into_the_first_user_message():
    assert render(ALTERNATING, message(SYSTEM, "s"), message(USER, "a")) == "<s>[INST] s\n\na [/INST]"


def test_late_system_messages_move_to_the_start():
    text = render(SYSTEM_FIRST, message(USER, "a"), message(SYSTEM, "s"), message(SYSTEM, "t"), message(USER, "b"))
    assert text == "<system>s\n\nt<user>a\n\nb"


def test_a_system_message_alone_becomes_a_user_message():
    assert render(ALTERNATING, message(SYSTEM, "s")) == "<s>[INST] s [/INST]"


def test_a_system_message_that_the_template_drops_in_silence_is_folded():
    assert render(DROPS_SYSTEM, message(SYSTEM, "Be brief."), message(USER, "a")) == "<user>Be brief.\n\na"


def test_a_switch_that_the_template_reads_in_the_system_message_stays_there():
    source = (  # as SmolLM3's
        "{% set system = messages[0].content %}[{{ 'off' if '/no_think' in system else 'on' }}] "
        "{{ system | replace('/no_think', '') }}{% for m in messages[1:] %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    )
    text = render(source, message(SYSTEM, "Be as brief as you can be. /no_think"), message(USER, "a"))
    assert text == "[off] Be as brief as you can be. <user>a"


def test_a_refusal_comes_in_the_templates_own_words():
    with pytest.raises(InvalidRequestError, match="roles must alternate") as caught:
        render(ALTERNATING, message(ASSISTANT, "a"))
    assert caught.value.param == "messages"


@pytest.mark.parametrize("source", ["{{ messages[0].content.nothing.more }}", "{{ 1 // 0 }}", "{{ messages[0] + 1 }}"])
def test_a_mistake_in_the_template_is_an_answer_and_not_a_crash(source):
    with pytest.raises(InvalidRequestError, match="chat template refuses"):
        render(source, message(USER, "a"))


def test_a_template_that_asks_for_too_much_is_not_tried_again():
    tried: list[int] = []

    def forms():
        for number in range(3):
            tried.append(number)
            yield Form([message(USER, str(number))])

    source = f"{{% for i in range({sandbox.MAX_RANGE + 1}) %}}x{{% endfor %}}"
    with pytest.raises(InvalidRequestError, match="at most 100000"):
        ChatTemplate(source).render(forms(), {}, says_all=lambda _: True)
    assert tried == [0]


def test_the_first_form_that_says_all_is_taken_and_else_the_first():
    template = ChatTemplate("{{ messages[0].content }}")
    forms = [Form([message(USER, text)]) for text in ("one", "two", "three")]
    assert template.render(forms, {}, says_all=lambda text: "t" in text) == Rendered("two", forms[1])
    assert template.render(forms, {}, says_all=lambda _: False).text == "one"


def test_a_form_is_rendered_once_however_often_it_is_offered():
    n_looks = 0

    def says_all(_text: str) -> bool:
        nonlocal n_looks
        n_looks += 1
        return False

    ChatTemplate("x").render([Form([message(USER, "a")])] * 3, {}, says_all=says_all)
    assert n_looks == 1


def test_what_begins_the_reply_is_told_from_the_rest():
    template = ChatTemplate(CHATML_TEMPLATE)
    rendered = template.render([Form([message(USER, "a")])], {}, says_all=lambda _: True)
    assert template.generation_prompt(rendered, {}) == "<|im_start|>assistant\n"
    without = ChatTemplate(ALTERNATING, bos_token="<s>")
    rendered = without.render([Form([message(USER, "a")])], {}, says_all=lambda _: True)
    assert without.generation_prompt(rendered, {}) == ""


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ tools[0].function.name }}", "get"),
        ("{{ 'none' if tools is not defined }}", ""),
        ("{% for tool in xml_tools %}{{ tool.name }}{% endfor %}", "get"),
        ("{% for function in functions %}{{ function.name }}{% endfor %}", "get"),
        ("{{ 'Functions:' + functions }}", 'Functions:[\n    {\n        "name": "get",'),
    ],
)
def test_tools_are_found_under_every_familys_name(source, expected):
    assert ChatTemplate(source).render_once([message(USER, "a")], [TOOL], {}).startswith(expected)


def test_a_template_that_can_not_do_without_functions_and_date_gets_them():
    text = ChatTemplate("{{ '[' + functions + ']' + datetime }}").render_once([message(USER, "a")], [], {})
    assert text.startswith("[]")
    assert len(text) > len("[]1 May 2025")


def test_developer_becomes_system_where_the_template_does_not_know_it():
    assert "<|im_start|>system\nBe brief." in render(CHATML_TEMPLATE, message("developer", "Be brief."))


def test_developer_stays_where_the_template_knows_it():
    source = "{% for m in messages %}{% if m.role == 'developer' %}D{{ m.content }}{% endif %}{% endfor %}"
    assert render(source, message("developer", "x")) == "Dx"


@pytest.mark.parametrize("given_name", ["reasoning_content", "reasoning", "thinking"])
@pytest.mark.parametrize("wanted_name", ["reasoning_content", "reasoning", "thinking"])
def test_past_reasoning_is_found_under_every_familys_name(given_name, wanted_name):
    past = {**message(ASSISTANT, "4"), given_name: "2 + 2"}
    assert render("{{ messages[0]['" + wanted_name + "'] }}", past) == "2 + 2"


@pytest.mark.parametrize("nothing", [None, ""])
def test_no_reasoning_is_as_if_it_were_not_there(nothing):
    past = {**message(ASSISTANT, "4"), "reasoning_content": nothing}
    assert render("{{ messages[0].reasoning_content is defined }}", past) == "False"


@pytest.mark.parametrize("source", [CHATML_TEMPLATE, "{{ bos_token }}" + CHATML_TEMPLATE])
def test_the_beginning_token_stands_there_exactly_once_when_the_tokenizer_wants_one(source):
    template = ChatTemplate(source, bos_token="<s>", add_bos=True)
    text = ChatRenderer(template).render(ChatPrompt((message(USER, "a"),))).text
    assert text.startswith("<s><|im_start|>")
    assert text.count("<s>") == 1


def test_no_beginning_token_is_added_when_the_tokenizer_wants_none():
    assert render(CHATML_TEMPLATE, message(USER, "a")).startswith("<|im_start|>")


def test_a_broken_template_says_what_is_wrong():
    with pytest.raises(ModelUnsupportedError, match=r"unexpected 'x'.*/v1/completions"):
        BrokenRenderer("unexpected 'x'").render(ChatPrompt(()))


texts = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=5)
roles = st.sampled_from([SYSTEM, USER, ASSISTANT])


@given(st.lists(st.builds(message, roles, texts), min_size=1, max_size=8))
def test_no_rewriting_loses_or_reorders_what_was_said(messages):
    if next((m["role"] for m in messages if m["role"] != SYSTEM), USER) == ASSISTANT:
        messages = [message(USER, "begin"), *messages]
    text = render(ALTERNATING, *messages)
    for wanted in (True, False):
        position = 0
        for content in (str(m["content"]) for m in messages if (m["role"] == SYSTEM) == wanted):
            position = text.index(content, position) + len(content)
