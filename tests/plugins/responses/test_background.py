"""Responses in the background: polled, followed, cancelled, bounded, and never left "in progress" for ever."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from localllm.contract.errors import WorkerCrashedError
from localllm.contract.generation import ChatPrompt, GenerateRequest
from localllm.contract.sessions import Record
from localllm.testing.sessions import MemoryStore
from tests.openai.responses.wire_spec import check_response, check_stream
from tests.plugins.responses.kit import ADA, BOB, KEYS, Server, read_stream, run, serving

LONG = "one two three four"


async def ended(server: Server, response_id: str, **options: Any) -> dict[str, Any]:
    """Poll as clients do, giving way to the server in between."""
    while True:
        await asyncio.sleep(0)
        body = await server.get(f"/v1/responses/{response_id}", **options)
        check_response(body)
        if body["status"] not in ("queued", "in_progress"):
            return body


def test_polling(tmp_path: Path) -> None:
    async def scenario(server: Server) -> None:
        server.model.gate = asyncio.Event()
        server.model.answers.append(LONG)
        begun = await server.create("Hi", background=True)
        check_response(begun)
        assert (begun["status"], begun["output"], begun["background"]) == ("queued", [], True)
        await server.model.reached.wait()
        half = await server.get(f"/v1/responses/{begun['id']}")
        check_response(half)
        assert half["status"] == "in_progress"
        assert half["output"][0]["content"][0]["text"] == "one"
        answer = await server.post("/v1/responses", {"input": "x", "previous_response_id": begun["id"]})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "previous_response_id")
        server.model.gate.set()
        done = await ended(server, begun["id"])
        assert done["status"] == "completed"
        assert check_response(done).output_text == LONG
        assert done["id"] == begun["id"]
        again = await server.post(f"/v1/responses/{begun['id']}/cancel")
        assert again.json() == done, "what has ended stays as it is"
        await server.create("And?", previous_response_id=begun["id"])
        assert server.shown()[1] == ("assistant", LONG)

    run(tmp_path, scenario)


def test_cancelling_frees_the_model_at_once(tmp_path: Path) -> None:
    async def scenario(server: Server) -> None:
        server.model.gate = asyncio.Event()
        server.model.answers.append(LONG)
        begun = await server.create("Hi", background=True)
        await server.model.reached.wait()
        body = (await server.post(f"/v1/responses/{begun['id']}/cancel")).json()
        assert server.model.n_open == 0
        check_response(body)
        assert body["status"] == "cancelled"
        assert [item["status"] for item in body["output"]] == ["incomplete"]
        assert await server.get(f"/v1/responses/{begun['id']}") == body
        assert (await server.post(f"/v1/responses/{begun['id']}/cancel")).json() == body

    run(tmp_path, scenario)


def test_what_is_not_in_the_background_can_t_be_cancelled(tmp_path: Path) -> None:
    async def scenario(server: Server) -> None:
        body = await server.create("Hi")
        answer = await server.post(f"/v1/responses/{body['id']}/cancel")
        assert answer.status_code == 400
        assert "background" in answer.json()["error"]["message"]

    run(tmp_path, scenario)


def test_deleting_cancels(tmp_path: Path) -> None:
    async def scenario(server: Server) -> None:
        server.model.gate = asyncio.Event()
        begun = await server.create("Hi", background=True)
        await server.model.reached.wait()
        assert (await server.client.delete(f"/v1/responses/{begun['id']}")).status_code == 200
        assert server.model.n_open == 0
        assert (await server.client.get(f"/v1/responses/{begun['id']}")).status_code == 404

    run(tmp_path, scenario)


def test_what_fails_says_why(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(server: Server) -> None:
        server.model.answers.append(WorkerCrashedError("The worker is gone."))
        begun = await server.create("Hi", background=True)
        failed = await ended(server, begun["id"])
        assert (failed["status"], failed["error"]["message"]) == ("failed", "The worker is gone.")
        server.model.answers.append(RuntimeError("secret"))
        begun = await server.create("Hi", background=True)
        failed = await ended(server, begun["id"])
        assert failed["status"] == "failed"
        assert "secret" not in failed["error"]["message"]

    with caplog.at_level(logging.ERROR):
        run(tmp_path, scenario)
    assert "secret" in caplog.text


def test_only_so_many_at_once(tmp_path: Path) -> None:
    async def scenario(server: Server) -> None:
        server.model.gate = asyncio.Event()
        asking = [server.post("/v1/responses", {"input": "Hi", "background": True}) for _ in range(5)]
        answers = await asyncio.gather(*asking)
        assert sorted(answer.status_code for answer in answers) == [200, 200, 503, 503, 503]
        [full] = {answer.headers.get("retry-after") for answer in answers if answer.status_code == 503}
        assert full is not None
        begun = [answer.json()["id"] for answer in answers if answer.status_code == 200]
        server.model.gate.set()
        check_response(await server.create("Hi", store=False))
        for response_id in begun:
            assert (await ended(server, response_id))["status"] == "completed"
        check_response(await server.create("Hi", background=True))

    run(tmp_path, scenario, max_background=2)


def test_a_stream_goes_on_without_its_reader_and_can_be_followed_again(tmp_path: Path) -> None:
    async def scenario(server: Server) -> None:
        server.model.gate = asyncio.Event()
        server.model.answers.append(LONG)
        reading = asyncio.create_task(server.stream("Hi", background=True))
        await server.model.reached.wait()
        [response_id] = [key[2] for key in server.store._records]  # type: ignore[union-attr]
        following = asyncio.create_task(server.client.get(f"/v1/responses/{response_id}?stream=true&starting_after=2"))
        reading.cancel()
        await asyncio.wait([reading])
        assert server.model.n_open == 1
        server.model.gate.set()
        rest = read_stream(await following)
        assert [event["sequence_number"] for event in rest] == list(range(3, 3 + len(rest)))
        whole = read_stream(await server.client.get(f"/v1/responses/{response_id}?stream=true"))
        assert whole[3:] == rest
        final = check_stream(whole, background=True)
        assert final == await server.get(f"/v1/responses/{response_id}")
        answer = await server.client.get(f"/v1/responses/{response_id}?stream=true&starting_after=-1")
        assert answer.json()["error"]["param"] == "starting_after"

    run(tmp_path, scenario)


def test_what_was_created_without_a_stream_has_none(tmp_path: Path) -> None:
    async def scenario(server: Server) -> None:
        for fields in ({"background": True}, {}):
            body = await server.create("Hi", **fields)
            answer = await server.client.get(f"/v1/responses/{body['id']}?stream=true")
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "stream")

    run(tmp_path, scenario)


def test_only_the_last_streams_are_remembered(tmp_path: Path) -> None:
    async def scenario(server: Server) -> None:
        first = check_stream(await server.stream("Hi", background=True), background=True)
        for _ in range(16):
            last = check_stream(await server.stream("Hi", background=True), background=True)
        assert (await server.client.get(f"/v1/responses/{first['id']}?stream=true")).status_code == 400
        assert (await server.client.get(f"/v1/responses/{last['id']}?stream=true")).status_code == 200

    run(tmp_path, scenario)


def test_a_cancelled_stream_ends(tmp_path: Path) -> None:
    async def scenario(server: Server) -> None:
        server.model.gate = asyncio.Event()
        reading = asyncio.create_task(server.stream("Hi", background=True))
        await server.model.reached.wait()
        [response_id] = [key[2] for key in server.store._records]  # type: ignore[union-attr]
        await server.post(f"/v1/responses/{response_id}/cancel")
        events = await reading
        assert events[-1]["response"]["status"] == "cancelled"

    run(tmp_path, scenario)


def test_nobody_cancels_or_follows_another_s(tmp_path: Path) -> None:
    async def scenario(server: Server) -> None:
        server.model.gate = asyncio.Event()
        reading = asyncio.create_task(server.stream("Hi", background=True, headers=ADA))
        await server.model.reached.wait()
        [response_id] = [key[2] for key in server.store._records]  # type: ignore[union-attr]
        for method, path in (("POST", "/cancel"), ("GET", ""), ("GET", "?stream=true"), ("DELETE", "")):
            answer = await server.client.request(method, f"/v1/responses/{response_id}{path}", headers=BOB)
            assert answer.status_code == 404
        assert server.model.n_open == 1
        server.model.gate.set()
        assert (await reading)[-1]["type"] == "response.completed"

    run(tmp_path, scenario, config=KEYS)


def test_a_server_that_ends_marks_what_it_did_not_finish(tmp_path: Path) -> None:
    store = MemoryStore()

    async def scenario() -> None:
        async with serving(tmp_path, store=store) as server:
            server.model.gate = asyncio.Event()
            begun = await server.create("Hi", background=True)
            await server.model.reached.wait()
        assert server.model.n_open == 0
        async with serving(tmp_path, store=store) as server:
            failed = await server.get(f"/v1/responses/{begun['id']}")
            check_response(failed)
            assert failed["status"] == "failed"
            assert "shut down" in failed["error"]["message"]

    asyncio.run(scenario())


def test_what_a_killed_server_left_has_failed_too(tmp_path: Path) -> None:
    """Killed: there was no time to write anything down."""
    store = MemoryStore()

    async def scenario() -> None:
        async with serving(tmp_path, store=store) as server:
            server.model.gate = asyncio.Event()
            begun = await server.create("Hi", background=True)
            left = dict(store._records)
        store._records = left
        async with serving(tmp_path, store=store) as server:
            failed = await server.get(f"/v1/responses/{begun['id']}")
            check_response(failed)
            assert failed["status"] == "failed"
            again = await server.post(f"/v1/responses/{begun['id']}/cancel")
            assert again.json() == failed
            await server.create("Again", previous_response_id=begun["id"])
            assert server.shown() == [("user", "Hi"), ("user", "Again")]

    asyncio.run(scenario())


def test_what_is_wrong_is_refused_at_once(tmp_path: Path) -> None:
    async def scenario(server: Server) -> None:
        for fields in (
            {"tool_choice": "required"},
            {"n": 2},
            {"previous_response_id": "resp_1"},
            {"conversation": "c"},
        ):
            answer = await server.post("/v1/responses", {"input": "Hi", "background": True, **fields})
            assert answer.status_code in (400, 404)
        requests: list[GenerateRequest] = server.model.requests
        assert requests == []
        assert server.store._records == {}  # type: ignore[union-attr]

    run(tmp_path, scenario)


def test_streams_that_ended_are_bounded_in_events_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(server: Server) -> None:
        events = await server.stream("Hi", background=True)
        monkeypatch.setattr("localllm_responses.jobs._KEPT_EVENTS", 2 * len(events))
        second = check_stream(await server.stream("Hi", background=True), background=True)
        first = events[0]["response"]
        assert read_stream(await server.client.get(f"/v1/responses/{first['id']}?stream=true")) == events
        server.model.answers.append(" ".join("x" * 200))
        long = check_stream(await server.stream("Hi", background=True), background=True)
        for gone in (first, second):
            assert (await server.client.get(f"/v1/responses/{gone['id']}?stream=true")).status_code == 400
        again = read_stream(await server.client.get(f"/v1/responses/{long['id']}?stream=true"))
        assert check_stream(again, background=True) == long, "the last is there, however long it is"

    run(tmp_path, scenario)


def test_of_a_job_that_ended_only_its_stream_is_kept(tmp_path: Path) -> None:
    async def scenario(server: Server) -> None:
        text = "said in this test only"  # other modules may hold prompts for ever
        final = check_stream(await server.stream(text, background=True), background=True)
        assert (await server.client.get(f"/v1/responses/{final['id']}?stream=true")).status_code == 200
        server.model.requests.clear()
        gc.collect()
        held = [one for one in gc.get_objects() if isinstance(one, ChatPrompt) and text in str(one.messages)]
        assert held == [], "a conversation is held for a stream that only says how it ended"

    run(tmp_path, scenario)


class SlowStore(MemoryStore):
    """Takes its time to write what is completed; ``writing`` tells that it has begun, ``go_on`` lets it end."""

    def __init__(self) -> None:
        super().__init__()
        self.writing = asyncio.Event()
        self.go_on = asyncio.Event()

    async def put_records(self, owner: str, records: Sequence[Record]) -> None:
        await super().put_records(owner, records)
        if any(record.body.get("response", {}).get("status") == "completed" for record in records):
            self.writing.set()
            await self.go_on.wait()


def test_what_is_being_kept_is_no_longer_cancelled(tmp_path: Path) -> None:
    store = SlowStore()

    async def scenario(server: Server) -> None:
        conversation = (await server.post("/v1/conversations", {})).json()["id"]
        begun = await server.create("Hi", background=True, conversation=conversation)
        await store.writing.wait()
        cancelling = asyncio.create_task(server.post(f"/v1/responses/{begun['id']}/cancel"))
        polled = await server.get(f"/v1/responses/{begun['id']}")
        assert polled["status"] == "in_progress"
        store.go_on.set()
        answered = (await cancelling).json()
        assert answered["status"] == "completed"
        assert answered == await server.get(f"/v1/responses/{begun['id']}")
        items = (await server.get(f"/v1/conversations/{conversation}/items"))["data"]
        assert items[0] == answered["output"][0]

    run(tmp_path, scenario, store=store)
