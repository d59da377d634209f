"""A reply with markers in it becomes events for thoughts, content and calls, each token counted where its text is."""

from __future__ import annotations

import pytest

from localllm.contract.chat_format import ReplyRules
from localllm.contract.generation import CallDelta, ChoiceFinished, Chunk
from localllm.engine.read_answer import ReadAnswer
from tests.engine.answer_kit import Event, PieceTokenizer, answer_of, drawn, end, events_of, reported, told
from tests.engine.reply_kit import HARMONY, HERMES, KIMI, LLAMA, MISTRAL, THINK, TOOLS, rules

CALL = '<tool_call>\n{"name": "get", "arguments": {"city": "Bonn"}}\n</tool_call>'
OTHER_CALL = '<tool_call>\n{"name": "put-it", "arguments": {}}\n</tool_call>'
SINGLE = ReplyRules(THINK, calls=HERMES, tools=TOOLS, parallel=False)


def answered(
    reply: ReplyRules, *pieces: str, control: tuple[str, ...] = (), ends: bool = True, per_step: int = 1, **options
) -> tuple[ReadAnswer, list[Event]]:
    """Feed pieces as tokens; those that are in ``control`` are control tokens."""
    plain = [piece for piece in pieces if piece not in control]
    tokenizer = PieceTokenizer([piece.encode() for piece in plain], control)
    ids = {piece: len(plain) + index for index, piece in enumerate(control)}
    places = iter(range(len(plain)))
    tokens = [ids[piece] if piece in control else next(places) for piece in pieces]
    answer = answer_of(tokenizer, reply, **options)
    assert isinstance(answer, ReadAnswer)
    events = events_of(answer, drawn(tokens) + [end()] * ends, per_step)
    return answer, events


def test_a_thought_then_content_then_a_call() -> None:
    pieces = [
        "<think>",
        "\n",
        "h",
        "m",
        "\n</",
        "think>",
        "\n\n",
        "Let ",
        "me",
        "\n\n",
        "<tool_call>",
        "\n",
        '{"name": ',
    ]
    pieces += ['"get", "arguments": ', '{"city": ', '"Bonn"', "}", "}\n", "</tool_call>"]
    answer, events = answered(rules(HERMES), *pieces)
    assert events == [
        Chunk(0, "h", 3, region="reasoning"),
        Chunk(0, "m", 1, region="reasoning"),
        Chunk(0, "Let", 4),
        Chunk(0, " me", 1),
        CallDelta(0, 0, "get", '{"city": ', 6),
        CallDelta(0, 0, None, '"Bonn"', 1),
        CallDelta(0, 0, None, "}", 1),
    ]
    assert answer.finished == ChoiceFinished(0, "tool_calls")
    assert answer.n_tokens == len(pieces)
    assert answer.n_reasoning_tokens == 6


def test_tokens_of_one_step_are_joined_where_they_are_of_a_kind() -> None:
    answer, events = answered(rules(HERMES, in_thought=True), *f"hm</think>Now{CALL}{OTHER_CALL}", per_step=1000)
    assert told(events) == [("reasoning", "hm"), ("content", "Now"), ("0 get", '{"city": "Bonn"}'), ("1 put-it", "{}")]
    assert len(events) == 4
    assert sum(event.tokens for event in events) == answer.n_tokens - len("}\n</tool_call>")


@pytest.mark.parametrize(
    ("pieces", "ends", "max_tokens", "reason"),
    [
        (["Hi"], True, 10, "stop"),
        ([CALL], True, 10, "tool_calls"),
        (["Hi", CALL, " There."], True, 10, "tool_calls"),
        ([CALL], False, 1, "length"),
        (["Hi", CALL], False, 1, "length"),
        (["<think>", "hm"], True, 10, "stop"),
        (["<tool_call>", '{"name": "get"'], True, 10, "stop"),
    ],
)
def test_finish_reasons(pieces: list[str], ends: bool, max_tokens: int, reason: str) -> None:
    answer, _ = answered(rules(HERMES), *pieces, ends=ends, max_tokens=max_tokens)
    assert answer.finished == ChoiceFinished(0, reason)


def test_stop_strings_are_looked_for_in_content_only() -> None:
    pieces = ["<think>no END yet</think>", "One", CALL.replace("Bonn", "END"), "two E", "ND", "three"]
    answer, events = answered(rules(HERMES), *pieces, stops=["END"])
    assert told(events) == [
        ("reasoning", "no END yet"),
        ("content", "One"),
        ("0 get", '{"city": "END"}'),
        ("content", "two "),
    ]
    assert answer.finished == ChoiceFinished(0, "tool_calls", "END")
    assert answer.n_tokens == 5


def test_a_stop_string_without_a_call_ends_as_ever() -> None:
    answer, events = answered(rules(HERMES), "On", "eEN", f"D{CALL}", stops=["END"], include_stop=True)
    assert told(events) == [("content", "OneEND")]
    assert answer.finished == ChoiceFinished(0, "stop", "END")


