"""Conversations that outgrow the context: what goes, what stays, what is told, and how seldom the beginning changes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm import CallDelta, ModelSpec, StoredMessage, Turn
from localllm.testing import MemoryStore
from localllm_sessions.summary import HEADING
from localllm_sessions.window import MAX_MESSAGES, Round, count_dropped, count_unreachable, prompt_limit, rounds_of
from tests.plugins.sessions.talk_kit import Talk, assistant, run, system, talking, user

CONTEXT = 400  # a token is a byte
LIMIT = 300  # what a prompt may have of it when nobody limits the answer


async def talk_long(talk: Talk, n_turns: int, **fields: Any) -> list[dict[str, Any]]:
    told = []
    for number in range(n_turns):
        talk.model.answers.append(f"answer {number:02}")
        told.append((await talk.say(f"question {number:02}", **fields))["session"])
    return told


def test_the_oldest_turns_go_and_the_instructions_stay(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with talking(tmp_path, context_length=CONTEXT) as talk:
            await talk.say(system("Be brief."), user("Hello"))
            told = await talk_long(talk, 20)
            assert max(talk.model.counted) <= LIMIT
            assert talk.model.said[0] == "Be brief."
            assert talk.model.said[-1] == "question 19"
            everything = await talk.texts()
            assert len(everything) == 43
            assert told[0]["omitted_messages"] == told[0]["omitted_turns"] == 0
            for number, one in enumerate(told):
                prompt = [message["content"] for message in talk.model.prompts[number + 1]]
                assert one["messages"] == 3 + 2 * number
                assert prompt == ["Be brief.", *everything[1 + one["omitted_messages"] : 4 + 2 * number]]
                assert one["omitted_messages"] == 2 * one["omitted_turns"]
                assert one["summary"] is False
            assert told[-1]["omitted_turns"] > 10

    run(scenario())


def test_the_window_moves_seldom_and_far(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with talking(tmp_path, context_length=4 * CONTEXT) as talk:
            told = await talk_long(talk, 60)
            omitted = [one["omitted_messages"] for one in told]
            moves = [after - before for before, after in pairwise(omitted) if after != before]
            assert omitted == sorted(omitted)
            assert len(moves) <= 8
            assert all(move >= 8 for move in moves)

    run(scenario())


def test_tokens_are_counted_only_when_it_could_be_close(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with talking(tmp_path, context_length=100_000) as talk:
            await talk_long(talk, 10)
            n_by_the_model_itself = 10
            assert len(talk.model.text_requests) == n_by_the_model_itself

    run(scenario())


@pytest.mark.parametrize("max_tokens", [1, 50, 200, 100_000])
def test_there_is_room_for_the_answer(tmp_path: Path, max_tokens: int) -> None:
    async def scenario() -> None:
        async with talking(tmp_path, context_length=CONTEXT) as talk:
            await talk_long(talk, 15, max_tokens=max_tokens)
            assert max(talk.model.counted) <= CONTEXT - min(max_tokens, CONTEXT // 2)

    run(scenario())


def test_new_instructions_count_too(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with talking(tmp_path, context_length=CONTEXT) as talk:
            await talk.say(system("s" * 150), user("Hello"))
            await talk_long(talk, 3)
            await talk.say(system("t"), user("shorter"))
            assert talk.model.counted[-1] <= LIMIT
            await talk.say(system("u" * 180), user("longer"))
            assert talk.model.counted[-1] <= LIMIT

    run(scenario())


def test_what_alone_is_too_long_is_the_models_to_refuse(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with talking(tmp_path, context_length=CONTEXT) as talk:
            await talk_long(talk, 3)
            response = await talk.ask("x" * CONTEXT)
            assert (response.status_code, response.json()["error"]["code"]) == (400, "context_length_exceeded")
            await talk.say("y" * (LIMIT - 50))
            assert len(talk.model.said) == 1
            assert len(await talk.kept()) == 8

    run(scenario())


def test_results_stay_with_their_calls(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with talking(tmp_path, context_length=CONTEXT) as talk:
            for number in range(10):
                talk.model.answers += [[CallDelta(0, 0, "f", '{"a": 1}', 1)], f"done {number}"]
                await talk.say(f"do {number}")
                await talk.say({"role": "tool", "content": f"result {number}"})
            for prompt in talk.model.prompts:
                assert prompt[0]["role"] == "user"
                for before, one in pairwise(prompt):
                    if one["role"] == "tool":
                        assert before["tool_calls"][0]["id"] == one["tool_call_id"]
            assert len(talk.model.prompts[-1]) < 20

    run(scenario())


def test_the_calls_of_new_results_are_never_left_out(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with talking(tmp_path, context_length=CONTEXT) as talk:
            await talk_long(talk, 3)
            talk.model.answers.append([CallDelta(0, 0, "f", '{"a": 1}', 1)])
            await talk.say("do it")
            await talk.say({"role": "tool", "content": "r" * 250})
            assert [one["role"] for one in talk.model.prompts[-1]] == ["user", "assistant", "tool"]

    run(scenario())


def test_another_model_sees_what_fits_its_own_context(tmp_path: Path) -> None:
    async def scenario() -> None:
        specs = [ModelSpec("a", "scripted"), ModelSpec("b", "scripted")]
        async with talking(tmp_path, context_length=CONTEXT, specs=specs) as talk:
            await talk_long(talk, 20, model="a")
            talk.model.info = type(talk.model.info)(context_length=100_000, n_vocab=256)
            told = (await talk.say("and b?", model="b"))["session"]
            assert (told["omitted_messages"], len(talk.model.said)) == (0, 41)
            assert (await talk.say("and b again?", model="b"))["session"]["omitted_messages"] == 0
            talk.model.info = type(talk.model.info)(context_length=CONTEXT, n_vocab=256)
            assert (await talk.say("and a?", model="a"))["session"]["omitted_messages"] > 30

    run(scenario())


def test_a_session_far_longer_than_any_context_is_not_read_whole(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with talking(tmp_path, context_length=CONTEXT) as talk:
            long = [user("x" * 1000), assistant("y" * 1000)] * 100
            made = await talk.request("POST", "/v1/sessions", json={"messages": [system("S"), *long]})
            talk.session_id = made.json()["id"]
            told = (await talk.say("short"))["session"]
            assert talk.model.said == ["S", "short"]
            assert (told["omitted_messages"], told["omitted_turns"]) == (200, 100)
            resent = [system("S"), *long, user("short"), assistant(), user("again")]
            assert (await talk.say(*resent))["session"]["new_messages"] == 1
            assert talk.model.said == ["S", "short", "Hello there", "again"]
            changed = [user("changed"), *resent[2:], assistant(), user("third")]
            assert (await talk.ask(*changed)).status_code == 409
            other = [user("x" * 1000), assistant("z" * 1000)] * 110
            assert (await talk.ask(*other, user("fourth"))).status_code == 409  # it begins as the session does

    run(scenario())


def test_of_many_short_messages_no_more_are_read_than_a_prompt_may_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many of them the bytes of a long context would be enough for."""
    n_read: list[int] = []
    recent = MemoryStore.recent

    async def counting(store: MemoryStore, *place: str, **limits: Any) -> Sequence[StoredMessage]:
        found = await recent(store, *place, **limits)
        n_read.append(len(found))
        return found

    monkeypatch.setattr(MemoryStore, "recent", counting)

    async def scenario() -> None:
        async with talking(tmp_path, context_length=131_072) as talk:
            turns = [Turn((user("hi"), assistant("hi")))] * (2 * MAX_MESSAGES)
            talk.session_id = (await talk.store.create("", turns=turns)).id
            starts = [(await talk.say("short"))["session"]["omitted_messages"] for _ in range(3)]
            assert max(n_read) <= 2 * MAX_MESSAGES
            assert len(set(starts)) == 1, "the window stays for the turns that follow"
            assert len(talk.model.said) <= MAX_MESSAGES

    run(scenario())


