"""Whatever a server does wrong: the model in its place is byte by byte the right one, or there is none."""

from __future__ import annotations

import gzip
import itertools
import os
import re
from pathlib import Path
from typing import Any

import pytest

from localllm.contract.errors import LocalLLMError, ModelFileError
from localllm.contract.fetch import PullError, PullStatus, RemoteFile, StorageFullError
from localllm.models.fetch.connection import Dialer
from localllm.models.fetch.part import PartFile
from tests.models.fetch.kit import (
    FileServer,
    Handler,
    Pulling,
    Request,
    breaking_off,
    good,
    in_turn,
    model_bytes,
    serve_file,
    sha256,
    status,
)

DATA = model_bytes(64)
NINETY_NINE = len(DATA) * 99 // 100


def offsets(server: FileServer) -> list[int | None]:
    return [request.offset for request in server.requests]


def test_a_good_server(pulling: Pulling, server: FileServer) -> None:
    server.routes["/tiny.gguf"] = good(DATA)
    result = pulling.pull(digest=sha256(DATA))
    assert pulling.models == {"chat/tiny.gguf": DATA}
    assert (result.model_id, result.verified, result.fresh, result.size_bytes) == ("tiny", True, True, len(DATA))
    assert server.requests[0].headers["accept-encoding"] == "identity"
    assert pulling.parts == []


def test_without_a_known_hash_the_model_is_recorded_as_unverified(pulling: Pulling, server: FileServer) -> None:
    server.routes["/tiny.gguf"] = good(DATA)
    result = pulling.pull()
    assert not result.verified
    assert result.files[0].sha256 == sha256(DATA)


def test_reset_at_99_percent_goes_on_from_there(pulling: Pulling, server: FileServer) -> None:
    server.routes["/tiny.gguf"] = in_turn(breaking_off(DATA, NINETY_NINE), good(DATA))
    pulling.pull(digest=sha256(DATA))
    assert pulling.models == {"chat/tiny.gguf": DATA}
    assert offsets(server) == [None, NINETY_NINE]
    assert server.requests[1].headers["if-range"] == '"v1"'
    assert len(pulling.pauses) == 1


def test_resets_for_ever_end_in_an_error_and_keep_what_came(pulling: Pulling, server: FileServer) -> None:
    server.routes["/tiny.gguf"] = breaking_off(DATA, NINETY_NINE)
    with pytest.raises(PullError, match=f"after 4 tries.*{NINETY_NINE} bytes are kept"):
        pulling.pull(retries=3)
    assert len(server.requests) == 4
    assert pulling.pauses == sorted(pulling.pauses), "each pause is longer than the one before"
    assert [part.stat().st_size for part in pulling.parts] == [NINETY_NINE]
    assert pulling.models == {}


def test_a_later_pull_goes_on_where_the_failed_one_stopped(pulling: Pulling, server: FileServer) -> None:
    server.routes["/tiny.gguf"] = breaking_off(DATA, NINETY_NINE)
    with pytest.raises(PullError):
        pulling.pull(retries=0)
    server.routes["/tiny.gguf"] = good(DATA)
    server.requests.clear()
    pulling.pull(digest=sha256(DATA))
    assert offsets(server) == [NINETY_NINE]
    assert pulling.models == {"chat/tiny.gguf": DATA}


def test_changed_etag_between_resumes_begins_anew(pulling: Pulling, server: FileServer) -> None:
    other = model_bytes(64, fill=b"x")
    server.routes["/tiny.gguf"] = in_turn(breaking_off(DATA, NINETY_NINE), good(other, '"v2"'))
    pulling.pull()
    assert pulling.models == {"chat/tiny.gguf": other}


def test_changed_etag_is_noticed_where_the_server_does_not_know_if_range(pulling: Pulling, server: FileServer) -> None:
    other = model_bytes(64, fill=b"x")

    def ignores_if_range(handler: Handler, request: Request) -> None:
        request.headers.pop("if-range", None)
        serve_file(handler, request, other, '"v2"')

    server.routes["/tiny.gguf"] = in_turn(breaking_off(DATA, NINETY_NINE), ignores_if_range)
    pulling.pull()
    assert pulling.models == {"chat/tiny.gguf": other}
    assert offsets(server) == [None, NINETY_NINE, None]


def test_what_has_neither_etag_nor_date_nor_hash_is_never_continued(pulling: Pulling, server: FileServer) -> None:
    server.routes["/tiny.gguf"] = in_turn(breaking_off(DATA, NINETY_NINE, etag=None), good(DATA, etag=None))
    pulling.pull()
    assert offsets(server) == [None, None]
    assert pulling.models == {"chat/tiny.gguf": DATA}


