"""The line and the event of each request, and what never gets into them."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest

from localllm.config.schema import LogSection
from localllm.contract.events import RequestFinished
from localllm.server.log_setup import JsonFormatter, formatter, set_up_logging
from tests.server.kit import Kit, make_kit, our_log, run


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What the access logger writes, as text."""
    found: list[str] = []

    class Catch(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    logger, handler = logging.getLogger("localllm.access"), Catch()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield found
    logger.removeHandler(handler)
    logger.setLevel(level)


def ask(kit: Kit, method: str, path: str, **options: Any) -> None:
    run(kit.request(method, path, **options))


def test_a_generation(lines: list[str]) -> None:
    ask(make_kit(), "POST", "/stream", json={"model": "d"}, headers={"x-request-id": "me-1"})
    (line,) = lines
    assert re.fullmatch(
        r"POST /stream 200 request_id=me-1 model=demo prompt_tokens=5 cached_tokens=3 completion_tokens=2 "
        r"first_token_ms=[\d.]+ tokens_per_second=20\.0 finish=stop duration_ms=[\d.]+",
        line,
    )


def test_an_error(lines: list[str]) -> None:
    kit = make_kit()
    ask(kit, "POST", "/stream", json={"model": "nope"})
    (line,) = lines
    assert line.startswith("POST /stream 404 ")
    assert "finish=model_not_found" in line
    (event,) = kit.plugins.events
    assert isinstance(event, RequestFinished)
    assert (event.endpoint, event.model, event.status, event.finish) == ("stream", None, 404, "model_not_found")


@pytest.mark.parametrize(("path", "name"), [("/health", "health"), ("/", "front")])  # an open page asks again and again
def test_probes_are_silent_but_counted(lines: list[str], path: str, name: str) -> None:
    kit = make_kit()
    ask(kit, "GET", path)
    assert lines == []
    assert [event.endpoint for event in kit.plugins.events] == [name]


@pytest.mark.parametrize("path", ["/a%0Ab", "/a%1B[31mred", "/a%20200%20finish=stop", "/%E2%80%AE", "/" + "x" * 5000])
def test_a_path_can_not_forge_a_line(lines: list[str], path: str) -> None:
    kit = make_kit()
    ask(kit, "GET", path)
    (line,) = lines
    assert line.isascii()
    assert line.isprintable()
    assert len(line) < 1200
    assert len(line.split(" 404 ")) == 2
    assert kit.plugins.events[0].endpoint == "unmatched"


@pytest.mark.parametrize("given", ["a\tb", "x" * 129, "a b", "<script>", ""])
def test_odd_request_ids_are_replaced(given: str) -> None:
    response = run(make_kit().request("GET", "/health", headers={"x-request-id": given}))
    assert re.fullmatch(r"req_[0-9a-f]{24}", response.headers["x-request-id"])


def test_sane_request_ids_are_kept() -> None:
    response = run(make_kit().request("GET", "/nowhere", headers={"x-request-id": "trace:1.2_3-4"}))
    assert response.headers["x-request-id"] == "trace:1.2_3-4"


def test_prompts_and_queries_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    kit = make_kit()
    ask(kit, "POST", "/stream?q=hidden", json={"note": "hidden"})
    ask(kit, "POST", "/echo?q=hidden", content=b'{"hidden": NaN}', headers={"content-type": "application/json"})
    assert "hidden" not in our_log(caplog)
    assert "secret prompt" not in our_log(caplog)


def test_json_lines(lines: list[str]) -> None:
    logger = logging.getLogger("localllm.access")
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger.addHandler(handler)
    ask(make_kit(), "POST", "/stream", json={})
    logger.removeHandler(handler)
    line = json.loads(stream.getvalue())
    assert {"time", "level", "logger", "message", "request_id", "model", "finish", "status"} <= set(line)
    assert (line["prompt_tokens"], line["cached_tokens"], line["completion_tokens"]) == (5, 3, 2)


def test_json_lines_hold_tracebacks_on_one_line() -> None:
    try:
        raise ZeroDivisionError("x")
    except ZeroDivisionError as error:
        record = logging.LogRecord("n", logging.ERROR, "p", 1, "failed\nbadly", (), (type(error), error, None))
    text = JsonFormatter().format(record)
    assert "\n" not in text
    assert "ZeroDivisionError" in json.loads(text)["traceback"]


@pytest.mark.parametrize("format_name", ["text", "json"])
def test_set_up_logging(format_name: str) -> None:
    root, ours, aio = logging.getLogger(), logging.getLogger("localllm"), logging.getLogger("asyncio")
    before = (list(root.handlers), root.level, ours.level, list(aio.filters))
    stream = io.StringIO()
    try:
        set_up_logging(LogSection(level="warning", format=format_name), stream)
        logging.getLogger("localllm.x").info("quiet")
        logging.getLogger("localllm.x").warning("loud")
        logging.getLogger("asyncio").warning("socket.send() raised exception.")
    finally:
        root.handlers, aio.filters = before[0], before[3]
        root.setLevel(before[1])
        ours.setLevel(before[2])
    (line,) = stream.getvalue().splitlines()
    assert "loud" in line
    assert line.startswith("{") is (format_name == "json")


@pytest.mark.parametrize("format_name", ["text", "json"])
def test_what_a_model_file_says_can_neither_drive_a_terminal_nor_lose_its_line(format_name: str) -> None:
    """Workers' last words and files' names and metadata are strangers' texts."""
    record = logging.LogRecord("n", logging.ERROR, "p", 1, "%s", ("\x1b[2J\x9b\r\0\udcff é\tx\ny",), None)
    line = formatter(LogSection(format=format_name)).format(record)
    assert not set("\x1b\x9b\r\0") & set(line)
    text = line if format_name == "text" else json.loads(line)["message"]
    assert "[2J" in text
    assert "é" in text
    assert text.endswith("\tx\ny")  # tracebacks and last words keep their lines
