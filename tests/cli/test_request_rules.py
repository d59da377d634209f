"""``localllm check`` tells what is wrong with what a model's configuration puts into requests."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from localllm.cli import app
from localllm.cli.startup import build_catalog, read_config
from localllm.contract.generation import ChatPrompt
from localllm.contract.model import RequestRules
from tests.models.raw_gguf import RawGguf


@pytest.fixture(autouse=True)
def home(home: Path) -> Path:
    """Run every command in a folder with one model."""
    RawGguf().write(home / "models" / "chat" / "m.gguf")
    return home


FAULTS = """
[models.define.m]
defaults = { temprature = 1, max_tokens = "many" }
strip = ["max_token"]
force = { messages = [] }
[models.define.other]
path = "models/chat/m.gguf"
preload = ["fine", [{ role = "user" }]]
"""


@pytest.mark.parametrize("command", ["check", "serve"])
def test_every_fault_is_told_with_the_nearest_name(home: Path, command: str) -> None:
    (home / "localllm.toml").write_text(FAULTS)
    result = CliRunner().invoke(app, [command])
    assert result.exit_code == 2
    assert [line for line in result.stderr.splitlines() if line] == [
        "localllm.toml: models.define.m.defaults.temprature: no request has this field; did you mean temperature?",
        "localllm.toml: models.define.m.force.messages: this field can't be set here: it is what a request is about",
        'localllm.toml: models.define.m.strip: "max_token": no request has this field; did you mean max_tokens?',
        'localllm.toml: models.define.m.defaults.max_tokens: max_tokens must be an integer, but it is "many"',
        "localllm.toml: models.define.other.preload[1]: messages[0].content is required for a message of role user",
    ]


def test_sound_rules_reach_the_catalogue(home: Path) -> None:
    (home / "localllm.toml").write_text(
        '[models.define.m]\nsystem_prompt = "S"\npreload = [[{ role = "user", content = "Hi" }]]\nforce.seed = 1\n'
    )
    reading = read_config(None, [])
    reading.plugins.register(reading.config)
    spec = build_catalog(reading.config, reading.plugins).resolve("m")
    assert spec.rules == RequestRules("S", force={"seed": 1})
    assert spec.preload == (ChatPrompt(({"role": "system", "content": "S"}, {"role": "user", "content": "Hi"})),)
    assert CliRunner().invoke(app, ["check"]).exit_code == 0