def test_a_weak_etag_is_no_validator(pulling: Pulling, server: FileServer) -> None:
    server.routes["/tiny.gguf"] = in_turn(breaking_off(DATA, 5000, etag='W/"v1"'), good(DATA))
    pulling.pull()
    assert offsets(server) == [None, None]


def test_206_from_a_wrong_offset_is_refused(pulling: Pulling, server: FileServer) -> None:
    def shifted(handler: Handler, request: Request) -> None:
        offset = (request.offset or 0) + 100
        span = f"bytes {offset}-{len(DATA) - 1}/{len(DATA)}"
        handler.head(206, {"Content-Length": str(len(DATA) - offset), "Content-Range": span, "ETag": '"v1"'})
        handler.wfile.write(DATA[offset:])

    server.routes["/tiny.gguf"] = in_turn(breaking_off(DATA, NINETY_NINE), shifted, good(DATA))
    pulling.pull()
    assert pulling.models == {"chat/tiny.gguf": DATA}
    assert offsets(server) == [None, NINETY_NINE, None]


@pytest.mark.parametrize("span", [None, "bytes 0-9/10", "bytes */70000", "nonsense"])
def test_206_that_nobody_asked_for_is_refused(pulling: Pulling, server: FileServer, span: str | None) -> None:
    def partial(handler: Handler, request: Request) -> None:
        handler.head(206, {"Content-Length": "10", **({"Content-Range": span} if span else {})})
        handler.wfile.write(DATA[:10])

    server.routes["/tiny.gguf"] = partial
    with pytest.raises(PullError, match="a piece that nobody asked for"):
        pulling.pull(retries=1)
    assert pulling.models == {}


def test_416_begins_anew(pulling: Pulling, server: FileServer) -> None:
    shorter = model_bytes(16)
    server.routes["/tiny.gguf"] = in_turn(breaking_off(DATA, NINETY_NINE), status(416), good(shorter, '"v2"'))
    pulling.pull()
    assert pulling.models == {"chat/tiny.gguf": shorter}


@pytest.mark.parametrize("delta", [-1, 1, -30_000, 30_000])
def test_another_length_than_announced_is_refused_before_a_byte_is_taken(
    pulling: Pulling, server: FileServer, delta: int
) -> None:
    server.routes["/tiny.gguf"] = good(DATA)
    with pytest.raises(PullError, match=f"{len(DATA)} bytes there, but {len(DATA) + delta} were announced"):
        pulling.pull(size=len(DATA) + delta)
    assert pulling.models == {}


def test_a_body_that_is_shorter_than_its_length_is_never_taken_for_whole(pulling: Pulling, server: FileServer) -> None:
    def short(handler: Handler, request: Request) -> None:
        handler.head(200, {"Content-Length": str(len(DATA))})
        handler.wfile.write(DATA[:-1])

    server.routes["/tiny.gguf"] = short
    with pytest.raises(PullError, match="1 bytes early"):
        pulling.pull(retries=2)
    assert len(server.requests) == 3
    assert pulling.models == {}


def test_a_body_that_is_longer_than_its_length_is_cut_there(pulling: Pulling, server: FileServer) -> None:
    def long(handler: Handler, request: Request) -> None:
        handler.head(200, {"Content-Length": str(len(DATA))})
        handler.wfile.write(DATA + b"more" * 1000)

    server.routes["/tiny.gguf"] = long
    pulling.pull()
    assert pulling.models == {"chat/tiny.gguf": DATA}


@pytest.mark.parametrize("headers", [{}, {"Content-Length": "-5"}, {"Content-Length": "9x"}])
def test_a_body_of_unknown_length_is_refused(pulling: Pulling, server: FileServer, headers: dict[str, str]) -> None:
    def endless(handler: Handler, request: Request) -> None:
        handler.head(200, headers)
        handler.wfile.write(DATA)

    server.routes["/tiny.gguf"] = endless
    with pytest.raises(PullError, match="does not say how long"):
        pulling.pull()


def test_a_chunked_body_is_refused(pulling: Pulling, server: FileServer) -> None:
    def chunked(handler: Handler, request: Request) -> None:
        handler.head(200, {"Transfer-Encoding": "chunked"})
        handler.wfile.write(b"4\r\nGGUF\r\n0\r\n\r\n")

    server.routes["/tiny.gguf"] = chunked
    with pytest.raises(PullError, match="does not say how long"):
        pulling.pull()


