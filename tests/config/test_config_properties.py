"""What holds for every configuration: a valid one survives being written down, and no junk escapes as another error."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from localllm.config.convert import section_fields, to_plain
from localllm.config.errors import ConfigError
from localllm.config.layers import read_layers
from localllm.config.load import check_config
from localllm.config.schema import SECTIONS, Config

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=20)
HOSTS = st.sampled_from(["127.0.0.1", "::1", "localhost"])
KEYS = st.text("abcABC123-_.", min_size=1, max_size=12)
SCALARS = st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), TEXT)
TABLES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=8
)


def values(field: dataclasses.Field[Any], hint: Any) -> st.SearchStrategy[Any]:
    least, most = field.metadata.get("minimum"), field.metadata.get("maximum")
    if field.name == "host":
        return HOSTS
    if field.name == "api_keys":
        return st.lists(KEYS, max_size=3)
    if field.name == "define":
        return st.dictionaries(KEYS, st.dictionaries(KEYS, SCALARS, max_size=3), max_size=3)
    if get_origin(hint) is Literal:
        return st.sampled_from(get_args(hint))
    if hint is float:
        most = most if most is not None else 1e300
        return st.floats(least, most, allow_nan=False, allow_infinity=False)
    kinds: dict[Any, st.SearchStrategy[Any]] = {
        int: st.integers(least, most if most is not None else 2**63 - 1),
        bool: st.booleans(),
        str: TEXT,
        Path: TEXT.filter(lambda text: bool(text) and not text.startswith("~")).map(lambda text: Path("/base") / text),
    }
    if hint in kinds:
        return kinds[hint]
    if get_origin(hint) is list:
        return st.lists(kinds[get_args(hint)[0]], max_size=4)
    members = [member for member in get_args(hint) if member is not type(None)]
    return st.none() | st.one_of(values(field, member) for member in members)


def sections(kind: type) -> st.SearchStrategy[Any]:
    return st.builds(kind, **{name: values(field, hint) for name, (field, hint) in section_fields(kind).items()})


CONFIGS = st.builds(
    Config,
    **{name: sections(kind) for name, kind in SECTIONS.items()},
    state_directory=TEXT.filter(bool).map(lambda text: Path("/base") / text),
)


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
