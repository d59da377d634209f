"""``localllm models pull``, ``rm`` and ``list --available``, as a user types them; no server runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from rich.console import Console

from localllm.cli.pull_display import PullDisplay
from localllm.contract.fetch import PullProgress, PullStatus
from tests.cli.kit import run
from tests.models.fetch.kit import Handler, Request, breaking_off, good, in_turn, model_bytes, serving, sha256

pytestmark = pytest.mark.usefixtures("nobody_serves")

DATA = model_bytes(8)


@pytest.fixture
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("elsewhere") / "mine.gguf"
    path.write_bytes(DATA)
    return path


def test_pull_a_file_list_it_and_remove_it(home: Path, mine: Path) -> None:
    output = run("models", "pull", f"file:{mine}").output
    assert "mine: " in output
    assert "unverified" in output
    assert (home / "models/chat/mine.gguf").read_bytes() == DATA
    assert "mine *" in run("models", "list").output
    assert "is there already" in run("models", "pull", f"file:{mine}").output
    assert "removed mine" in run("models", "rm", "mine", "--yes").output
    assert not (home / "models/chat/mine.gguf").exists()
    assert mine.exists()


def test_pull_over_http_with_a_hash_id_and_kind(home: Path) -> None:
    (home / "localllm.toml").write_text(
        '[models]\npull_private_hosts = true\npull_http_hosts = ["127.0.0.1"]\npull_reserve_megabytes = 0\n'
    )
    with serving() as server:
        server.routes["/m.gguf"] = good(DATA)
        source = f"{server.origin}/m.gguf#sha256={sha256(DATA)}"
        result = run("models", "pull", source, "--id", "small", "--kind", "embedding", "--json")
    document = json.loads(result.stdout)
    assert (document["model_id"], document["kind"], document["verified"]) == ("small", "embedding", True)
    assert (home / "models/embedding/small.gguf").read_bytes() == DATA


def test_pull_by_a_name_of_the_catalogue(home: Path, mine: Path) -> None:
    (home / "more.toml").write_text(f'[tiny-thing]\nsource = "file:{mine}"\nabout = "mine"\n')
    option = ("--set", "models.catalogue=more.toml")
    listed = run("models", "list", "--available", *option).output
    assert "tiny-thing" in listed
    assert "qwen3-0.6b" in listed
    run("models", "pull", "Tiny-Thing", *option)
    assert (home / "models/chat/tiny-thing.gguf").read_bytes() == DATA
    rows = json.loads(run("models", "list", "--available", "--json", *option).output)["data"]
    assert {row["name"]: row["present"] for row in rows}["tiny-thing"] is True
    assert all(row["source"] for row in rows)


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("nonsense",), 2, "'nonsense' can't be fetched: give a name of"),
        (("file:/nonexistent/x.gguf",), 1, "is not there"),
        (("https://127.0.0.1/x.gguf",), 1, "models.pull_private_hosts"),
        (("http://127.0.0.1/x.gguf",), 1, "models.pull_http_hosts"),
        (("https://a@b/x.gguf",), 1, "user name"),
        (("file:relative.gguf",), 2, "no absolute path"),
        (("file:/x.gguf", "--kind", "image"), 2, "--kind must be one of chat, embedding, reranker"),
        (("file:/x.gguf", "--id", "../x"), 2, "can't be the id"),
    ],
)
def test_what_can_not_be_pulled(home: Path, arguments: tuple[str, ...], code: int, sentence: str) -> None:
    assert sentence in " ".join(run("models", "pull", *arguments, code=code).output.split())
    document = json.loads(run("models", "pull", *arguments, "--json", code=code).stdout)
    assert sentence in document["error"]["message"]


def test_a_broken_catalogue_is_a_wrong_configuration(home: Path) -> None:
    (home / "more.toml").write_text("[a")
    output = run("models", "list", "--available", "--set", "models.catalogue=more.toml", code=2).output
    assert "models.catalogue" in output


def test_rm_asks_first(home: Path, mine: Path) -> None:
    run("models", "pull", f"file:{mine}")
    output = run("models", "rm", "mine", code=1).output
    assert "Remove mine (" in output
    assert str(home / "models/chat/mine.gguf") in output.replace("\n", "")
    assert (home / "models/chat/mine.gguf").exists()


def test_rm_leaves_alone_what_is_not_ours(home: Path, mine: Path) -> None:
    (home / "localllm.toml").write_text(f'[models.define.theirs]\npath = "{mine}"\n')
    assert "remove it where it lies" in run("models", "rm", "theirs", "--yes", code=2).output
    assert mine.exists()
    assert "There is no model 'nobody'" in run("models", "rm", "nobody", "--yes", code=2).output


def test_the_display_on_a_terminal_and_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    moments = [
        PullProgress(PullStatus.RESOLVING),
        PullProgress(PullStatus.DOWNLOADING, "[bold]a.gguf", 10, 100),
        PullProgress(PullStatus.DOWNLOADING, "[bold]a.gguf", 50, 100),
        PullProgress(PullStatus.VERIFYING, None, 100, 100),
    ]
    terminal = Console(force_terminal=True, width=100, record=True)
    with PullDisplay(terminal) as display:
        for moment in moments:
            display.show(moment)
        display._bar.refresh()
    assert "100/100 bytes" in capsys.readouterr().out
    with PullDisplay(Console(force_terminal=False)) as display:
        for moment in moments:
            display.show(moment)
    assert capsys.readouterr().out.splitlines() == ["resolving", "downloading [bold]a.gguf", "verifying"]


@pytest.mark.process
def test_ctrl_c_keeps_what_came_and_pulling_again_goes_on(home: Path) -> None:
    """The whole process group gets the signal, as from a terminal; the fetching process must not answer it itself."""
    (home / "localllm.toml").write_text(
        '[models]\npull_private_hosts = true\npull_http_hosts = ["127.0.0.1"]\npull_reserve_megabytes = 0\n'
    )
    data = model_bytes(64)
    reached, opened = threading.Event(), threading.Event()

    def gate(handler: Handler, request: Request) -> None:
        reached.set()  # with the offset that it asks for it says what is on the disk
        opened.wait(50)

    with serving() as server:
        server.routes["/m.gguf"] = in_turn(breaking_off(data, 20_000), gate, good(data))
        command = [sys.executable, "-m", "localllm", "models", "pull", f"{server.origin}/m.gguf"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True, text=True) as process:
            assert process.stderr is not None
            assert reached.wait(50)
            os.killpg(process.pid, signal.SIGINT)
            assert "pull again to go on" in process.stderr.read()
            assert process.wait(20) == 130
        opened.set()
        run("models", "pull", f"{server.origin}/m.gguf")
        assert [request.offset for request in server.requests] == [None, 20_000, 20_000]
    assert (home / "models/chat/m.gguf").read_bytes() == data