def test_wrong_hash_removes_the_file(pulling: Pulling, server: FileServer) -> None:
    server.routes["/tiny.gguf"] = good(DATA)
    with pytest.raises(PullError, match=f"has the sha256 {sha256(DATA)}, but {'0' * 64} was expected"):
        pulling.pull(digest="0" * 64)
    assert pulling.models == {}
    assert pulling.parts == []
    assert len(server.requests) == 1, "what came whole and wrong comes wrong again"


def test_what_went_bad_on_our_own_disk_is_fetched_anew(pulling: Pulling, server: FileServer) -> None:
    server.routes["/tiny.gguf"] = breaking_off(DATA, NINETY_NINE)
    with pytest.raises(PullError):
        pulling.pull(retries=0)
    part = pulling.parts[0]
    part.write_bytes(b"GGUF" + bytes(part.stat().st_size - 4))
    server.routes["/tiny.gguf"] = good(DATA)
    pulling.pull(digest=sha256(DATA))
    assert pulling.models == {"chat/tiny.gguf": DATA}


def test_gzip_bomb_is_neither_unpacked_nor_taken(pulling: Pulling, server: FileServer) -> None:
    bomb = gzip.compress(bytes(50_000_000))

    def encoded(handler: Handler, request: Request) -> None:
        handler.head(200, {"Content-Length": str(len(bomb)), "Content-Encoding": "gzip"})
        handler.wfile.write(bomb)

    server.routes["/tiny.gguf"] = encoded
    with pytest.raises(PullError, match="encoded as 'gzip', which nobody asked for"):
        pulling.pull()
    assert pulling.parts == [] or pulling.parts[0].stat().st_size == 0


def test_silence_breaks_the_connection_off(pulling: Pulling, server: FileServer) -> None:
    def silent(handler: Handler, request: Request) -> None:
        handler.head(200, {"Content-Length": str(len(DATA)), "ETag": '"v1"'})
        handler.wfile.write(DATA[:1000])
        handler.wfile.flush()
        handler.rfile.read(1)  # until the client goes

    server.routes["/tiny.gguf"] = in_turn(silent, good(DATA))
    pulling.pull(stall_seconds=0.3)
    assert offsets(server) == [None, 1000]
    assert pulling.models == {"chat/tiny.gguf": DATA}


def drip(n_bytes: int) -> Any:
    """Send so many bytes one by one, each in a packet of its own, then the rest."""

    def answer(handler: Handler, request: Request) -> None:
        offset = request.offset or 0
        span = {"Content-Range": f"bytes {offset}-{len(DATA) - 1}/{len(DATA)}"} if offset else {}
        handler.head(206 if offset else 200, {"Content-Length": str(len(DATA) - offset), "ETag": '"v1"', **span})
        for index in range(offset, offset + n_bytes):
            handler.wfile.write(DATA[index : index + 1])
            handler.wfile.flush()
        handler.wfile.write(DATA[offset + n_bytes :])

    return answer


def test_a_byte_at_a_time_is_slow_but_alive(pulling: Pulling, server: FileServer) -> None:
    server.routes["/tiny.gguf"] = drip(300)
    pulling.pull(digest=sha256(DATA))
    assert pulling.models == {"chat/tiny.gguf": DATA}
    assert pulling.pauses == []


def test_slower_than_the_configured_speed_is_broken_off(pulling: Pulling, server: FileServer) -> None:
    def crawling(handler: Handler, request: Request) -> None:
        handler.head(200, {"Content-Length": str(len(DATA))})
        for index in range(1000):
            handler.wfile.write(DATA[index : index + 1])
            handler.connection.settimeout(0.05)
            try:
                handler.connection.recv(1)
                return
            except TimeoutError:
                continue

    server.routes["/tiny.gguf"] = crawling
    seconds = itertools.count()
    pulling.clock = lambda: float(next(seconds))
    with pytest.raises(PullError, match="slower than 1000 bytes a second"):
        pulling.pull(min_bytes_per_second=1000, retries=0)


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
def test_a_passing_error_is_tried_again(pulling: Pulling, server: FileServer, code: int) -> None:
    server.routes["/tiny.gguf"] = in_turn(status(code, Retry_After="7"), good(DATA))
    pulling.pull()
    assert pulling.pauses == [7.0]
    assert pulling.models == {"chat/tiny.gguf": DATA}


@pytest.mark.parametrize(("code", "hint"), [(401, "credentials"), (403, "token"), (404, "not there"), (410, "410")])
def test_a_lasting_error_is_told_at_once(pulling: Pulling, server: FileServer, code: int, hint: str) -> None:
    server.routes["/tiny.gguf"] = status(code)
    with pytest.raises(PullError, match=hint):
        pulling.pull()
    assert len(server.requests) == 1


