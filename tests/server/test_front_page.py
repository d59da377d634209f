"""``GET /``: lllms' JSON for programs; for browsers a page that needs no network, no scripts to read, and no trust."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import httpx
import pytest

from localllm.contract.fetch import PullProgress, PullStatus
from localllm.contract.model import ModelInfo, ModelSpec
from localllm.models.fetch.job import PullJob
from localllm.models.pulls import Pull
from localllm.server.front_page import prefers_html
from localllm.server.instance_report import format_bytes, format_seconds, instance_report
from tests.server.kit import CHAT, EMBEDDER, FakeHost, FakePlugins, FakeState, Kit, make_kit, run

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def get(kit: Kit, accept: str = "*/*", **headers: str) -> httpx.Response:
    return run(kit.request("GET", "/", headers={"accept": accept, **headers}))


def page_of(kit: Kit, **headers: str) -> httpx.Response:
    response = get(kit, BROWSER, **headers)
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    return response


# --- JSON ------------------------------------------------------------------------------------------------------------


def test_the_state_for_programs() -> None:
    host = FakeHost(replace(CHAT, min_instances=1, max_instances=2, settings={"n_gpu_layers": 0}))
    ready = FakeState("demo", in_flight=1, loaded_for_seconds=9.0)
    idle = FakeState("demo", number=1, unused_for_seconds=5.0, loaded_for_seconds=9.0)
    loading = FakeState("demo", "loading", number=2, info=None, waiting=3)
    failed = FakeState("demo", "failed", number=3, info=None)
    host.states = [FakeState("demo", in_flight=1, waiting=3, instances=(ready, idle, loading, failed))]
    body = instance_report(host, [], NOW)  # type: ignore[arg-type]
    pool = body["pool"]
    assert (pool["processing"], pool["pending"]) == (1, 3)
    assert list(pool["instances"]) == [f"demo:generate-{number}" for number in range(4)]
    busy, rested, preparing, broken = pool["instances"].values()
    assert rested == {
        "model": "demo",
        "status": "idle",
        "engine": "fake",
        "device": "cpu",
        "contextState": {"contextSize": 256},
        "lastUsed": "2026-01-02T03:04:00+00:00",
    }
    assert (busy["status"], busy["lastUsed"]) == ("busy", NOW.isoformat())
    assert (preparing["status"], preparing["device"], preparing["contextState"]) == ("preparing", None, None)
    assert (broken["status"], broken["lastUsed"]) == ("error", None)
    assert body["store"] == {
        "demo": {
            "engine": "fake",
            "device": "cpu",
            "minInstances": 1,
            "maxInstances": 2,
            "status": "ready",
            "downloads": [],
        }
    }


def test_what_computes_on_a_gpu() -> None:
    host = FakeHost(CHAT)
    info = ModelInfo(context_length=256, n_vocab=8, meta={"offload": {"layers": 3}})
    host.states = [FakeState("demo", info=info, instances=(FakeState("demo", info=info, loaded_for_seconds=1.0),))]
    body = instance_report(host, [], NOW)  # type: ignore[arg-type]
    assert body["pool"]["instances"]["demo:generate-0"]["device"] == "gpu"
    assert body["store"]["demo"]["device"] == "gpu"


def a_pull(source: str, *, model_id: str | None = None, **progress: Any) -> Pull:
    pull = Pull("pull-1", PullJob(source, source, "x:y", "/models", model_id=model_id))
    pull.progress = PullProgress(PullStatus.DOWNLOADING, model_id=model_id, **progress)
    return pull


def test_downloads() -> None:
    known = a_pull("hf:a/b", model_id="demo", file="b.gguf", completed_bytes=500, total_bytes=2000, speed=100.4)
    unknown = a_pull("https://host/x.gguf")
    store = instance_report(FakeHost(CHAT), [known, unknown], NOW)["store"]  # type: ignore[arg-type]
    assert store["demo"]["status"] == "ready"  # a newer version of it is on its way
    assert store["demo"]["downloads"] == [
        {
            "file": "b.gguf",
            "loadedBytes": 500,
            "formattedLoadedBytes": "500 B",
            "totalBytes": 2000,
            "formattedTotalBytes": "2.0 KB",
            "percent": 25.0,
            "speed": 100,
            "etaSeconds": 15,
            "formattedEta": "15s",
        }
    ]
    arriving = store["https://host/x.gguf"]
    assert arriving["status"] == "loading"
    assert arriving["downloads"][0]["totalBytes"] is None
    assert set(arriving["downloads"][0]) == set(store["demo"]["downloads"][0])


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 KB"), (999_999, "1.0 MB"), (4_690_000_000, "4.7 GB"), (5e15, "5000.0 TB")],
)
def test_sizes_for_people(n_bytes: int, text: str) -> None:
    assert format_bytes(int(n_bytes)) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59, "59s"), (60, "1m 0s"), (3599, "59m 59s"), (7260, "2h 1m")]
)
def test_times_for_people(seconds: int, text: str) -> None:
    assert format_seconds(seconds) == text


# --- who gets which --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (BROWSER, True),
        ("text/html", True),
        ("TEXT/HTML;level=1", True),
        ("application/json, text/html;q=0.9", False),
        ("text/html, application/json", False),
        ("text/html;q=0", False),
        ("text/html;q=x", False),
        ("*/*", False),
        ("text/*", False),
        ("application/json", False),
        ("", False),
        (";;,,", False),
    ],
)
def test_prefers_html(accept: str, expected: bool) -> None:
    assert prefers_html([accept]) is expected
    response = get(make_kit(), accept)
    assert response.headers["content-type"].startswith("text/html" if expected else "application/json")
    assert response.headers["vary"] == "accept, authorization, x-api-key"
    assert response.headers["cache-control"] == "no-store"


def test_without_the_key_nothing_is_told() -> None:
    kit = make_kit(api_keys=["sk-x"])
    assert get(kit).status_code == 401
    assert get(kit, authorization="Bearer sk-y").status_code == 401
    assert "pool" in get(kit, authorization="Bearer sk-x").json()
    locked, shown = page_of(kit).text, page_of(kit, authorization="Bearer sk-x").text
    assert "org/name:Q4" not in locked
    assert "org/name:Q4" in shown
    assert find(locked, "key-form").hidden is False
    assert find(locked, "main").hidden is True
    assert find(shown, "key-form").hidden is True
    assert find(shown, "main").hidden is False


# --- the page --------------------------------------------------------------------------------------------------------


class Element:
    """What a test asks of an element."""

    def __init__(self, attributes: dict[str, str | None]) -> None:
        self.hidden = "hidden" in attributes
        self.text = ""


class Page(HTMLParser):
    """The elements with an id, the texts of some, and every address that the page refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: dict[str, Element] = {}
        self.addresses: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.cells: list[str] = []
        self._cell = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.add(tag)
        self.attributes |= set(attributes)
        if "id" in attributes:
            self.ids[str(attributes["id"])] = Element(attributes)
        self.addresses += [str(attributes[name]) for name in ("href", "src", "action") if name in attributes]
        self._cell = tag == "td"

    def handle_data(self, data: str) -> None:
        if self._cell:
            self.cells.append(data)
            self._cell = False