@pytest.mark.parametrize("stop", ["END", "D<tool"])
def test_what_may_begin_a_stop_string_is_let_go_before_a_call(stop: str) -> None:
    answer, events = answered(rules(HERMES), "One EN", f"{CALL}D", stops=[stop])
    assert told(events) == [("content", "One EN"), ("0 get", '{"city": "Bonn"}'), ("content", "D")]
    assert answer.finished == ChoiceFinished(0, "tool_calls")


def test_what_may_begin_a_stop_string_is_let_go_before_a_thought() -> None:
    text = "<|channel|>commentary<|message|>One EN<|end|><|start|>assistant<|channel|>analysis<|message|>D"
    _, events = answered(HARMONY, *text, stops=["END"])
    assert told(events) == [("content", "One EN"), ("reasoning", "D")]


@pytest.mark.parametrize("per_step", [1, 7, 1000])
@pytest.mark.parametrize("tail", ["", "\n", " And more."])
def test_a_second_call_ends_a_reply_that_may_have_one(per_step: int, tail: str) -> None:
    answer, events = answered(SINGLE, *f"{CALL}\n{OTHER_CALL}{tail}", per_step=per_step)
    assert told(events) == [("0 get", '{"city": "Bonn"}')]
    assert answer.finished == ChoiceFinished(0, "tool_calls")
    assert answer.n_tokens < len(CALL + OTHER_CALL)


def test_text_between_two_calls_comes_out_where_the_second_is_unwanted() -> None:
    answer, events = answered(SINGLE, *f"{CALL}And ST{OTHER_CALL}", stops=["STOP"])
    assert told(events) == [("0 get", '{"city": "Bonn"}'), ("content", "And ST")]
    assert answer.finished == ChoiceFinished(0, "tool_calls")


def test_a_call_that_only_the_end_makes_sure_counts() -> None:
    reply = ReplyRules(calls=MISTRAL, tools=TOOLS)
    answer, events = answered(reply, "[TOOL_CALLS]", "get", "[ARGS]", "{}")
    assert told(events) == [("0 get", "{}")]
    assert answer.finished == ChoiceFinished(0, "tool_calls")


def test_control_tokens_are_read_where_they_are_part_of_a_marker() -> None:
    marks = (
        "<|calls|>",
        "<|call|>",
        "<|args|>",
        "<|end_call|>",
        "<|end_calls|>",
        "<|im_start|>",
        "<think>",
        "</think>",
    )
    pieces = ["<think>", "a", "<|im_start|>", "b", "</think>", "c", "<|im_start|>", "d", "<|calls|>", "<|call|>", "get"]
    pieces += [":0", "<|args|>", "{}", "<|end_call|>", "<|end_calls|>"]
    answer, events = answered(rules(KIMI), *pieces, control=marks)
    assert told(events) == [("reasoning", "ab"), ("content", "cd"), ("0 get", "{}")]
    assert answer.finished == ChoiceFinished(0, "tool_calls")
    assert answer.n_reasoning_tokens == 5


def test_control_tokens_of_calls_stay_out_of_sight_where_no_tool_is_on_offer() -> None:
    _, events = answered(rules(), "a", "<|calls|>", "b", control=("<|calls|>",))
    assert told(events) == [("content", "ab")]


def test_names_of_keys_are_no_markers() -> None:
    _, events = answered(rules(LLAMA), "a", "name", control=("name",))
    assert told(events) == [("content", "a")]


def test_half_a_code_point_at_the_end_is_replaced_in_its_region() -> None:
    tokenizer = PieceTokenizer([b"h", b"\xc3"])
    answer = answer_of(tokenizer, rules(in_thought=True), max_tokens=2)
    assert told(events_of(answer, drawn([0, 1]))) == [("reasoning", "h�")]


def test_log_probabilities_are_those_of_content() -> None:
    pieces = [
        "<think>",
        "hm",
        "</thi",
        "nk>",
        "\n\n",
        "It",
        " <",
        "b",
        " ",
        f"{CALL[:10]}",
        CALL[10:],
        "It",
        " is",
        "\n",
    ]
    _, events = answered(rules(HERMES), *pieces, logprobs=True)
    assert [pieces[index] for index in reported(events)] == ["It", " <", "b", "It", " is", "\n"]
    assert all(event.region == "content" for event in events if event.logprobs)


def test_a_token_that_is_content_in_part_is_reported_once() -> None:
    pieces = ["<think>hm</think>A", "B<tool", "box", "><", f"{CALL}C", "D"]
    _, events = answered(rules(HERMES), *pieces, logprobs=True)
    assert reported(events) == [0, 1, 2, 3, 4, 5]
    _, events = answered(rules(HERMES), "A", f"B{CALL[:5]}", CALL[5:], "CEN", "D", "E", logprobs=True, stops=["END"])
    assert reported(events) == [0, 1, 3]


def test_a_token_without_text_is_reported_with_the_character_behind_it() -> None:
    _, events = answered(rules(), "", "<think>", "", "hm", "</think>", "", "a", "", "b", "", logprobs=True)
    assert reported(events) == [5, 6, 7, 8]
