"""A model's table in lllms' words says the same as one in ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from localllm.config.definitions import check_definitions
from localllm.config.errors import ConfigError
from localllm.config.load import load_config
from localllm.contract.model import ModelDefinition
from localllm.plugin_manager import load_plugins

PRINTED = """
[models.define.phi3-mini-4k]
task = "text-completion"
engine = "node-llama-cpp"
url = "https://models.example/Phi-3-mini-4k-instruct-q4.gguf"
contextSize = 1024
maxInstances = 2
minInstances = 1
ttl = 300
completionDefaults.temperature = 1
[models.define.phi3-mini-4k.preload]
messages = [{ role = "system", content = "You are the Batman." }]
"""
OURS = """
[models.define.phi3-mini-4k]
kind = "chat"
backend = "llama_cpp"
source = "https://models.example/Phi-3-mini-4k-instruct-q4.gguf"
context_length = 1024
max_instances = 2
min_instances = 1
ttl_minutes = 5
defaults.temperature = 1
preload = [[{ role = "system", content = "You are the Batman." }]]
"""


def check(folder: Path, text: str) -> dict[str, ModelDefinition]:
    path = folder / "localllm.toml"
    path.write_text(text, encoding="utf-8")
    plugins = load_plugins()
    config = load_config(path, sections=plugins.sections)
    plugins.register(config)
    return check_definitions(config, plugins.backends, config.plugin)


def test_the_printed_example_says_what_ours_does(tmp_path: Path) -> None:
    assert check(tmp_path, PRINTED) == check(tmp_path, OURS)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("ttl = 300\nttl_minutes = 5", "models.define.m.ttl: ttl_minutes says the same; leave one of them out"),
        ("ttl = -60", "models.define.m.ttl: must be at least 0"),
        ("ttl = 'soon'", "models.define.m.ttl: must be a number"),
        ("ttl = true", "models.define.m.ttl: must be a number"),
        ("minInstances = 'x'", "models.define.m.minInstances: must be an integer"),
        ("contextSize = -1", "models.define.m.contextSize: must be at least 0"),
        ("task = 'image-to-text'", "models.define.m.task: must be one of chat, embedding, reranker"),
        ("engine = 'transformers-js'", "models.define.m.engine: no enabled plugin brings"),
        ("preload = { messages = [], documents = [] }", "models.define.m.preload: must be"),
    ],
)
def test_faults_name_the_key_as_it_is_written(tmp_path: Path, line: str, fault: str) -> None:
    with pytest.raises(ConfigError) as raised:
        check(tmp_path, f"[models.define.m]\n{line}")
    assert any(fault in problem for problem in raised.value.problems), raised.value.problems


def test_names_of_ours_are_left_alone(tmp_path: Path) -> None:
    found: Any = check(tmp_path, "[models.define.m]\nttl_minutes = 1\npreload = ['Be brief.']")["m"]
    assert found.ttl_seconds == 60
    assert [dict(message) for message in found.preload[0].messages] == [{"role": "system", "content": "Be brief."}]
