"""What a small request may make the server read is bounded in bytes, however often it refers to it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from localllm import Record
from localllm.testing.sessions import MemoryStore
from tests.plugins.responses.kit import Server, run

BOUND = "localllm_responses.book.MAX_READ_BYTES"
CONVERSATIONS_BOUND = "localllm_responses.conversation_book.MAX_READ_BYTES"


class CountingStore(MemoryStore):
    """Counts what is read."""

    def __init__(self) -> None:
        super().__init__()
        self.n_fetched = 0
        self.most_listed = 0

    async def get_record(self, owner: str, kind: str, record_id: str) -> Record | None:
        self.n_fetched += 1
        return await super().get_record(owner, kind, record_id)

    async def list_records(self, *args: Any, **options: Any) -> Sequence[Record]:
        records = await super().list_records(*args, **options)
        self.most_listed = max(self.most_listed, len(records))
        return records


async def conversation_of(server: Server, *said: str) -> tuple[str, list[str]]:
    """Begin a conversation; return its id and its items'."""
    items = [{"role": "user", "content": text} for text in said]
    begun = (await server.post("/v1/conversations", {"items": items})).json()
    page = await server.get(f"/v1/conversations/{begun['id']}/items", params={"order": "asc", "limit": "100"})
    return begun["id"], [item["id"] for item in page["data"]]


def references(*identities: str) -> list[dict[str, Any]]:
    return [{"type": "item_reference", "id": identity} for identity in identities]


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/responses/input_tokens", "/v1/conversations"])
def test_one_large_item_can_t_be_referred_to_without_end(
    tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BOUND, 1000)

    async def scenario(server: Server) -> None:
        _, [item] = await conversation_of(server, "x" * 300)
        param = "items" if path == "/v1/conversations" else "input"
        assert (await server.post(path, {param: references(item, item)})).status_code == 200
        answer = await server.post(path, {param: references(*[item] * 3)})
        error = answer.json()["error"]
        assert (answer.status_code, error["param"], error["code"]) == (400, param, "invalid_request")
        assert "1000 bytes" in error["message"]
        assert "refer to fewer" in error["message"]

    run(tmp_path, scenario)


def test_a_response_is_fetched_once_for_all_its_items(tmp_path: Path) -> None:
    store = CountingStore()

    async def scenario(server: Server) -> None:
        items = [{"role": "user", "content": str(n)} for n in range(20)]
        two = [await server.create(items), await server.create(items)]
        pages = [await server.get(f"/v1/responses/{one['id']}/input_items", params={"order": "asc"}) for one in two]
        mixed = [item["id"] for pair in zip(*(page["data"] for page in pages), strict=True) for item in pair]
        store.n_fetched = 0
        await server.create(references(*mixed, two[0]["output"][0]["id"]))
        assert store.n_fetched == 2
        assert [content for _, content in server.shown()] == [str(n // 2) for n in range(40)] + ["Hello there"]

    run(tmp_path, scenario, store=store)


def test_an_id_that_only_looks_like_an_item_s_is_none(tmp_path: Path) -> None:
    async def scenario(server: Server) -> None:
        body = await server.create("Hi")
        there = body["output"][0]["id"]
        for identity in (there + "9", there.replace("msg_", "rs_"), there.replace("o0", "i7")):
            answer = await server.post("/v1/responses", {"input": references(identity)})
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "item_not_found")

    run(tmp_path, scenario)


def test_a_conversation_is_read_to_a_bound_of_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CONVERSATIONS_BOUND, 1000)

    async def scenario(server: Server) -> None:
        identity, ids = await conversation_of(server, *[letter * 300 for letter in "abcd"])
        assert len(ids) == 2, "a page ends with the same bound"
        answer = await server.post("/v1/responses", {"input": "e", "conversation": identity})
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (400, "conversation")
        assert "truncation" in error["message"]
        await server.create("e", conversation=identity, truncation="auto")
        assert [content[0] for _, content in server.shown()] == ["c", "d", "e"]

    run(tmp_path, scenario)


def test_pages_that_end_early_miss_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CONVERSATIONS_BOUND, 1000)

    async def scenario(server: Server) -> None:
        identity, _ = await conversation_of(server, "a" * 2000, "b", "c" * 500, "d" * 500, "e", "f")
        for order, expected in (("asc", "abcdef"), ("desc", "fedcba")):
            read, query = "", {"order": order, "limit": "100"}
            while True:
                page = await server.get(f"/v1/conversations/{identity}/items", params=query)
                read += "".join(item["content"][0]["text"][0] for item in page["data"])
                if not page["has_more"]:
                    break
                query["after"] = page["last_id"]
            assert read == expected

    run(tmp_path, scenario)


def test_a_long_conversation_is_read_in_steps(tmp_path: Path) -> None:
    store = CountingStore()

    async def scenario(server: Server) -> None:
        said = [str(n) for n in range(100)]
        identity, ids = await conversation_of(server, *said)
        assert len(ids) == 100
        await server.create("end", conversation=identity)
        assert [content for _, content in server.shown()] == [*said, "end"]
        assert store.most_listed <= 32

    run(tmp_path, scenario, store=store)


def test_a_long_key_is_not_repeated_in_the_error(tmp_path: Path) -> None:
    async def scenario(server: Server) -> None:
        for value, told in (("x", "keys of at most 64 characters"), (5, "must be a string")):
            answer = await server.post("/v1/responses", {"input": "Hi", "metadata": {"k" * 100_000: value}})
            assert answer.status_code == 400
            assert len(answer.content) < 1000
            assert told in answer.json()["error"]["message"]
            assert "[key]" not in json.dumps(answer.json())

    run(tmp_path, scenario)


def test_items_of_a_conversation_are_a_list(tmp_path: Path) -> None:
    async def scenario(server: Server) -> None:
        answer = await server.post("/v1/conversations", {"items": "Hi"})
        assert answer.status_code == 400
        assert answer.json()["error"]["message"] == 'items must be a list of items, not "Hi".'

    run(tmp_path, scenario)
