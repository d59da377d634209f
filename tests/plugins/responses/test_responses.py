"""``/v1/responses``: written, kept, gone on from, fetched and forgotten; and nobody sees what is another's."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import httpx
import orjson
import pytest

from localllm.contract.errors import (
    ContextLengthExceededError,
    InvalidRequestError,
    ModelNotFoundError,
    WorkerCrashedError,
)
from localllm.contract.generation import CallDelta, Chunk
from localllm.contract.model import ModelKind, ModelSpec, RequestRules
from localllm.contract.sessions import Record, SessionStorageFullError
from localllm.testing.app import ScriptedModels
from localllm.testing.sessions import MemoryStore, StoreLimits
from tests.openai.responses.wire_spec import check_items, check_response, check_stream
from tests.plugins.responses.kit import ADA, BOB, KEYS, Server, run

TOOL = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}


def error_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert list(error)[-4:] == ["message", "type", "param", "code"]
    return error


@pytest.mark.parametrize("keeps", [True, False])
def test_a_plain_response(tmp_path: Path, keeps: bool) -> None:
    async def scenario(server: Server) -> None:
        body = await server.create("Hi", instructions="Be brief.")
        assert check_response(body).output_text == "Hello there"
        assert body["model"] == "scripted"
        assert server.shown() == [("system", "Be brief."), ("user", "Hi")]
        assert server.model.requests[0].keep is keeps

    run(tmp_path, scenario, keeps=keeps)


@pytest.mark.parametrize("path", ["/v1/responses", "/responses"])
def test_a_streamed_response_is_the_one_that_is_kept(tmp_path: Path, path: str) -> None:
    async def scenario(server: Server) -> None:
        server.model.answers.append(
            [Chunk(0, "Hm.", 1, region="reasoning"), Chunk(0, "I look.", 1), CallDelta(0, 0, "f", '{"x": 1}')]
        )
        final = check_stream(await server.stream("Hi", tools=[TOOL]))
        assert [item["type"] for item in final["output"]] == ["reasoning", "message", "function_call"]
        assert await server.get(f"{path}/{final['id']}") == final

    run(tmp_path, scenario)


def test_a_response_is_gone_on_from_without_its_instructions(tmp_path: Path) -> None:
    async def scenario(server: Server) -> None:
        first = await server.create("One", instructions="First.")
        second = await server.create("Two", previous_response_id=first["id"], instructions="Second.")
        third = await server.create("Three", previous_response_id=second["id"])
        assert (second["previous_response_id"], third["previous_response_id"]) == (first["id"], second["id"])
        assert server.shown(1)[0] == ("system", "Second.")
        said = [("user", "One"), ("assistant", "Hello there"), ("user", "Two"), ("assistant", "Hello there")]
        assert server.shown() == [*said, ("user", "Three")]
        fork = await server.create("Else", previous_response_id=first["id"])
        assert server.shown() == [*said[:2], ("user", "Else")]
        check_response(fork)

    run(tmp_path, scenario)


def test_a_round_of_tools_by_reference_to_the_call(tmp_path: Path) -> None:
    async def scenario(server: Server) -> None:
        server.model.answers.append([CallDelta(0, 0, "f", '{"x": 1}')])
        first = await server.create("Hi", tools=[TOOL])
        [call] = first["output"]
        output = {"type": "function_call_output", "call_id": call["call_id"], "output": "2"}
        await server.create([output], previous_response_id=first["id"], tools=[TOOL])
        [user, made, result] = server.model.requests[-1].prompt.messages  # type: ignore[union-attr]
        assert user["role"] == "user"
        assert made["tool_calls"][0]["id"] == result["tool_call_id"] == call["call_id"]
        assert result["name"] == "f"

    run(tmp_path, scenario)


def test_items_are_referred_to_by_their_ids(tmp_path: Path) -> None:
    async def scenario(server: Server) -> None:
        first = await server.create("One")
        page = check_items(await server.get(f"/v1/responses/{first['id']}/input_items"))
        references = [{"type": "item_reference", "id": page[0]["id"]}, {"id": first["output"][0]["id"]}]
        await server.create([*references, {"role": "user", "content": "Two"}], store=False)
        assert server.shown() == [("user", "One"), ("assistant", "Hello there"), ("user", "Two")]
        for missing in ("msg_1", first["output"][0]["id"][:-1] + "7", page[0]["id"].replace("i0", "i9")):
            answer = await server.post("/v1/responses", {"input": [{"type": "item_reference", "id": missing}]})
            assert error_of(answer, 404)["code"] == "item_not_found"

    run(tmp_path, scenario)


def test_what_a_client_sends_again_is_a_copy(tmp_path: Path) -> None:
    """Clients send items back with the ids that they had; those stay with the response that they came from."""

    async def scenario(server: Server) -> None:
        first = await server.create("One")
        second = await server.create(
            [{"role": "user", "content": "One"}, *first["output"], {"role": "user", "content": "Two"}]
        )
        listed = check_items(await server.get(f"/v1/responses/{second['id']}/input_items?order=asc"))
        assert [item["role"] for item in listed] == ["user", "assistant", "user"]
        assert len({item["id"] for item in [*listed, *first["output"], *second["output"]]}) == 5
        assert await server.get(f"/v1/responses/{first['id']}") == first

    run(tmp_path, scenario)


def test_input_items_are_paged(tmp_path: Path) -> None:
    async def scenario(server: Server) -> None:
        said = [{"role": "user", "content": str(n)} for n in range(5)]
        path = f"/v1/responses/{(await server.create(said))['id']}/input_items"
        newest = await server.get(path, params={"limit": "2"})
        assert [item["content"][0]["text"] for item in check_items(newest)] == ["4", "3"]
        assert newest["has_more"]
        after: list[str] = []
        query = {"limit": "2", "order": "asc"}
        while True:
            page = await server.get(path, params=query)
            after += [item["content"][0]["text"] for item in check_items(page)]
            if not page["has_more"]:
                break
            query["after"] = page["last_id"]
        assert after == ["0", "1", "2", "3", "4"]
        beyond = await server.get(path, params={"after": page["last_id"], "order": "asc"})
        assert (beyond["data"], beyond["has_more"], beyond["first_id"]) == ([], False, "")
        for wrong in ({"limit": "0"}, {"limit": "101"}, {"limit": "x"}, {"order": "up"}, {"after": "msg_1"}):
            answer = await server.client.get(path, params=wrong)
            assert error_of(answer, 404 if "after" in wrong else 400)["param"] == next(iter(wrong))

    run(tmp_path, scenario)


def test_a_long_chain_and_its_branches(tmp_path: Path) -> None:
    """Every link can be gone on from any number of times; what goes on is what led to it, and nothing of others."""

    async def scenario(server: Server) -> None:
        ids: list[str] = []
        for n in range(30):
            body = await server.create(f"turn {n}", previous_response_id=ids[-1] if ids else None)
            ids.append(body["id"])
        said = [("user", f"turn {n}") for n in range(30)]
        assert server.shown()[::2] == said
        for at in (29, 0, 14, 14):
            branch = await server.create("branch", previous_response_id=ids[at])
            assert server.shown()[::2] == [*said[: at + 1], ("user", "branch")]
            await server.create("twig", previous_response_id=branch["id"])
            assert server.shown()[::2] == [*said[: at + 1], ("user", "branch"), ("user", "twig")]
        [own] = check_items(await server.get(f"/v1/responses/{ids[29]}/input_items"))
        assert own["content"][0]["text"] == "turn 29"

    run(tmp_path, scenario)


@pytest.mark.parametrize("given", [{}, {"input": None}, {"input": []}])
def test_what_went_before_is_enough_to_go_on_from(tmp_path: Path, given: dict[str, Any]) -> None:
    async def scenario(server: Server) -> None:
        first = await server.create("One")
        for path in ("/v1/responses", "/v1/responses/input_tokens"):
            answer = await server.post(path, {**given, "previous_response_id": first["id"]})
            assert answer.status_code == 200, answer.text
        assert server.shown() == [("user", "One"), ("assistant", "Hello there")]
        more = check_response(
            (await server.post("/v1/responses", {**given, "previous_response_id": first["id"]})).json()
        )
        assert (await server.get(f"/v1/responses/{more.id}/input_items"))["data"] == []
        await server.create("Two", previous_response_id=more.id)
        assert [text for _, text in server.shown()] == ["One", "Hello there", "Hello there", "Two"]
        said = {"items": [{"role": "user", "content": "Three"}]}
        conversation = (await server.post("/v1/conversations", said)).json()["id"]
        check_response((await server.post("/v1/responses", {**given, "conversation": conversation})).json())
        assert server.shown() == [("user", "Three")]
        items = check_items(await server.get(f"/v1/conversations/{conversation}/items"))
        assert [item["role"] for item in items] == ["assistant", "user"]
        empty = (await server.post("/v1/conversations", {})).json()["id"]
        for fields in ({}, {"conversation": empty}):
            assert error_of(await server.post("/v1/responses", {**given, **fields}), 400)["param"] == "input"

    run(tmp_path, scenario)


def test_a_deleted_response_is_gone_and_so_is_what_goes_on_from_it(tmp_path: Path) -> None:
    async def scenario(server: Server) -> None:
        first = await server.create("One")
        second = await server.create("Two", previous_response_id=first["id"])
        gone = await server.client.delete(f"/v1/responses/{first['id']}")
        assert gone.json() == {"id": first["id"], "object": "response", "deleted": True}
        for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items")):
            answer = await server.client.request(method, f"/v1/responses/{first['id']}{path}")
            assert error_of(answer, 404)["message"] == f"Response with id '{first['id']}' not found."
        assert await server.get(f"/v1/responses/{second['id']}") == second
        for identity in (first["id"], second["id"]):
            answer = await server.post("/v1/responses", {"input": "Three", "previous_response_id": identity})
            error = error_of(answer, 400)  # as OpenAI's own
            assert (error["code"], error["param"]) == ("previous_response_not_found", "previous_response_id")
            assert first["id"] in error["message"]
        assert second["id"] in error["message"]

    run(tmp_path, scenario)


@pytest.mark.parametrize(
    ("default", "said", "kept"), [(True, None, 1), (True, False, 0), (False, None, 0), (False, True, 1)]
)
def test_what_is_kept_is_for_the_request_and_the_configuration_to_say(
    tmp_path: Path, default: bool, said: bool | None, kept: int
) -> None:
    async def scenario(server: Server) -> None:
        body = await server.create("Hi", store=said)
        answer = await server.client.get(f"/v1/responses/{body['id']}")
        assert answer.status_code == (200 if kept else 404)
        assert server.model.requests[0].keep is bool(kept)

    run(tmp_path, scenario, store=MemoryStore(), store_by_default=default)


def test_without_a_store_nothing_is_kept_and_those_who_want_it_are_told(tmp_path: Path) -> None:
    async def scenario(server: Server) -> None:
        assert "warnings" not in await server.create("Hi")
        [warning] = (await server.create("Hi", store=True))["warnings"]
        assert "sessions" in warning
        for fields in ({"previous_response_id": "resp_1"}, {"background": True}, {"conversation": "conv_1"}):
            error = error_of(await server.post("/v1/responses", {"input": "Hi", **fields}), 400)
            assert (error["code"], error["param"]) == ("unsupported_feature", next(iter(fields)))
            assert "sessions" in error["message"]
        for method, path in (
            ("GET", "/v1/responses/resp_1"),
            ("POST", "/v1/conversations"),
            ("GET", "/v1/conversations/x"),
        ):
            answer = await server.client.request(method, path, **({"json": {}} if method == "POST" else {}))
            assert error_of(answer, 400)["code"] == "unsupported_feature"

    run(tmp_path, scenario, keeps=False)


def test_nobody_sees_what_is_another_s(tmp_path: Path) -> None:
    """Every verb, with the id of somebody else's response: the same bytes as with one that never was."""

    async def scenario(server: Server) -> None:
        hers = await server.create("Mine", headers=ADA)
        conversation = (await server.post("/v1/conversations", {}, headers=ADA)).json()["id"]
        absent = "resp_" + "0" * 32
        for method, path in (
            ("GET", ""),
            ("DELETE", ""),
            ("POST", "/cancel"),
            ("GET", "/input_items"),
            ("GET", "?stream=true"),
        ):
            answers = [
                await server.client.request(method, f"/v1/responses/{identity}{path}", headers=BOB)
                for identity in (hers["id"], absent)
            ]
            assert [answer.status_code for answer in answers] == [404, 404]
            assert answers[0].text.replace(hers["id"], absent) == answers[1].text
        item = hers["output"][0]["id"]
        for fields in (
            {"previous_response_id": hers["id"]},
            {"conversation": conversation},
            {"input": [{"type": "item_reference", "id": item}]},
        ):
            told = orjson.dumps(fields).decode()
            answer, other = [
                await server.post("/v1/responses", {"input": "Hi", **orjson.loads(text)}, headers=BOB)
                for text in (told, re.sub("[0-9a-f]{32}", "0" * 32, told))
            ]
            assert answer.status_code == other.status_code == (400 if "previous_response_id" in fields else 404)
            assert re.sub("[0-9a-f]{32}", "0" * 32, answer.text) == other.text
            assert answer.json()["error"]["message"].endswith("not found.")
        assert await server.get(f"/v1/responses/{hers['id']}", headers=ADA) == hers
        assert len(server.model.requests) == 1

    run(tmp_path, scenario, config=KEYS)