@pytest.mark.parametrize("overflow", ["window", "summary", "error"])
@pytest.mark.parametrize("last", [user("short"), {"role": "tool", "tool_call_id": "a", "content": "short"}])
def test_a_turn_beyond_all_measure_is_not_even_rendered(tmp_path: Path, overflow: str, last: dict[str, Any]) -> None:
    """Whatever the template would make of so many messages: requests may not bring them either."""

    async def scenario() -> None:
        async with talking(tmp_path, context_length=CONTEXT, overflow=overflow) as talk:
            head = {"object": "session.export", "format": 1}
            lines = [{"turn": 0, "message": user("x")}] * MAX_MESSAGES + [{"turn": 0, "message": assistant("y")}]
            content = "\n".join(map(json.dumps, (head, *lines)))
            headers = {"content-type": "application/jsonl"}
            made = await talk.request("POST", "/v1/sessions/import", content=content, headers=headers)
            talk.session_id = made.json()["id"]
            response = await talk.ask(last)
            if overflow == "error" or last["role"] == "tool":
                assert response.json()["error"]["code"] == "context_length_exceeded"
            else:
                assert response.json()["session"]["omitted_messages"] == MAX_MESSAGES + 1
                assert talk.model.said[-1] == "short"
            assert max(talk.model.measured, default=0) <= 4 * CONTEXT * 16
            assert (await talk.say("and on", session_id="new"))["session"]["messages"] == 0

    run(scenario())