def find(text: str, name: str) -> Element:
    return Page(text).ids[name]


def test_the_page_tells_the_state_without_scripts() -> None:
    kit = make_kit()
    kit.host.states = [FakeState("demo", memory_bytes=62_300_000, in_flight=1, waiting=2)]
    page = Page(page_of(kit).text)
    assert page.cells[:4] == ["demo", "chat", "ready", "62.3 MB"]
    assert "1 running, 2 waiting" in page.cells
    assert "embedder" in page.cells
    assert page.ids["chat"].hidden  # it is the script that makes it work, and shows it
    assert page.ids["downloads-section"].hidden
    assert page.ids["empty"].hidden


def test_the_page_of_an_idle_model_counts_nothing() -> None:
    kit = make_kit()
    kit.host.states = [FakeState("demo")]
    assert not [cell for cell in Page(page_of(kit).text).cells if "running" in cell or "waiting" in cell]


def test_the_page_without_a_model_says_where_one_comes_from() -> None:
    page = page_of(make_kit(plugins=FakePlugins(FakeHost(EMBEDDER))))
    assert not find(page.text, "empty").hidden
    assert "localllm models pull" in page.text


def test_the_page_needs_nothing_but_itself() -> None:
    response = page_of(make_kit())
    page = Page(response.text)
    assert set(page.addresses) == {"data:,", "docs", "v1/models", "health"}
    assert not {name for name in page.attributes if name.startswith("on") or name == "style"}
    assert not page.tags & {"img", "iframe", "object", "base"}
    policy = dict(part.strip().split(" ", 1) for part in response.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    for tag in ("script", "style"):
        [text] = re.findall(rf"<{tag}>(.*?)</{tag}>", response.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{digest}'"
    assert "http://" not in response.text
    assert "https://" not in response.text


def test_the_conversation_can_be_scrolled_by_keys_and_is_told_to_screen_readers() -> None:
    text = page_of(make_kit()).text
    assert '<div id="log" role="log" aria-label="Conversation" tabindex="0"></div>' in text
    assert "<th></th>" not in text, "a column without a name"


def test_names_cant_write_html() -> None:
    name = "<script>alert(1)</script>&\"'"
    kit = make_kit(plugins=FakePlugins(FakeHost(ModelSpec(name, "fake"))))
    text = page_of(kit).text
    assert "<script>alert" not in text
    assert Page(text).ids["model"] is not None
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&amp;&quot;&#x27;" in text


def test_no_link_to_documents_that_there_are_not() -> None:
    assert "docs" not in Page(page_of(make_kit(docs=False)).text).addresses