def test_a_client_that_leaves_midway_leaves_nothing_behind(tmp_path: Path) -> None:
    async def scenario(server: Server) -> None:
        server.model.gate = asyncio.Event()
        for stream in (True, False):
            asking = asyncio.create_task(server.post("/v1/responses", {"input": "Hi", "stream": stream}))
            await server.model.reached.wait()
            asking.cancel()
            await asyncio.wait([asking])
            assert server.model.n_open == 0
            server.model.reached.clear()
        assert isinstance(server.store, MemoryStore)
        assert server.store._records == {}

    run(tmp_path, scenario)


@pytest.mark.parametrize("stream", [True, False])
def test_an_error_before_the_answer_is_answered_with_its_own_status(tmp_path: Path, stream: bool) -> None:
    async def scenario(server: Server) -> None:
        server.model.answers.append(WorkerCrashedError("The worker is gone."))
        answer = await server.post("/v1/responses", {"input": "Hi", "stream": stream})
        assert error_of(answer, 502)["code"] == "worker_crashed"
        answer = await server.post("/v1/responses", {"input": "Hi", "model": "none", "stream": stream})
        assert error_of(answer, 404)["code"] == ModelNotFoundError.code

    run(tmp_path, scenario)


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/responses/input_tokens"])
def test_what_a_model_refuses_of_the_messages_is_the_input_s_fault(tmp_path: Path, path: str) -> None:
    async def scenario(server: Server) -> None:
        refused = InvalidRequestError("The template refuses these messages.", param="messages")
        server.model.answers.append(refused)
        assert error_of(await server.post(path, {"input": "Hi"}), 400)["param"] == "input"

    run(tmp_path, scenario)