def test_a_message_that_is_too_long_to_be_summed_up_is_cut(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with talking(tmp_path, context_length=4 * CONTEXT, overflow="summary") as talk:
            made = await talk.request("POST", "/v1/sessions", json={"messages": [user("begins " + "x" * 9000)]})
            talk.session_id = made.json()["id"]
            assert (await talk.say("short"))["session"]["summary"] is True
            assert "user: begins" in talk.model.prompts[0][0]["content"]

    run(scenario())


# --- by setting: a summary, or an error ------------------------------------------------------------------------------


def is_task(prompt: list[Any]) -> bool:
    return str(prompt[0]["content"]).startswith("Sum up")


def test_the_model_sums_up_what_goes(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with talking(tmp_path, context_length=4 * CONTEXT, overflow="summary") as talk:
            await talk.say(system("Be brief."), user("My name is Zorbani."))
            summary, n_tasks = "", 0
            for number in range(60):
                seen = len(talk.model.prompts)
                talk.model.answers += [f"answer {number:02}", f"answer {number:02}"]
                told = (await talk.say(f"question {number:02}"))["session"]
                talk.model.answers.clear()
                asked = talk.model.prompts[seen:]
                if len(asked) == 2:  # a summary first
                    n_tasks += 1
                    assert is_task(asked[0])
                    assert ("user: My name is Zorbani." in asked[0][0]["content"]) is (n_tasks == 1)
                    assert (f"{HEADING}\n{summary}" in asked[0][0]["content"]) is (n_tasks > 1)
                    summary = f"answer {number:02}"
                expected = f"Be brief.\n\n{HEADING}\n{summary}" if summary else "Be brief."
                assert asked[-1][0] == {"role": "system", "content": expected}
                assert (told["summary"], told["omitted_messages"] > 0) == (bool(summary), bool(summary))
            assert 1 < n_tasks <= 8
            assert not any(HEADING in text for text in await talk.texts())
            (session,) = await talk.sessions()
            assert session["usage"]["prompt_tokens"] == sum(talk.model.counted)

    run(scenario())


def test_a_summary_stands_alone_where_there_are_no_instructions(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with talking(tmp_path, context_length=4 * CONTEXT, overflow="summary") as talk:
            while len(talk.model.prompts) < 100 and not any(map(is_task, talk.model.prompts)):
                await talk.say("tell me")
            assert talk.model.prompts[-1][0]["content"] == f"{HEADING}\nHello there"
            thinks = [request.prompt.template_kwargs for request in talk.model.requests]  # type: ignore[union-attr]
            assert {"enable_thinking": False} in thinks

    run(scenario())


def test_what_is_summed_up_fits_the_context_itself(tmp_path: Path) -> None:
    """Also after a model with a larger one, whose conversation was longer: the oldest of it is left aside."""

    async def scenario() -> None:
        async with talking(tmp_path, context_length=4 * CONTEXT, overflow="summary") as talk:
            said = [one for number in range(40) for one in (user(f"{number:02} " + "x" * 80), assistant("y" * 80))]
            made = await talk.request("POST", "/v1/sessions", json={"messages": said})
            talk.session_id = made.json()["id"]
            await talk.say("short")
            task, _ = talk.model.requests
            assert not task.cache_prompt
            assert is_task(talk.model.prompts[0])
            assert "user: 00" not in talk.model.prompts[0][0]["content"]
            assert talk.model.counted[0] > CONTEXT
            assert talk.model.counted[0] + task.sampling.max_tokens <= 4 * CONTEXT  # type: ignore[operator]

    run(scenario())


def test_a_message_that_fits_by_itself_is_not_refused_for_a_summary(tmp_path: Path) -> None:
    """The summary is left out of that prompt, and is there again in the next one."""

    async def scenario() -> None:
        async with talking(tmp_path, context_length=1024, overflow="summary") as talk:
            for number in range(6):
                await talk.say(f"question {number} " + "x" * 60, max_tokens=5)
            talk.model.answers.append("All was said, again. " * 6)
            told = await talk.say("z" * 960, max_tokens=5)
            assert (told["session"]["summary"], talk.model.said) == (False, ["z" * 960])
            told = await talk.say("Go on", max_tokens=5)
            assert told["session"]["summary"] is True
            assert any("All was said, again." in text for text in talk.model.prompts[-2][0].values())
            assert talk.model.said[0].startswith(HEADING)

    run(scenario())


def test_nothing_is_summed_up_for_a_message_that_is_too_long_by_itself(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with talking(tmp_path, context_length=1024, overflow="summary") as talk:
            for number in range(6):
                await talk.say(f"question {number} " + "x" * 60)
            n_requests = len(talk.model.requests)
            response = await talk.ask("z" * 1100)
            assert (response.status_code, response.json()["error"]["code"]) == (400, "context_length_exceeded")
            assert len(talk.model.requests) == n_requests
            assert len(talk.model.counted) == n_requests, "not even begun"

    run(scenario())


def test_a_summary_that_nobody_waited_for_is_not_kept(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with talking(tmp_path, context_length=4 * CONTEXT, overflow="summary") as talk:
            await talk.say("x" * 500)
            await talk.say("y" * 500)
            talk.model.gate = asyncio.Event()
            asked = asyncio.create_task(talk.ask("z" * 500))
            await talk.model.reached.wait()
            asked.cancel()
            await asyncio.wait([asked])
            talk.model.gate = None
            told = (await talk.say("short"))["session"]
            assert (told["summary"], told["messages"]) == (False, 4)

    run(scenario())


def test_by_setting_it_is_an_error(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with talking(tmp_path, context_length=CONTEXT, overflow="error") as talk:
            status = 200
            while status == 200:
                response = await talk.ask("question")
                status = response.status_code
            assert (status, response.json()["error"]["code"]) == (400, "context_length_exceeded")
            assert len(talk.model.said) > 10
            huge = [user("x" * 40_000), assistant("y" * 40_000)] * 2
            made = await talk.request("POST", "/v1/sessions", json={"messages": huge})
            talk.session_id = made.json()["id"]
            assert (await talk.ask("short")).json()["error"]["code"] == "context_length_exceeded"

    run(scenario())


# --- the arithmetic --------------------------------------------------------------------------------------------------


@given(sizes=st.lists(st.integers(1, 100), max_size=40), fixed=st.integers(0, 200), limit=st.integers(1, 1000))
def test_as_few_rounds_go_as_leave_three_quarters(sizes: list[int], fixed: int, limit: int) -> None:
    async def count(n_dropped: int) -> int:
        return fixed + sum(sizes[n_dropped:])

    n_dropped = run(count_dropped(len(sizes), limit, count))
    sums = [fixed + sum(sizes[index:]) for index in range(len(sizes) + 1)]
    if sums[0] <= limit:
        assert n_dropped == 0
    else:
        fitting = [index for index in range(1, len(sizes) + 1) if sums[index] <= int(limit * 0.75)]
        assert n_dropped == min(fitting, default=len(sizes))


@given(sizes=st.lists(st.integers(1, 60), max_size=30), limit=st.integers(64, 4000))
def test_what_is_out_of_reach_goes_with_a_margin_and_the_rest_stays(sizes: list[int], limit: int) -> None:
    message = user("x" * 36)  # 64 bytes of JSON
    rounds = [Round((StoredMessage(0, index, 0.0, message),) * n) for index, n in enumerate(sizes)]
    n_gone = count_unreachable(rounds, limit, max_messages=100)

    def within(share: float, first: int) -> bool:
        n = sum(sizes[first:])
        return n <= 100 * share and n * 64 <= limit * share

    if within(1, 0):
        assert n_gone == 0
    else:
        assert within(0.75, n_gone)
        assert n_gone == 0 or not within(0.75, n_gone - 1)


@given(context=st.integers(2, 10_000), max_tokens=st.none() | st.integers(0, 20_000))
def test_a_prompt_always_has_half_of_the_context_and_an_answer_a_token(context: int, max_tokens: int | None) -> None:
    limit = prompt_limit(context, max_tokens)
    assert context // 2 <= limit < context
    if max_tokens is not None and 0 < max_tokens <= context // 2:
        assert context - limit == max_tokens


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["user", "assistant", "tool", "system"])), max_size=30))
def test_rounds_hold_whole_turns_in_order(steps: list[tuple[int, str]]) -> None:
    turn, stored = 0, []
    for index, (step, role) in enumerate(steps):
        turn += step
        stored.append(StoredMessage(index, turn, 0.0, {"role": role, "content": ""}))
    rounds = rounds_of(stored)
    flat = [one for part in rounds for one in part.messages]
    assert flat == stored[len(stored) - len(flat) :]
    assert all(part.messages[0].message["role"] != "tool" for part in rounds)
    turns = [{one.turn for one in part.messages} for part in rounds]
    assert all(not (first & second) for first, second in pairwise(turns))
