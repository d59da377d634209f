"""A prompt that goes on with the last message ends exactly where its content does."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm import ChatPrompt, InvalidRequestError, RenderedPrompt
from localllm.testing.tiny_model import CHATML_TEMPLATE
from localllm_llama_cpp import chat_renderer as module
from tests.plugins.llama_cpp.chat_kit import HISTORY, TOOLS, Message, assistant, call, family, renderer_of, user
from tests.plugins.llama_cpp.families import FAMILIES

LLAMA = (  # as Llama 3's: contents are trimmed
    "{{ bos_token }}{% for message in messages %}"
    "<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n{{ message.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
LLAMA_HEAD = (
    "<s><|start_header_id|>user<|end_header_id|>\n\nCount.<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
)
ALWAYS = "{% for message in messages %}<{{ message.role }}>{{ message.content }}</s>{% endfor %}<assistant>"


def go_on(source_or_name: str, *messages: Message, **kwargs: Any) -> RenderedPrompt:
    renderer = renderer_of(source_or_name) if "{%" in source_or_name else family(source_or_name)
    return renderer.render(ChatPrompt(messages, kwargs, continue_final_message=True))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (CHATML_TEMPLATE, "<|im_start|>user\nCount.<|im_end|>\n<|im_start|>assistant\nOne, two, "),
        (
            LLAMA,
            LLAMA_HEAD + "One, two, ",
        ),
        (ALWAYS, "<user>Count.</s><assistant>One, two, "),
        ("mistral_nemo", "<s>[INST]Count.[/INST]One, two, "),
        ("qwen3", "<|im_start|>user\nCount.<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\nOne, two, "),
        ("qwq", "<|im_start|>user\nCount.<|im_end|>\n<|im_start|>assistant\nOne, two, "),
        ("gemma_2", "<s><start_of_turn>user\nCount.<end_of_turn>\n<start_of_turn>model\nOne, two, "),
    ],
)
def test_the_prompt_ends_where_the_content_ends(source: str, expected: str) -> None:
    assert go_on(source, user("Count."), assistant("One, two, ")).text == expected


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - {"broken"}))
def test_every_family_can_go_on(name: str) -> None:
    prompt = ChatPrompt((*HISTORY, assistant("So it is ")), tools=TOOLS, continue_final_message=True)
    rendered = family(name).render(prompt)
    assert rendered.text.endswith("So it is ")
    assert not rendered.reply.in_thought
    assert [word for word in ("Bonncity", "Rainword", "lastword", "set-alarm") if word not in rendered.text] == []


@pytest.mark.parametrize("content", ["e", "im_end", "assistant", "<|im_end|>", "\n", "One, two, ", "Count."])
def test_a_content_that_stands_elsewhere_too_is_not_mistaken(content: str) -> None:
    text = go_on(CHATML_TEMPLATE, user("Count."), assistant(content)).text
    assert text == f"<|im_start|>user\nCount.<|im_end|>\n<|im_start|>assistant\n{content}"


@given(st.text(min_size=1, max_size=12), st.sampled_from([CHATML_TEMPLATE, ALWAYS, "hermes", "lfm2"]))
def test_any_content_is_continued_as_it_is(content: str, source: str) -> None:
    assert go_on(source, user("Count."), assistant(content)).text.endswith(content)


def test_neighbours_that_are_joined_are_continued_too() -> None:
    text = go_on("mistral_nemo", user("a"), user("b"), assistant("One")).text
    assert text.endswith("[/INST]One")


@pytest.mark.parametrize(
    ("content", "opening"), [("<think>\nHm", "open"), ("<think>Hm</think>So", "closed"), ("So", "closed")]
)
def test_a_thought_that_is_begun_goes_on(content: str, opening: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(module, "reply_constraint", lambda *_, **kwargs: asked.append(kwargs["opening"]) or (None, ()))
    rendered = go_on("lfm2_5", user("Count."), assistant(content))
    assert rendered.text.endswith(content)
    assert rendered.reply.in_thought == (opening == "open")
    assert asked == [opening]


@pytest.mark.parametrize(
    "messages",
    [
        (),
        (user("Count."),),
        (user("Count."), assistant("")),
        (user("Count."), assistant(None)),
        (user("Count."), assistant("I look.", call("get_weather", "Bonn"))),
    ],
)
def test_what_can_not_be_continued_is_refused(messages: tuple[Message, ...]) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        go_on(CHATML_TEMPLATE, *messages)
    assert caught.value.param == "continue_final_message"


def test_a_template_that_leaves_the_last_message_out_says_so() -> None:
    source = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    with pytest.raises(InvalidRequestError, match="leaves the last message out") as caught:
        go_on(source, user("Count."), assistant("One"))
    assert caught.value.param == "continue_final_message"
