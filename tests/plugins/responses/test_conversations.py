"""``/v1/conversations``: items in their order, whoever adds them, and responses that go on with them in turn."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from openai.types.conversations import Conversation, ConversationDeletedResource, ConversationItemList

from localllm.contract.sessions import Record
from localllm.testing.sessions import MemoryStore
from tests.openai.responses.wire_spec import check_no_extra, check_response, check_stream
from tests.plugins.responses.kit import ADA, BOB, KEYS, Server, run


async def begin(server: Server, *said: str, headers: Any = None, **fields: Any) -> str:
    items = [{"role": "user", "content": text} for text in said]
    answer = await server.post("/v1/conversations", {"items": items, **fields}, headers=headers)
    assert answer.status_code == 200, answer.text
    check_no_extra(Conversation.model_validate(answer.json(), strict=True))
    return str(answer.json()["id"])


async def listed(server: Server, identity: str, **query: Any) -> list[dict[str, Any]]:
    page = await server.get(f"/v1/conversations/{identity}/items", params={"order": "asc", **query})
    check_no_extra(ConversationItemList.model_validate(page, strict=True))
    return list(page["data"])


def texts(items: list[dict[str, Any]]) -> list[str]:
    return [item["content"][0]["text"] for item in items]


def test_a_conversation_from_its_beginning_to_its_end(tmp_path: Path) -> None:
    async def scenario(server: Server) -> None:
        identity = await begin(server, "One", metadata={"topic": "x"})
        path = f"/v1/conversations/{identity}"
        assert (await server.get(path))["metadata"] == {"topic": "x"}
        changed = (await server.post(path, {"metadata": {"topic": "y"}})).json()
        assert changed == await server.get(path)
        assert changed["metadata"] == {"topic": "y"}
        assert (await server.post(path, {"metadata": None})).json()["metadata"] == {}
        gone = (await server.client.delete(path)).json()
        check_no_extra(ConversationDeletedResource.model_validate(gone, strict=True))
        for method, below in (("GET", ""), ("DELETE", ""), ("POST", ""), ("GET", "/items"), ("POST", "/items")):
            body = {"json": {"metadata": {}, "items": [{"role": "user", "content": "x"}]}} if method == "POST" else {}
            answer = await server.client.request(method, path + below, **body)
            assert answer.status_code == 404
            assert answer.json()["error"]["code"] == "conversation_not_found"

    run(tmp_path, scenario)


@pytest.mark.parametrize("keeps", [True, False])
def test_responses_go_on_with_it_and_are_added_to_it(tmp_path: Path, keeps: bool) -> None:
    async def scenario(server: Server) -> None:
        identity = await begin(server, "I am Ada.")
        first = await server.create("Who am I?", conversation=identity, store=keeps, instructions="Be brief.")
        check_response(first)
        assert first["conversation"] == {"id": identity}
        check_stream(await server.stream("Sure?", conversation={"id": identity}, store=keeps))
        assert server.shown() == [
            ("user", "I am Ada."),
            ("user", "Who am I?"),
            ("assistant", "Hello there"),
            ("user", "Sure?"),
        ]
        items = await listed(server, identity)
        assert texts(items) == ["I am Ada.", "Who am I?", "Hello there", "Sure?", "Hello there"]
        assert items[2] == first["output"][0]
        assert len({item["id"] for item in items}) == 5
        assert server.model.requests[-1].keep

    run(tmp_path, scenario)


def test_items_are_added_listed_fetched_and_removed(tmp_path: Path) -> None:
    async def scenario(server: Server) -> None:
        identity = await begin(server)
        path = f"/v1/conversations/{identity}/items"
        more = [
            {"role": "user", "content": "1"},
            {"role": "assistant", "content": "2"},
            {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "call_1", "output": "3"},
        ]
        added = (await server.post(path, {"items": more})).json()
        check_no_extra(ConversationItemList.model_validate(added, strict=True))
        assert [item["type"] for item in added["data"]] == [
            "message",
            "message",
            "function_call",
            "function_call_output",
        ]
        assert await listed(server, identity) == added["data"]
        newest = await server.get(path, params={"limit": "1"})
        assert (newest["data"], newest["has_more"]) == (added["data"][-1:], True)
        after = await server.get(path, params={"after": newest["last_id"]})
        assert after["data"] == added["data"][-2::-1]
        one = added["data"][1]
        assert await server.get(f"{path}/{one['id']}") == one
        answer = await server.client.delete(f"{path}/{one['id']}")
        assert answer.json()["id"] == identity
        assert (await server.client.get(f"{path}/{one['id']}")).json()["error"]["code"] == "item_not_found"
        assert await listed(server, identity) == [item for item in added["data"] if item != one]
        await server.post(path, {"items": [{"role": "user", "content": "last"}]})
        assert texts([(await listed(server, identity))[-1]]) == ["last"]

    run(tmp_path, scenario)


def test_an_item_belongs_to_one_conversation(tmp_path: Path) -> None:
    async def scenario(server: Server) -> None:
        first, second = await begin(server, "One"), await begin(server, "Two")
        [item] = await listed(server, first)
        for method in ("GET", "DELETE"):
            answer = await server.client.request(method, f"/v1/conversations/{second}/items/{item['id']}")
            assert answer.status_code == 404
        answer = await server.client.get(f"/v1/conversations/{second}/items", params={"after": item["id"]})
        assert (answer.status_code, answer.json()["error"]["param"]) == (404, "after")
        reference = {"type": "item_reference", "id": item["id"]}
        await server.post(f"/v1/conversations/{second}/items", {"items": [reference]})
        assert texts(await listed(server, second)) == ["Two", "One"]
        assert await listed(server, first) == [item], "what is referred to is copied"

    run(tmp_path, scenario)


def test_two_responses_at_once_come_one_after_the_other(tmp_path: Path) -> None:
    async def scenario(server: Server) -> None:
        identity = await begin(server)
        server.model.gate = asyncio.Event()
        asking = [asyncio.create_task(server.create(str(n), conversation=identity)) for n in range(3)]
        await server.model.reached.wait()
        assert len(server.model.requests) == 1
        leaving = asyncio.create_task(server.create("left", conversation=identity))
        await asyncio.sleep(0)
        leaving.cancel()
        server.model.gate.set()
        await asyncio.gather(*asking)
        said = texts(await listed(server, identity))
        assert said[1::2] == ["Hello there"] * 3, "questions and answers are never mixed"
        assert sorted(said[::2]) == ["0", "1", "2"]
        assert len(server.shown()) == 5

    run(tmp_path, scenario)


class MeetingStore(MemoryStore):
    """Ends no write of a finished response before another one has begun, as a store that commits both at once."""

    def __init__(self) -> None:
        super().__init__()
        self.meeting = asyncio.Barrier(2)

    async def put_records(self, owner: str, records: Sequence[Record]) -> None:
        if any(record.kind == "response" for record in records):
            await self.meeting.wait()
        await super().put_records(owner, records)


@pytest.mark.parametrize("has_conversations", [False, True])
def test_what_has_nothing_in_common_is_kept_at_once(tmp_path: Path, has_conversations: bool) -> None:
    store = MeetingStore()

    async def scenario(server: Server) -> None:
        fields = [{"conversation": await begin(server)} if has_conversations else {} for _ in range(2)]
        done = await asyncio.gather(*[server.create("Hi", **one) for one in fields])
        assert [one["status"] for one in done] == ["completed", "completed"]

    run(tmp_path, scenario, store=store)


def test_a_conversation_that_is_deleted_meanwhile_stays_deleted(tmp_path: Path) -> None:
    async def scenario(server: Server) -> None:
        identity = await begin(server, "One")
        server.model.gate = asyncio.Event()
        asking = asyncio.create_task(server.post("/v1/responses", {"input": "Two", "conversation": identity}))
        await server.model.reached.wait()
        assert (await server.client.delete(f"/v1/conversations/{identity}")).status_code == 200
        server.model.gate.set()
        assert (await asking).status_code == 404
        assert server.store._records == {}  # type: ignore[union-attr]

    run(tmp_path, scenario)


def test_what_fails_or_is_cancelled_is_not_added(tmp_path: Path) -> None:
    async def scenario(server: Server) -> None:
        identity = await begin(server, "One")
        server.model.gate = asyncio.Event()
        begun = await server.create("Two", conversation=identity, background=True)
        await server.model.reached.wait()
        await server.post(f"/v1/responses/{begun['id']}/cancel")
        assert texts(await listed(server, identity)) == ["One"]

    run(tmp_path, scenario)


def test_nobody_sees_another_s(tmp_path: Path) -> None:
    async def scenario(server: Server) -> None:
        hers = await begin(server, "One", headers=ADA)
        [item] = (await server.get(f"/v1/conversations/{hers}/items", headers=ADA))["data"]
        absent = "conv_" + "0" * 32
        calls: list[tuple[str, str, Any]] = [
            ("GET", "", None),
            ("POST", "", {"metadata": {}}),
            ("DELETE", "", None),
            ("GET", "/items", None),
            ("POST", "/items", {"items": [{"role": "user", "content": "x"}]}),
            ("GET", f"/items/{item['id']}", None),
            ("DELETE", f"/items/{item['id']}", None),
        ]
        for method, below, body in calls:
            answers = [
                await server.client.request(method, f"/v1/conversations/{identity}{below}", json=body, headers=BOB)
                for identity in (hers, absent)
            ]
            assert [answer.status_code for answer in answers] == [404, 404]
            assert answers[0].text.replace(hers, absent) == answers[1].text
        assert (await server.get(f"/v1/conversations/{hers}/items", headers=ADA))["data"] == [item]

    run(tmp_path, scenario, config=KEYS)


def test_only_the_last_items_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("localllm_responses.conversation_book.MAX_READ", 3)

    async def scenario(server: Server) -> None:
        identity = await begin(server, "1", "2", "3", "4")
        answer = await server.post("/v1/responses", {"input": "5", "conversation": identity})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "conversation")
        await server.create("5", conversation=identity, truncation="auto")
        assert [content for _, content in server.shown()] == ["2", "3", "4", "5"]

    run(tmp_path, scenario)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("", {"items": 5}, "items"),
        ("", {"items": [{"role": "x"}]}, "items[0].role"),
        ("", {"metadata": 5}, "metadata"),
        ("/conv_1", {}, "metadata"),
        ("/conv_1", {"metadata": {"a": 1}}, "metadata.a"),
        ("/conv_1/items", {}, "items"),
        ("/conv_1/items", {"items": []}, "items"),
        ("/conv_1/items", {"items": [{"type": "item_reference", "id": "msg_1"}]}, "items"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, path: str, body: dict[str, Any], param: str) -> None:
    async def scenario(server: Server) -> None:
        answer = await server.post(f"/v1/conversations{path}", body)
        assert answer.status_code in (400, 404)
        assert answer.json()["error"]["param"] == param

    run(tmp_path, scenario)
