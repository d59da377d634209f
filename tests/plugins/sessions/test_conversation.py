"""Chat that remembers: only what is new is sent, whole conversations are recognised, and nothing half done is kept."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from localllm import (
    CallDelta,
    Chunk,
    ModelSpec,
    RequestRules,
    SessionQuotaExceededError,
    SessionStorageFullError,
    SessionStoreUnavailableError,
    Turn,
)
from localllm.testing.app import serve_in_process
from tests.event_loop import settle
from tests.plugins.sessions.talk_kit import (
    ANSWER,
    CHAT,
    PLUGINS,
    Talk,
    assistant,
    events_of,
    run,
    system,
    talking,
    user,
)


@pytest.mark.parametrize("stream", [False, True])
def test_a_session_goes_on_with_what_was_said(tmp_path: Path, stream: bool) -> None:
    async def scenario() -> None:
        async with talking(tmp_path) as talk:
            talk.model.answers.append("Nice to meet you.")
            first = await talk.say("My name is Zorbani.", stream=stream)
            assert first["session"] == {
                "id": talk.session_id, "messages": 0, "new_messages": 1,
                "omitted_messages": 0, "omitted_turns": 0, "summary": False,
            }  # fmt: skip
            second = await talk.say("What is my name?", stream=stream)
            assert (second["session"]["messages"], second["session_id"]) == (2, first["session_id"])
            assert talk.model.said == ["My name is Zorbani.", "Nice to meet you.", "What is my name?"]
            assert all(request.keep for request in talk.model.requests)
            assert await talk.texts() == ["My name is Zorbani.", "Nice to meet you.", "What is my name?", ANSWER]
            (session,) = await talk.sessions()
            assert (session["title"], session["model"], session["messages"]) == ("My name is Zorbani.", "scripted", 4)
            assert session["usage"]["prompt_tokens"] == sum(talk.model.counted)
            assert session["context_tokens"] == talk.model.counted[-1] + 2

    run(scenario())


def test_without_an_id_nothing_is_kept(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with talking(tmp_path) as talk:
            talk.session_id = None
            assert not {"session", "session_id"} & set(await talk.say("Hi"))
            assert not {"session", "session_id"} & set(await talk.say("Hi", session_id=None))
            assert talk.model.said == ["Hi"]
            assert not any(request.keep for request in talk.model.requests)
            assert await talk.sessions() == []

    run(scenario())


def test_every_new_session_has_an_id_of_its_own(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with talking(tmp_path) as talk:
            ids = {(await talk.say("Hi", session_id="new"))["session_id"] for _ in range(3)}
            assert len(ids) == 3
            assert {one["id"] for one in await talk.sessions()} == ids

    run(scenario())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wrong", ["3b1f6e2e-0000-4000-8000-000000000000", "x", "NEW", "../..", "é", "a\x00b", " "])
def test_an_unknown_id_is_a_404(tmp_path: Path, wrong: str, stream: bool) -> None:
    async def scenario() -> None:
        async with talking(tmp_path) as talk:
            response = await talk.ask("Hi", session_id=wrong, stream=stream)
            error = response.json()["error"]
            assert (response.status_code, error["code"], error["param"]) == (404, "session_not_found", "session_id")
            assert (talk.model.requests, await talk.sessions()) == ([], [])
            assert not talk.order.in_use

    run(scenario())


@pytest.mark.parametrize("wrong", [7, True, [], {}, "", "x" * 257])
def test_an_id_is_a_short_string(tmp_path: Path, wrong: Any) -> None:
    async def scenario() -> None:
        async with talking(tmp_path) as talk:
            response = await talk.ask("Hi", session_id=wrong)
            assert (response.status_code, response.json()["error"]["param"]) == (400, "session_id")

    run(scenario())


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"continue_final_message": True, "messages": [user("Hi"), assistant("Hel")]}, "continue_final_message"),
    ],
)
def test_what_does_not_go_with_a_session(tmp_path: Path, fields: dict[str, Any], param: str) -> None:
    async def scenario() -> None:
        async with talking(tmp_path) as talk:
            response = await talk.ask("Hi", **fields)
            assert (response.status_code, response.json()["error"]["param"]) == (400, param)
            response = await talk.request("POST", "/v1/completions", json={"prompt": "x", "session_id": "new"})
            assert (response.status_code, response.json()["error"]["param"]) == (400, "session_id")

    run(scenario())


def test_without_the_plugin_an_id_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serve_in_process({"chat": PLUGINS["chat"]}, tmp_path) as server:
            for wish in ("new", "x"):
                response = await server.client.post(CHAT, json={"messages": [user("Hi")], "session_id": wish})
                assert (response.status_code, response.json()["error"]["code"]) == (400, "unsupported_feature")

    run(scenario())


# --- the whole conversation again ------------------------------------------------------------------------------------


def parts(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text[:3]}, {"type": "text", "text": text[3:]}]


AGAIN: dict[str, list[dict[str, Any]]] = {
    "as M's example": [system("Be brief."), user("One?"), assistant(), user("Two?")],
    "without the instructions": [user("One?"), assistant(), user("Two?")],
    "in parts": [{**user(""), "content": parts("One?")}, {**assistant(), "content": parts(ANSWER)}, user("Two?")],
    "trimmed": [user("One? \n"), assistant(f"\n{ANSWER}"), user("Two?")],
    "with a thought": [user("One?"), assistant(reasoning_content="hm"), user("Two?")],
    "the answer only": [assistant(), user("Two?")],
    "only what is new": [user("Two?")],
    "developer for system": [{**system("Be brief."), "role": "developer"}, user("Two?")],
}


@pytest.mark.parametrize("again", AGAIN)
def test_a_resent_conversation_is_not_doubled(tmp_path: Path, again: str) -> None:
    async def scenario() -> None:
        async with talking(tmp_path) as talk:
            await talk.say(system("Be brief."), user("One?"))
            answer = await talk.say(*AGAIN[again])
            assert answer["session"]["new_messages"] == 1
            assert talk.model.said == ["Be brief.", "One?", ANSWER, "Two?"]
            assert await talk.texts() == ["Be brief.", "One?", ANSWER, "Two?", ANSWER]

    run(scenario())


def test_a_client_that_always_sends_all_of_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with talking(tmp_path) as talk:
            messages: list[dict[str, Any]] = [system("Be brief.")]
            for number in range(12):
                talk.model.answers.append(f"answer {number}")
                messages.append(user("the same question"))
                choice = (await talk.say(*messages))["choices"][0]
                messages.append({name: choice["message"][name] for name in ("role", "content")})
                assert talk.model.prompts[-1] == messages[:-1]
            assert await talk.kept() == messages

    run(scenario())


def test_a_client_that_leaves_out_what_is_old(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with talking(tmp_path) as talk:
            messages: list[dict[str, Any]] = []
            for number in range(8):
                messages += [user(f"question {number}"), assistant(f"answer {number}")]
                talk.model.answers.append(f"answer {number}")
                await talk.say(*messages[-6:-1])  # two answers before, at most
            assert await talk.kept() == messages

    run(scenario())


@pytest.mark.parametrize(
    "messages",
    [
        [user("One?"), assistant("one"), user("Changed?")],
        [user("Changed?"), assistant("one"), user("Two?"), assistant("changed"), user("Three?")],
        [user("One?"), assistant("one"), user("Two?")],
        [user("One?"), assistant("changed"), user("Two?"), assistant("changed"), user("Three?")],
        [
            user("Before?"),
            assistant("before"),
            user("One?"),
            assistant("one"),
            user("Two?"),
            assistant("two"),
            user("3"),
        ],
    ],
    ids=["last question changed", "both changed", "answer it again", "answers changed", "more before"],
)
def test_another_branch_is_a_conflict(tmp_path: Path, messages: list[dict[str, Any]]) -> None:
    async def scenario() -> None:
        async with talking(tmp_path) as talk:
            talk.model.answers += ["one", "two"]
            await talk.say("One?")
            await talk.say("Two?")
            response = await talk.ask(*messages)
            error = response.json()["error"]
            assert (response.status_code, error["code"], error["param"]) == (409, "session_conflict", "messages")
            assert await talk.texts() == ["One?", "one", "Two?", "two"]
            copy = {"copy_of": talk.session_id, "n_messages": 2}
            talk.session_id = (await talk.request("POST", "/v1/sessions", json=copy)).json()["id"]
            await talk.say("Changed?")
            assert talk.model.said == ["One?", "one", "Changed?"]

    run(scenario())


def test_answers_that_the_client_made_up_are_new(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with talking(tmp_path) as talk:
            await talk.say(user("3 + 4"), assistant("7"), user("1 + 1"))
            await talk.say(user("5 + 5"), assistant("10"), user("2 + 2"))
            assert talk.model.said == ["3 + 4", "7", "1 + 1", ANSWER, "5 + 5", "10", "2 + 2"]

    run(scenario())


@pytest.mark.parametrize("messages", [[user("One?"), assistant()], [assistant()], [system("Be brief.")]])
def test_nothing_new_is_refused(tmp_path: Path, messages: list[dict[str, Any]]) -> None:
    async def scenario() -> None:
        async with talking(tmp_path) as talk:
            await talk.say("One?")
            response = await talk.ask(*messages)
            assert (response.status_code, response.json()["error"]["param"]) == (400, "messages")

    run(scenario())


# --- instructions ----------------------------------------------------------------------------------------------------


def test_instructions_stay_until_others_come(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with talking(tmp_path) as talk:
            await talk.say(system("A"), user("1"))
            await talk.say("2")
            assert talk.model.said[0] == "A"
            await talk.say(system("B"), user("3"))
            assert talk.model.said == ["B", "1", ANSWER, "2", ANSWER, "3"]
            await talk.say("4")
            assert talk.model.said[0] == "B"
            assert "A" not in talk.model.said
            await talk.say(system("B"), user("5"))
            assert talk.model.said.count("B") == 1
            assert all("replaces" not in message for message in talk.model.prompts[-1])
            await talk.say(system(""), user("6"))
            assert talk.model.said[0] == "1"
            assert [one["content"] for one in await talk.kept() if one["role"] == "system"] == ["A", "B", ""]

    run(scenario())


def test_replaced_instructions_survive_export_and_copy(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with talking(tmp_path) as talk:
            await talk.say(system("A"), user("1"))
            await talk.say(system("B"), user("2"))
            lines = (await talk.request("GET", f"/v1/sessions/{talk.session_id}/export")).content
            headers = {"content-type": "application/jsonl"}
            imported = await talk.request("POST", "/v1/sessions/import", content=lines, headers=headers)
            copied = await talk.request("POST", "/v1/sessions", json={"copy_of": talk.session_id})
            early = await talk.request("POST", "/v1/sessions", json={"copy_of": talk.session_id, "n_messages": 3})
            for made, expected in ((imported, "B"), (copied, "B"), (early, "A")):
                assert made.status_code == 201
                talk.session_id = made.json()["id"]
                await talk.say("3")
                assert (talk.model.said[0], talk.model.said.count("1")) == (expected, 1)

    run(scenario())


def test_instructions_in_the_middle_stay_there(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with talking(tmp_path) as talk:
            await talk.say(system("A"), user("1"))
            await talk.say(system("A"), user("1"), assistant(), system("middle"), user("2"))
            await talk.say("3")
            assert talk.model.said == ["A", "1", ANSWER, "middle", "2", ANSWER, "3"]

    run(scenario())


def test_the_models_own_instructions_are_not_the_sessions(tmp_path: Path) -> None:
    specs = [ModelSpec("a", "scripted", rules=RequestRules(system_prompt="usual")), ModelSpec("b", "scripted")]

    async def scenario() -> None:
        async with talking(tmp_path, specs=specs) as talk:
            await talk.say("1", model="a")
            await talk.say("2", model="a")
            assert talk.model.said == ["usual", "1", ANSWER, "2"]
            await talk.say("3", model="b")
            assert talk.model.said[0] == "1"
            await talk.say(system("mine"), user("4"), model="a")
            await talk.say("5", model="a")
            assert (talk.model.said[0], "usual" in talk.model.said) == ("mine", False)
            assert [one["content"] for one in await talk.kept() if one["role"] == "system"] == ["mine"]

    run(scenario())


# --- tools -----------------------------------------------------------------------------------------------------------

TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]
CALL = [CallDelta(0, 0, "get_weather", '{"city": "Paris"}', 3), CallDelta(0, 1, "now", "", 1)]


@pytest.mark.parametrize("stream", [False, True])
def test_calls_and_their_results_are_turns(tmp_path: Path, stream: bool) -> None:
    async def scenario() -> None:
        async with talking(tmp_path) as talk:
            talk.model.answers += [CALL, "18 degrees"]
            response = await talk.ask("Weather?", tools=TOOLS, stream=stream)
            if stream:
                deltas = [event["choices"][0]["delta"] for event in events_of(response)]
                ids = [call["id"] for one in deltas for call in one.get("tool_calls", []) if "id" in call]
            else:
                ids = [call["id"] for call in response.json()["choices"][0]["message"]["tool_calls"]]
            results = [{"role": "tool", "tool_call_id": one, "content": str(number)} for number, one in enumerate(ids)]
            await talk.say(*results, tools=TOOLS)
            prompt = talk.model.prompts[-1]
            assert [call["id"] for call in prompt[1]["tool_calls"]] == ids
            assert [call["function"]["arguments"] for call in prompt[1]["tool_calls"]] == ['{"city": "Paris"}', "{}"]
            assert [(one["tool_call_id"], one["name"]) for one in prompt[2:]] == [
                (ids[0], "get_weather"), (ids[1], "now"),
            ]  # fmt: skip
            assert (await talk.texts())[-1] == "18 degrees"

    run(scenario())


def test_results_without_ids_answer_the_open_calls(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with talking(tmp_path) as talk:
            talk.model.answers.append(CALL)
            await talk.say("Weather?", tools=TOOLS)
            await talk.say({"role": "tool", "content": "18"}, {"role": "tool", "content": "noon"}, tools=TOOLS)
            calls, *results = talk.model.prompts[-1][1:]
            assert [one["tool_call_id"] for one in results] == [call["id"] for call in calls["tool_calls"]]

    run(scenario())


def test_a_resent_round_of_tools_is_not_doubled(tmp_path: Path) -> None:
    """The client numbers its calls otherwise, spells arguments otherwise, and says null for no content."""

    async def scenario() -> None:
        async with talking(tmp_path) as talk:
            talk.model.answers += [CALL, "18 degrees"]
            await talk.say("Weather?", tools=TOOLS)
            calls = [
                {"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city":"Paris"}'}},
                {"id": "2", "type": "function", "function": {"name": "now", "arguments": "{}"}},
            ]
            results = [{"role": "tool", "tool_call_id": str(one), "content": f"result {one}"} for one in (1, 2)]
            made = {"role": "assistant", "content": None, "tool_calls": calls}
            answer = await talk.say(user("Weather?"), made, *results, tools=TOOLS)
            assert answer["session"]["new_messages"] == 2
            last = await talk.say(user("Weather?"), made, *results, assistant("18 degrees"), user("Thanks"))
            assert last["session"]["new_messages"] == 1
            assert talk.model.said == ["Weather?", "", "result 1", "result 2", "18 degrees", "Thanks"]

    run(scenario())


def test_thoughts_are_kept_beside_the_answer(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with talking(tmp_path) as talk:
            talk.model.answers.append([Chunk(0, "hm", 1, region="reasoning"), Chunk(0, "Yes.", 1)])
            await talk.say("Well?")
            assert (await talk.kept())[-1] == {"role": "assistant", "content": "Yes.", "reasoning_content": "hm"}

    run(scenario())


# --- failures --------------------------------------------------------------------------------------------------------


async def leave_while(task: asyncio.Task[Any], reached: asyncio.Event) -> None:
    await reached.wait()
    task.cancel()
    await asyncio.wait([task])


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_takes_its_turn_along(tmp_path: Path, stream: bool) -> None:
    async def scenario() -> None:
        async with talking(tmp_path) as talk:
            talk.model.gate = asyncio.Event()
            await leave_while(asyncio.create_task(talk.ask("Never", stream=stream)), talk.model.reached)
            assert await talk.sessions() == []
            talk.model.gate = None
            await talk.say("One?")
            talk.model.gate = asyncio.Event()
            talk.model.reached.clear()
            await leave_while(asyncio.create_task(talk.ask("Never", stream=stream)), talk.model.reached)
            talk.model.gate = None
            await talk.say("Two?")
            assert talk.model.said == ["One?", ANSWER, "Two?"]
            assert talk.model.n_open == 0

    run(scenario())


FAULTS = [
    (SessionStorageFullError("The disk is full."), 507),
    (SessionQuotaExceededError("Too much."), 507),
    (SessionStoreUnavailableError("The file is locked.", retry_after_seconds=3), 503),
]


@pytest.mark.parametrize(("fault", "status"), FAULTS, ids=lambda one: getattr(one, "code", ""))
@pytest.mark.parametrize("stream", [False, True])
def test_a_turn_that_cannot_be_kept_is_an_error(tmp_path: Path, fault: Exception, status: int, stream: bool) -> None:
    async def scenario() -> None:
        async with talking(tmp_path) as talk:
            for begun in (False, True):
                talk.store.faults.append(fault)
                response = await talk.ask("Lost", stream=stream)
                if stream:
                    *pieces, last = events_of(response)
                    assert last["error"]["code"] == fault.code  # type: ignore[attr-defined]
                    assert all(piece["choices"][0]["finish_reason"] is None for piece in pieces)
                    assert "[DONE]" not in response.text
                else:
                    assert (response.status_code, response.json()["error"]["code"]) == (status, fault.code)  # type: ignore[attr-defined]
                    assert response.headers.get("retry-after") == ("3" if status == 503 else None)
                stateless = await talk.request("POST", CHAT, json={"messages": [user("Hi")]})
                assert stateless.status_code == 200
                if not begun:
                    talk.session_id = "new"
                    assert await talk.sessions() == []
                    await talk.say("One?")
            await talk.say("Two?")
            assert talk.model.said == ["One?", ANSWER, "Two?"]

    run(scenario())


def test_a_failed_generation_leaves_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with talking(tmp_path) as talk:
            talk.model.answers.append(SessionStoreUnavailableError("not really"))
            assert (await talk.ask("Hi")).status_code == 503
            assert await talk.sessions() == []

    run(scenario())


def test_an_answer_cut_by_its_length_is_kept(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with talking(tmp_path) as talk:
            talk.model.answers.append("half an")
            await talk.say("Hi", max_tokens=2)
            assert (await talk.texts())[-1] == "half an"

    run(scenario())


# --- order -----------------------------------------------------------------------------------------------------------


def test_two_clients_of_one_session_take_turns(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with talking(tmp_path) as talk:
            talk.model.answers += [f"answer {number}" for number in range(21)]
            await talk.say("begin")
            await asyncio.gather(*(talk.say(f"question {number}", stream=bool(number % 2)) for number in range(20)))
            texts = await talk.texts()
            assert sorted(texts[2::2]) == sorted(f"question {number}" for number in range(20))
            assert texts[1::2] == [f"answer {number}" for number in range(21)]
            for number, prompt in enumerate(talk.model.prompts):
                assert [one["content"] for one in prompt] == texts[: 2 * number + 1]

    run(scenario())


def test_a_turn_that_is_being_kept_is_kept_whoever_leaves(tmp_path: Path) -> None:
    """And the next one waits for that, or it would not know of it."""

    async def scenario() -> None:
        async with talking(tmp_path) as talk:
            await talk.say("One?")
            talk.store.gate = gate = asyncio.Event()
            talk.store.writing.clear()
            await leave_while(asyncio.create_task(talk.ask("Two?")), talk.store.writing)
            last = asyncio.create_task(talk.say("Three?"))
            await settle()
            assert len(talk.model.requests) == 2
            gate.set()
            await last
            assert talk.model.said == ["One?", ANSWER, "Two?", ANSWER, "Three?"]

    run(scenario())


def test_what_another_program_adds_meanwhile_is_a_conflict(tmp_path: Path) -> None:
    """A store may be shared by servers: neither may bury what the other has added."""

    async def scenario() -> None:
        async with talking(tmp_path) as talk:
            await talk.say("One?")
            talk.model.gate = gate = asyncio.Event()
            asked = asyncio.create_task(talk.ask("Two?"))
            await talk.model.reached.wait()
            await talk.store.append("", str(talk.session_id), Turn((user("theirs"), assistant("theirs"))), after=2)
            gate.set()
            response = await asked
            assert (response.status_code, response.json()["error"]["code"]) == (409, "session_conflict")
            talk.model.gate = None
            await talk.say("Three?")
            assert talk.model.said == ["One?", ANSWER, "theirs", "theirs", "Three?"]

    run(scenario())


def test_a_session_deleted_meanwhile_does_not_come_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with talking(tmp_path) as talk:
            await talk.say("One?")
            talk.model.gate = gate = asyncio.Event()
            asked = asyncio.create_task(talk.ask("Two?"))
            await talk.model.reached.wait()
            assert (await talk.request("DELETE", f"/v1/sessions/{talk.session_id}")).status_code == 200
            gate.set()
            assert (await asked).status_code == 404
            assert await talk.sessions() == []

    run(scenario())


# --- titles ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("Hi", "Hi"),
        ("  two\n\n lines ", "two lines"),
        ("word " * 30, ("word " * 11).strip() + "…"),
        ("x" * 100, "x" * 59 + "…"),
        (" ", ""),
    ],
)
def test_the_title_is_what_was_asked_first(tmp_path: Path, text: str, title: str) -> None:
    async def scenario() -> None:
        async with talking(tmp_path) as talk:
            await talk.say(system("not this"), user(text))
            await talk.say("nor this")
            assert [one["title"] for one in await talk.sessions()] == [title]

    run(scenario())


def test_a_session_made_empty_gets_its_title_from_the_first_turn(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with talking(tmp_path) as talk:
            for fields, title in (({}, "Hi"), ({"title": "Mine"}, "Mine")):
                made = await talk.request("POST", "/v1/sessions", json=fields)
                talk.session_id = made.json()["id"]
                await talk.say("Hi")
                await talk.say("Again")
                found = (await talk.request("GET", f"/v1/sessions/{talk.session_id}")).json()
                assert (found["title"], found["messages"]) == (title, 4)

    run(scenario())


def test_a_title_that_is_set_while_the_first_answer_is_written_stays(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with talking(tmp_path) as talk:
            made = await talk.request("POST", "/v1/sessions", json={})
            talk.session_id = made.json()["id"]
            talk.model.gate = asyncio.Event()
            asked = asyncio.create_task(talk.ask("Hi"))
            await talk.model.reached.wait()
            await talk.request("PATCH", f"/v1/sessions/{talk.session_id}", json={"title": "Mine"})
            talk.model.gate.set()
            assert (await asked).status_code == 200
            assert [one["title"] for one in await talk.sessions()] == ["Mine"]

    run(scenario())


def test_a_turn_that_can_not_be_kept_leaves_no_title(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with talking(tmp_path) as talk:
            made = await talk.request("POST", "/v1/sessions", json={})
            talk.session_id = made.json()["id"]
            talk.store.faults.append(SessionStorageFullError("The disk is full."))
            assert (await talk.ask("Hi")).status_code == 507
            assert [one["title"] for one in await talk.sessions()] == [""]

    run(scenario())


def test_all_turns_of_a_session_go_to_one_instance_and_sessions_are_spread(tmp_path: Path) -> None:
    """Also the first one, which has no id yet: what it has evaluated is what the second one goes on from."""

    async def scenario() -> None:
        async with talking(tmp_path) as talk:
            other = Talk(talk.server)
            for _ in range(2):
                await talk.say("Hi")
                await other.say("Hi")
            mine, others, mine_again, others_again = talk.server.models.affinities
            assert (mine, others) == (mine_again, others_again)
            assert mine != others

    run(scenario())
