"""``[models.define.NAME]`` is checked against the backend's own keys and laid over its section."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from localllm.config.definitions import check_definitions, shared_settings
from localllm.config.errors import ConfigError
from localllm.config.load import load_config
from localllm.config.schema import setting
from localllm.contract.backend import BackendSpec
from localllm.contract.model import Mode, ModelDefinition, ModelKind


@dataclass(frozen=True, slots=True)
class EngineSection:
    """An engine's keys."""

    threads: int = setting(0, "Threads.", minimum=0)
    seed: int | None = setting(None, "Seed.")
    cache: Path = setting(Path("cache"), "A folder.")

    def __post_init__(self) -> None:
        if self.threads == 13:
            message = "threads may not be 13"
            raise ValueError(message)


ENGINE = BackendSpec("engine", frozenset({Mode.GENERATE}), factory="x:y", settings=EngineSection)
PLAIN = BackendSpec("plain", frozenset({Mode.GENERATE}), factory="x:y")


def check(folder: Path, text: str, shared: Any = None) -> dict[str, ModelDefinition]:
    path = folder / "localllm.toml"
    path.write_text('[models]\nbackend = "engine"\n' + text, encoding="utf-8")
    config = load_config(path)
    return check_definitions(config, {"engine": ENGINE, "plain": PLAIN}, {"engine": shared or EngineSection()})


def test_a_models_own_keys_count_over_the_engines(tmp_path: Path) -> None:
    text = '[models.define.qwen]\npath = "q.gguf"\nkind = "embedding"\naliases = ["a", "b"]\nseed = 4'
    shared = EngineSection(threads=3, seed=1, cache=Path("/c"))
    assert check(tmp_path, text, shared) == {
        "qwen": ModelDefinition(
            id="qwen",
            backend="engine",
            path=str(tmp_path / "q.gguf"),
            kind=ModelKind.EMBEDDING,
            aliases=("a", "b"),
            settings={"threads": 3, "seed": 4, "cache": "/c"},
        )
    }


def test_shared_settings_are_the_section_or_the_engines_defaults() -> None:
    assert shared_settings(ENGINE, EngineSection(threads=2)) == {"threads": 2, "seed": None, "cache": "cache"}
    assert shared_settings(ENGINE, object()) == {"threads": 0, "seed": None, "cache": "cache"}
    assert shared_settings(PLAIN, None) == {}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[models.define.q]\nthread = 1", "models.define.q.thread: unknown key; did you mean threads?"),
        ('[models.define.q]\nalias = ["x"]', "models.define.q.alias: unknown key; did you mean aliases?"),
        ("[models.define.q]\nthreads = -1", "models.define.q.threads: must be at least 0, not -1"),
        ("[models.define.q]\nthreads = 13", "models.define.q: threads may not be 13"),
        ("[models.define.q]\npath = 1", "models.define.q.path: must be a path, not 1"),
        (
            '[models.define.q]\nkind = "chatty"',
            "models.define.q.kind: must be one of chat, embedding, reranker, not 'chatty'",
        ),
        (
            '[models.define.q]\nbackend = "engin"',
            "models.define.q.backend: no enabled plugin brings a backend named 'engin'; did you mean engine?",
        ),
        ('[models.define.q]\nbackend = "plain"\nthreads = 1', "models.define.q.threads: unknown key"),
        (
            '[models.define.a]\naliases = ["b"]\n[models.define.b]',
            "models.define.a.aliases: 'b' already names 'b'",
        ),
        (
            '[models.define.a]\naliases = ["x"]\n[models.define.b]\naliases = ["x"]',
            "models.define.b.aliases: 'x' already names 'a'",
        ),
        (
            '[models.define." "]',
            "models.define. : a model's name has 1 to 200 printable characters and no spaces around it",
        ),
    ],
)
def test_each_fault_names_its_key(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(tmp_path, text)
    assert caught.value.problems[0] == f"localllm.toml: {problem}"


def test_ids_may_hold_slashes_colons_and_dots(tmp_path: Path) -> None:
    assert list(check(tmp_path, '[models.define."org/name:q4.0"]')) == ["org/name:q4.0"]
