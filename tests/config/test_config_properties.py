"""What holds for every configuration: a valid one survives being written down, and no junk escapes as another error."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from localllm.config.convert import to_plain
from localllm.config.errors import ConfigError
from localllm.config.layers import read_layers
from localllm.config.load import check_config
from localllm.config.schema import SECTIONS, Config
from tests.config.strategies import CONFIGS, TABLES, TEXT


def escape(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: escape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [escape(item) for item in value]
    return value.replace("${", "$${") if isinstance(value, str) else value


@given(CONFIGS)
def test_a_valid_configuration_survives_being_written_down(tmp_path_factory: Any, config: Config) -> None:
    plain = to_plain(config)
    path = tmp_path_factory.getbasetemp() / "written.toml"
    path.write_text(tomli_w.dumps(escape(plain)), encoding="utf-8", newline="")
    loaded = check_config(read_layers(path, {}, []), {})
    assert dataclasses.replace(loaded, source=None) == config


@given(st.dictionaries(st.sampled_from([*SECTIONS, "plugin", "state_directory"]) | TEXT, TABLES, max_size=4))
def test_junk_gives_a_configuration_or_its_one_error(tmp_path_factory: Any, table: dict[str, Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "junk.toml"
    path.write_text(tomli_w.dumps(table), encoding="utf-8", newline="")
    attempt(path, {}, [])


@given(st.binary(max_size=200))
def test_bytes_give_a_configuration_or_its_one_error(tmp_path_factory: Any, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.toml"
    path.write_bytes(content)
    attempt(path, {}, [])


VARIABLES = st.dictionaries(
    st.sampled_from(["LOCALLLM_SERVER_PORT", "LOCALLLM_API_KEYS", "LOCALLLM_MODELS_DIRECTORY", "LOCALLLM_PLUGIN_X_Y"])
    | TEXT.map("LOCALLLM_".__add__),
    st.text(max_size=10),
    max_size=3,
)


@given(VARIABLES, st.lists(st.text(max_size=20) | TEXT.map("server.port=".__add__), max_size=3))
def test_variables_and_flags_give_a_configuration_or_its_one_error(environ: dict[str, str], flags: list[str]) -> None:
    attempt(None, environ, flags)


def attempt(path: Path | None, environ: dict[str, str], flags: list[str]) -> None:
    try:
        config = check_config(read_layers(path, environ, flags), {})
    except ConfigError as error:
        assert error.problems
        assert all(problem.strip() for problem in error.problems)
    else:
        assert math.isfinite(config.server.ping_seconds)
