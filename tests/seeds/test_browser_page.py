"""The page at ``/`` works: its script runs in a document as browsers have it, with and without an API key."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.real_models.conftest import RunningServer, running_server
from tests.seeds.conftest import NODE_FOLDER, finished

pytestmark = [pytest.mark.real_model, pytest.mark.process]

SCRIPT = Path(__file__).with_name("node") / "browse.cjs"
QUESTION = "What is the capital of France?"


def browse(server: RunningServer, folder: Path, key: str = "") -> Any:
    (folder / "node_modules").symlink_to(NODE_FOLDER / "node_modules", target_is_directory=True)
    (folder / SCRIPT.name).write_bytes(SCRIPT.read_bytes())
    node = Path(sys.executable).with_name("node")
    return json.loads(finished([str(node), SCRIPT.name, f"{server.url}/", key, QUESTION], folder))


def test_state_and_chat(seeds: RunningServer, tmp_path: Path) -> None:
    seen = browse(seeds, tmp_path)
    assert seen["asks"] is False
    assert seen["user"] == QUESTION
    assert seen["asking"] == {"busy": "true", "focused": "text"}  # the button that is disabled would lose the focus
    assert seen["busy"] == "false"
    assert "Paris" in seen["answer"]
    assert seen["models"] == ["localllm-demo", "localllm-demo-embed", "localllm-demo-rerank"]
    assert seen["keeps"] is True  # a list that is open stays open when the state is fetched again
    assert seen["left"] == 0
    assert seen["asked"] == ["./", "v1/chat/completions"]  # nobody but this server


def test_the_page_asks_for_the_key(tmp_path: Path) -> None:
    key = "sk-test-0123456789abcdef"
    (tmp_path / "server").mkdir()
    (tmp_path / "browser").mkdir()
    with running_server(tmp_path / "server", api_key=key) as server:
        seen = browse(server, tmp_path / "browser", key)
    assert seen["asks"] is True
    assert seen["focused"] == "text"  # the form that is hidden would lose it
    assert "Paris" in seen["answer"]
