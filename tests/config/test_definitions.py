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
from localllm.contract.model import Mode, ModelDefinition, ModelKind, RequestRules


@dataclass(frozen=True, slots=True)
class Part:
    """A table in a list of an engine's keys."""

    file: Path | None = setting(None, "A file.")
    weight: float = setting(1.0, "A number.", maximum=2)

    def __post_init__(self) -> None:
        if self.file is None:
            message = "file is missing"
            raise ValueError(message)


@dataclass(frozen=True, slots=True)
class EngineSection:
    """An engine's keys."""

    threads: int = setting(0, "Threads.", minimum=0)
    seed: int | None = setting(None, "Seed.")
    cache: Path = setting(Path("cache"), "A folder.")
    parts: list[Part] = setting([], "Parts.")

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
            settings={"threads": 3, "seed": 4, "cache": "/c", "parts": []},
        )
    }


def test_how_a_model_is_filed_and_kept(tmp_path: Path) -> None:
    text = '[models.define.a]\ntags = ["fast", "de", "fast"]\nttl_minutes = 1.5\npinned = true\n[models.define.b]'
    found = check(tmp_path, text)
    assert (found["a"].tags, found["a"].ttl_seconds, found["a"].pinned) == (("fast", "de"), 90.0, True)
    assert (found["b"].tags, found["b"].ttl_seconds, found["b"].pinned) == ((), None, False)
    assert check(tmp_path, "[models.define.a]\nttl_minutes = 0")["a"].ttl_seconds == 0


@pytest.mark.parametrize(
    ("keys", "bounds"),
    [
        ("", (0, 1)),
        ("max_instances = 3", (0, 3)),
        ("min_instances = 2", (2, 2)),
        ("min_instances = 1\nmax_instances = 4", (1, 4)),
    ],
)
def test_how_many_instances_there_are(keys: str, bounds: tuple[int, int], tmp_path: Path) -> None:
    found = check(tmp_path, f"[models.define.a]\n{keys}")["a"]
    assert (found.min_instances, found.max_instances) == bounds


def test_what_a_model_makes_of_requests(tmp_path: Path) -> None:
    text = """
    [models.define.a]
    system_prompt = "Be kind."
    strip = ["seed", "top_k", "seed"]
    preload = ["Be terse.", [{ role = "user", content = "Hi" }, { role = "assistant", content = "Yes?" }]]
    defaults.temperature = 0.5
    defaults.chat_template_kwargs.enable_thinking = false
    force = { stop = ["a", "b"] }
    [models.define.b]
    system_prompt = ""
    """
    found = check(tmp_path, text)
    assert found["a"].rules == RequestRules(
        "Be kind.",
        {"temperature": 0.5, "chat_template_kwargs": {"enable_thinking": False}},
        ("seed", "top_k"),
        {"stop": ["a", "b"]},
    )
    assert [prompt.messages for prompt in found["a"].preload] == [
        ({"role": "system", "content": "Be terse."},),
        ({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}),
    ]
    assert (found["b"].rules, found["b"].preload) == (RequestRules(), ())


def test_tables_in_lists_are_checked_like_sections(tmp_path: Path) -> None:
    text = '[models.define.q]\nparts = [{ file = "a.bin" }, { file = "/b", weight = 2 }]'
    found = check(tmp_path, text)["q"].settings["parts"]
    assert found == [{"file": str(tmp_path / "a.bin"), "weight": 1.0}, {"file": "/b", "weight": 2.0}]


def test_shared_settings_are_the_section_or_the_engines_defaults() -> None:
    expected = {"threads": 2, "seed": None, "cache": "cache", "parts": []}
    assert shared_settings(ENGINE, EngineSection(threads=2)) == expected
    assert shared_settings(ENGINE, object()) == {**expected, "threads": 0}
    assert shared_settings(PLAIN, None) == {}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[models.define.q]\nthread = 1", "models.define.q.thread: unknown key; did you mean threads?"),
        ('[models.define.q]\ntags = [""]', "models.define.q.tags: '': a tag has 1 to 64 printable characters"),
        (
            f'[models.define.q]\ntags = ["{"x" * 65}"]',
            f"models.define.q.tags: {'x' * 65!r}: a tag has 1 to 64 printable characters",
        ),
        (
            "[models.define.q]\nmin_instances = 3\nmax_instances = 2",
            "models.define.q.max_instances: must be at least min_instances (3), not 2",
        ),
        ("[models.define.q]\nmax_instances = 0", "models.define.q.max_instances: must be at least 1, not 0"),
        ("[models.define.q]\nmin_instances = -1", "models.define.q.min_instances: must be at least 0, not -1"),
        (
            "[models.define.q]\nmax_instance = 1",
            "models.define.q.max_instance: unknown key; did you mean max_instances?",
        ),
        ("[models.define.q]\nttl_minutes = -1", "models.define.q.ttl_minutes: must be at least 0, not -1.0"),
        ('[models.define.q]\nalias = ["x"]', "models.define.q.alias: unknown key; did you mean aliases?"),
        ('[models.define.q]\ndefaults = "x"', "models.define.q.defaults: must be a table, not 'x'"),
        ("[models.define.q]\nstrip = [1]", "models.define.q.strip: must be a string, not 1"),
        ("[models.define.q]\npreload = [1]", "models.define.q.preload: must be a string or a list of tables, not 1"),
        (
            "[models.define.q]\npreload = [[1]]",
            "models.define.q.preload: must be a string or a list of tables, not [1]",
        ),
        ("[models.define.q]\nparts = [1]", "models.define.q.parts: must be a table, not 1"),
        ("[models.define.q]\nparts = [{}]", "models.define.q.parts: file is missing"),
        (
            '[models.define.q]\nparts = [{ file = "a", weigth = 1 }]',
            "models.define.q.parts: weigth: unknown key; did you mean weight?",
        ),
        (
            '[models.define.q]\nparts = [{ file = "a", weight = 3 }]',
            "models.define.q.parts: weight: must be at most 2, not 3.0",
        ),
        ("[models.define.q]\nsystem_prompt = 1", "models.define.q.system_prompt: must be a string, not 1"),
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


def test_where_a_model_is_fetched_from(tmp_path: Path) -> None:
    found = check(tmp_path, '[models.define.a]\nsource = "hf:org/repo:Q4_K_M"\n[models.define.b]')
    assert (found["a"].source, found["b"].source) == ("hf:org/repo:Q4_K_M", None)
    with pytest.raises(ConfigError, match=r"models\.define\.a\.source: .* remove either path or source"):
        check(tmp_path, '[models.define.a]\nsource = "hf:org/repo"\npath = "a.gguf"')