class FailingStore(MemoryStore):
    """Has no room for whatever is to be kept."""

    async def put_records(self, owner: str, records: Sequence[Record]) -> None:
        raise SessionStorageFullError("There is no room.")


class Broken(asyncio.Event):
    """Fails whoever waits, with what nobody expects."""

    async def wait(self) -> Literal[True]:
        message = "a secret"
        raise ZeroDivisionError(message)


def test_a_fault_of_the_server_s_own_fails_the_stream(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(server: Server) -> None:
        server.model.gate = Broken()
        events = await server.stream("Hi")
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert events[-1]["type"] == "response.failed"
        final = events[-1]["response"]
        assert check_response(final).output_text == "Hello"
        assert "secret" not in final["error"]["message"]
        assert (await server.client.get(f"/v1/responses/{final['id']}")).status_code == 404

    run(tmp_path, scenario)
    assert "ZeroDivisionError" in caplog.text


def test_a_full_disk_is_told_and_what_keeps_nothing_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(server: Server) -> None:
        answer = await server.post("/v1/responses", {"input": "Hi"})
        assert error_of(answer, 507)["code"] == "session_storage_full"
        events = await server.stream("Hi")
        assert events[-1]["type"] == "response.failed"
        assert events[-1]["response"]["error"] == {"code": "server_error", "message": "There is no room."}
        assert not any(event["type"] == "response.completed" for event in events)
        assert error_of(await server.post("/v1/responses", {"input": "Hi", "background": True}), 507)
        check_response(await server.create("Hi", store=False))

    with caplog.at_level(logging.WARNING):
        run(tmp_path, scenario, store=FailingStore())
    assert "could not be kept" in caplog.text


def test_the_quota_is_told(tmp_path: Path) -> None:
    async def scenario(server: Server) -> None:
        answer = await server.post("/v1/responses", {"input": "Hi"})
        assert error_of(answer, 507)["code"] == "session_quota_exceeded"

    run(tmp_path, scenario, store=MemoryStore(StoreLimits(max_bytes_per_owner=50)))


def too_long(n_tokens: int) -> ContextLengthExceededError:
    return ContextLengthExceededError(n_tokens, 100)


def test_what_is_too_long_is_refused_or_loses_its_oldest_turns(tmp_path: Path) -> None:
    async def scenario(server: Server) -> None:
        said: list[Any] = [{"role": "system", "content": "S"}]
        for n in range(6):
            said += [{"role": "user", "content": f"{n}" * 100}, {"role": "assistant", "content": "a" * 100}]
        said.append({"role": "user", "content": "Now?"})
        server.model.answers.append(too_long(300))
        error = error_of(await server.post("/v1/responses", {"input": said}), 400)
        assert (error["code"], error["param"]) == ("context_length_exceeded", "input")
        server.model.answers.extend([too_long(300), too_long(120), "Fine"])
        body = await server.create(said, truncation="auto")
        assert body["output"][0]["content"][0]["text"] == "Fine"
        shown = server.shown()
        assert (shown[0], shown[1][0], shown[-1]) == (("system", "S"), "user", ("user", "Now?"))
        n_left_out = len(said) - len(shown)
        assert n_left_out > 0
        assert str(n_left_out) in body["warnings"][0]
        server.model.answers.append(too_long(300))
        assert error_of(await server.post("/v1/responses", {"input": "x", "truncation": "auto"}), 400)

    run(tmp_path, scenario)


def test_a_chain_is_read_to_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("localllm_responses.book.MAX_CHAIN", 3)

    async def scenario(server: Server) -> None:
        last: dict[str, Any] = await server.create("0")
        for n in range(1, 4):
            last = await server.create(str(n), previous_response_id=last["id"], truncation="auto")
        error = error_of(await server.post("/v1/responses", {"input": "4", "previous_response_id": last["id"]}), 400)
        assert "truncation" in error["message"]
        await server.create("4", previous_response_id=last["id"], truncation="auto")
        assert [content for role, content in server.shown() if role == "user"] == ["1", "2", "3", "4"]

    run(tmp_path, scenario)


def test_the_model_s_own_rules_apply(tmp_path: Path) -> None:
    rules = RequestRules(system_prompt="Be kind.", defaults={"max_tokens": 5, "temperature": 0.1}, force={"seed": 3})
    spec = ModelSpec("writer", "scripted", kind=ModelKind.CHAT, aliases=("other",), rules=rules)

    async def scenario(server: Server) -> None:
        body = await server.create("Hi", model="other", temperature=0.4)
        assert (body["model"], body["temperature"], body["max_output_tokens"]) == ("writer", 0.4, 5)
        assert server.shown()[0] == ("system", "Be kind.")
        await server.create("Hi", instructions="Be rude.", max_output_tokens=7)
        assert server.shown()[0] == ("system", "Be rude.")
        first, second = (request.sampling for request in server.model.requests)
        assert (first.max_tokens, first.temperature, first.seed) == (5, 0.4, 3)
        assert second.max_tokens == 7

    run(tmp_path, scenario, models=ScriptedModels([spec]))


def test_counting_the_tokens_of_a_request(tmp_path: Path) -> None:
    async def scenario(server: Server) -> None:
        first = await server.create("One")
        short = (await server.post("/v1/responses/input_tokens", {"input": "Two"})).json()
        assert short["object"] == "response.input_tokens"
        body = {"input": "Two", "previous_response_id": first["id"], "instructions": "Be brief."}
        longer = (await server.post("/v1/responses/input_tokens", body)).json()
        assert longer["input_tokens"] > short["input_tokens"] > 0
        asked = server.model.text_requests[-1].prompt  # type: ignore[union-attr]
        assert [message["content"] for message in asked.messages] == ["Be brief.", "One", "Hello there", "Two"]  # type: ignore[union-attr]

    run(tmp_path, scenario)


def test_a_session_is_refused_where_it_would_be_ignored(tmp_path: Path) -> None:
    async def scenario(server: Server) -> None:
        error = error_of(await server.post("/v1/responses", {"input": "Hi", "session_id": "sess_1"}), 400)
        assert error["param"] == "session_id"
        assert "conversation" in error["message"]

    run(tmp_path, scenario)