def test_an_error_page_is_refused_by_its_first_bytes(pulling: Pulling, server: FileServer) -> None:
    page = b"<html>Please log in</html>" * 10_000

    def page_first(handler: Handler, request: Request) -> None:
        handler.head(200, {"Content-Length": str(10**12)})
        handler.wfile.write(page)

    server.routes["/tiny.gguf"] = page_first
    with pytest.raises(ModelFileError, match="is no GGUF file"):
        pulling.pull()
    assert pulling.parts == []


@pytest.mark.parametrize("cut", [100, 1])
def test_a_gguf_that_is_not_whole_is_removed(pulling: Pulling, server: FileServer, cut: int) -> None:
    server.routes["/tiny.gguf"] = good(DATA[:-cut])
    with pytest.raises(ModelFileError, match=r"tiny\.gguf can't be served"):
        pulling.pull()
    assert pulling.models == {}
    assert pulling.parts == []


def test_disk_full_is_told_before_anything_is_fetched(pulling: Pulling, server: FileServer) -> None:
    server.routes["/tiny.gguf"] = good(DATA)
    pulling.free_bytes = len(DATA) + 999
    with pytest.raises(StorageFullError, match=f"{len(DATA)} bytes are to be fetched, and 1000 stay free"):
        pulling.pull(size=len(DATA), reserve_bytes=1000)
    assert server.requests == []
    pulling.free_bytes += 1
    pulling.pull(size=len(DATA), reserve_bytes=1000)


def test_disk_full_is_told_when_the_length_is_known(pulling: Pulling, server: FileServer) -> None:
    server.routes["/tiny.gguf"] = good(DATA)
    pulling.free_bytes = len(DATA) - 1
    with pytest.raises(StorageFullError):
        pulling.pull()
    assert pulling.models == {}


def test_no_space_left_while_writing_keeps_the_part(
    pulling: Pulling, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: PartFile, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    server.routes["/tiny.gguf"] = good(DATA)
    monkeypatch.setattr(os, "fsync", lambda descriptor: full(None, b""))  # type: ignore[arg-type]
    with pytest.raises(StorageFullError, match="is full; make room, and pull again"):
        pulling.pull()
    monkeypatch.undo()
    pulling.pull()
    assert pulling.models == {"chat/tiny.gguf": DATA}


def test_a_dead_host_is_a_typed_error(pulling: Pulling, server: FileServer) -> None:
    def refused(place: tuple[str, int], timeout: float) -> Any:
        raise ConnectionRefusedError(111, "Connection refused")

    pulling.dialer = lambda rules, seconds: Dialer(rules, seconds, connect=refused)
    with pytest.raises(PullError, match="did not answer: Connection refused"):
        pulling.pull(retries=2)
    assert len(pulling.pauses) == 2


def test_progress_counts_all_files_and_ends_at_the_total(pulling: Pulling, server: FileServer) -> None:
    other = model_bytes(32)
    names = {"a-00001-of-00002.gguf": DATA, "a-00002-of-00002.gguf": other}
    server.routes |= {f"/{name}": good(data) for name, data in names.items()}
    seen = pulling.seen
    with pytest.raises(ModelFileError):  # they are no parts of one model, but that is found out at the end
        pulling.run(*(RemoteFile(name, url=f"{server.origin}/{name}") for name in names))
    assert seen[0].status is PullStatus.RESOLVING
    assert seen[-1].status is PullStatus.VERIFYING
    assert seen[-1].completed_bytes == seen[-1].total_bytes == len(DATA) + len(other)
    assert {one.file for one in seen if one.status is PullStatus.DOWNLOADING} == set(names)
    assert all(one.completed_bytes <= (one.total_bytes or one.completed_bytes) for one in seen)


def test_nothing_of_ours_is_shown_to_servers(pulling: Pulling, server: FileServer) -> None:
    server.routes["/tiny.gguf"] = good(DATA)
    pulling.pull()
    headers = server.requests[0].headers
    assert set(headers) == {"host", "user-agent", "accept-encoding"}
    assert re.fullmatch(r"127\.0\.0\.1:\d+", headers["host"])


def test_the_models_folder_that_can_not_be_written_is_a_typed_error(
    tmp_path: Path, pulling: Pulling, server: FileServer
) -> None:
    (tmp_path / "file").write_text("")
    pulling.directory = tmp_path / "file" / "models"
    with pytest.raises(LocalLLMError, match="the models' folder can't be used"):
        pulling.pull()


def test_a_source_must_say_where_a_file_lies(pulling: Pulling) -> None:
    with pytest.raises(LocalLLMError, match="must give either a URL or a path"):
        pulling.run(RemoteFile("a.gguf"))
