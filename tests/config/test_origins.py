"""Each value knows where it came from, and who counts more than whom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from localllm.config.effective import MASK, list_effective, mask
from localllm.config.errors import ConfigError
from localllm.config.layers import FOREIGN_VARIABLES, read_layers
from localllm.config.load import check_config
from localllm.config.origins import line_numbers
from localllm.config.schema import Config
from localllm.plugin_manager import load_plugins

SECTIONS = load_plugins().sections


def effective(folder: Path, text: str = "", *flags: str, **environ: str) -> tuple[Config, dict[str, tuple[Any, str]]]:
    path = folder / "localllm.toml"
    path.write_text(text, encoding="utf-8")
    layers = read_layers(path, environ, flags)
    config = check_config(layers, SECTIONS)
    return config, {entry.path: (entry.value, str(entry.origin)) for entry in list_effective(config, layers)}


def test_every_value_names_its_place(tmp_path: Path) -> None:
    text = (
        "# a comment\n[server]\nport = 1\nping_seconds = 1\nhost = 'localhost'\n\n"
        "[models.define.'org/x.y']\npath = 'x.gguf'\n"
    )
    environ = {"LOCALLLM_SERVER_PING_SECONDS": "2", "LOCALLLM_PLUGIN_LLAMA_CPP_PARALLEL": "3"}
    _, found = effective(tmp_path, text, "server.host=127.0.0.1", **environ)
    assert found["server.port"] == (1, "localllm.toml:3")
    assert found["server.ping_seconds"] == (2.0, "environment LOCALLLM_SERVER_PING_SECONDS")
    assert found["server.host"] == ("127.0.0.1", "--set")
    assert found["server.shutdown_seconds"] == (30.0, "default")
    assert found["plugin.llama_cpp.parallel"] == (3, "environment LOCALLLM_PLUGIN_LLAMA_CPP_PARALLEL")
    assert found["models.define.org/x.y.path"] == ("x.gguf", "localllm.toml:8")
    assert found["models.default"] == (None, "default")


@pytest.mark.parametrize(
    ("name", "value", "key", "expected"),
    [
        ("GGUF_MODELS_DIR", "/m", "models.directory", "/m"),
        ("LLAMA_N_CTX", "4096", "plugin.llama_cpp.context_length", 4096),
        ("LLAMA_N_GPU_LAYERS", "-1", "plugin.llama_cpp.n_gpu_layers", -1),
        ("LLAMA_N_BATCH", "512", "plugin.llama_cpp.n_batch", 512),
        ("LLAMA_N_THREADS", "8", "plugin.llama_cpp.threads", 8),
        ("LLAMA_LOG_LEVEL", "INFO", "log.level", "info"),
        ("DEFAULT_MODEL", "llama3", "models.default", "llama3"),
    ],
)
def test_variables_of_other_programs_stand_for_keys(
    tmp_path: Path, name: str, value: str, key: str, expected: object
) -> None:
    assert effective(tmp_path, "", **{name: value})[1][key] == (expected, f"environment {name}")
    assert FOREIGN_VARIABLES[name] == key


def test_the_one_key_of_local_chat_completion_api_is_taken_as_it_stands(tmp_path: Path) -> None:
    config, found = effective(tmp_path, "[server]\napi_keys = ['other']", API_KEY="your,secret-key")
    assert config.server.api_keys == ["your,secret-key"]
    assert found["server.api_keys"][1] == "environment API_KEY"
    config, _ = effective(tmp_path, "", API_KEY="theirs", LOCALLLM_API_KEYS="a,b")
    assert config.server.api_keys == ["a", "b"]


def test_foreign_variables_count_over_the_file_and_below_our_own(tmp_path: Path) -> None:
    text = "[models]\ndirectory = '/file'\n[plugin.llama_cpp]\ncontext_length = 1\nthreads = 1\nn_batch = 1"
    foreign = {"GGUF_MODELS_DIR": "/g", "LLAMA_N_CTX": "2", "LLAMA_N_THREADS": "2", "LLAMA_N_BATCH": ""}
    config, _ = effective(tmp_path, text, **foreign)
    assert (config.models.directory, config.plugin["llama_cpp"].context_length) == (Path("/g"), 2)
    assert config.plugin["llama_cpp"].n_batch == 1, "an empty variable of somebody else says nothing"
    own = {"LOCALLLM_MODELS_DIRECTORY": "/own", "LOCALLLM_PLUGIN_LLAMA_CPP_CONTEXT_LENGTH": "3"}
    config, found = effective(tmp_path, text, "plugin.llama_cpp.threads=4", **foreign, **own)
    assert (config.models.directory, config.plugin["llama_cpp"].context_length) == (Path("/own"), 3)
    assert found["plugin.llama_cpp.threads"] == (4, "--set")


def test_foreign_variables_of_an_engine_that_is_not_enabled_are_left_alone(tmp_path: Path) -> None:
    layers = read_layers(None, {"LLAMA_N_CTX": "many"}, [])
    assert check_config(layers, {}).plugin == {}


def test_a_wrong_foreign_variable_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        effective(tmp_path, "", LLAMA_N_CTX="many")
    assert caught.value.problems == ("LLAMA_N_CTX (plugin.llama_cpp.context_length): must be an integer, not 'many'",)


def test_secrets_are_masked_wherever_they_came_from(tmp_path: Path) -> None:
    for found in (
        effective(tmp_path, "[server]\napi_keys = ['sk-1', 'sk-2']")[1],
        effective(tmp_path, "", LOCALLLM_API_KEYS="sk-1,sk-2")[1],
        effective(tmp_path, "", "server.api_keys=sk-1,sk-2")[1],
    ):
        assert found["server.api_keys"][0] == [MASK, MASK]
        assert "sk-" not in str(found)


@given(st.recursive(st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_a_mask_shows_the_shape_and_no_value(secret: Any) -> None:
    def leaves(value: Any) -> set[Any]:
        if isinstance(value, dict):
            return set().union(*map(leaves, value.values())) if value else set()
        if isinstance(value, list):
            return set().union(*map(leaves, value)) if value else set()
        return {value}

    assert leaves(mask(secret)) <= {MASK, ""}


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=6)
LEAVES = st.integers() | st.booleans() | st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=20)
DOCUMENTS = st.dictionaries(
    NAMES,
    st.recursive(
        LEAVES | st.lists(LEAVES, max_size=3), lambda inner: st.dictionaries(NAMES, inner, max_size=3), max_leaves=6
    ),
    max_size=4,
)


def scalars(table: dict[str, Any], prefix: str = "") -> dict[str, tuple[str, Any]]:
    """Return the last name and the value of every key that is no table, by dotted path."""
    found: dict[str, tuple[str, Any]] = {}
    for name, value in table.items():
        if isinstance(value, dict):
            found |= scalars(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = (name, value)
    return found


@given(DOCUMENTS, st.sampled_from(["\n", "\r\n"]))
def test_the_line_of_a_key_is_where_the_key_stands(document: dict[str, Any], newline: str) -> None:
    text = tomli_w.dumps(document, multiline_strings=True)
    lines = text.split("\n")
    numbers = line_numbers(text.replace("\n", newline))
    for path, (name, _) in scalars(document).items():
        if sum(other == path for other in scalars(document)) == 1 and "." not in path.replace(f".{name}", "", 1):
            assert path in numbers
    for path, number in numbers.items():
        line = lines[number - 1]
        assert line.startswith("[") or " = " in line, f"{path} is said to stand on {line!r}"


def test_lines_of_nested_and_inline_and_multiline_values() -> None:
    text = 'a.b = {c = 1}\n\n[x."y.z"]\nq = [\n1,\n2]\nr = """\n[not.a.table]\ns = 1\n"""\nlast = 1\n'
    numbers = line_numbers(text)
    assert {path: numbers[path] for path in ("a.b.c", "x.y.z", "x.y.z.q", "x.y.z.r", "x.y.z.last")} == {
        "a.b.c": 1,
        "x.y.z": 3,
        "x.y.z.q": 4,
        "x.y.z.r": 7,
        "x.y.z.last": 11,
    }
    assert "not.a.table" not in numbers


def test_what_can_not_be_read_ends_the_lines() -> None:
    assert line_numbers(f"a = 1\nb = {'1' * 5000}\nc = 1") == {"a": 1}
