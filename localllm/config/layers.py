"""Reads the three layers of a configuration (file, environment, command line) and lays them over each other."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from localllm.config.convert import Text, section_fields
from localllm.config.errors import ConfigError, nearest
from localllm.config.schema import SECTIONS

MAX_FILE_BYTES = 1024 * 1024
DEFAULT_FILE = "localllm.toml"

PREFIX = "LOCALLLM_"
OTHER_VARIABLES = {
    "LOCALLLM_CONFIG": "The configuration file, when no --config is given.",
    "LOCALLLM_TEST_FULL": "Run the tests with their large case counts.",
}
"""Variables with our prefix that are not keys of the configuration."""

SHORT_VARIABLES = {"LOCALLLM_API_KEYS": "server.api_keys"}

_REFERENCE = re.compile(
    r"\$(\$\{)|\$\{env:(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}|(?P<bad>\$\{env:)"
)


@dataclass(frozen=True, slots=True)
class Layers:
    """The merged tables, not yet checked. ``origins`` names where a key was set if that is not the file.

    ``plugin_variables`` are ``LOCALLLM_PLUGIN_*`` variables: which key they mean is known once the plugins are.
    """

    table: dict[str, Any]
    source: Path | None
    origins: dict[str, str] = field(default_factory=dict)
    plugin_variables: dict[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    @property
    def base(self) -> Path:
        """The folder that relative paths count from."""
        return self.source.parent if self.source else Path.cwd()

    @property
    def file_label(self) -> str:
        """How messages call the file."""
        return self.source.name if self.source else "configuration"

    def label(self, path: str) -> str:
        """Return where the key at ``path`` (or its section) was set, in the words of an error message."""
        origin = self.origins.get(path)
        return origin if origin is not None else f"{self.file_label}: {path}"


def find_file(path: Path | None) -> Path | None:
    """Return the absolute path of the file to read: ``path``, else ``./localllm.toml`` if that exists, else None."""
    if path is not None:
        return path.absolute()
    default = Path(DEFAULT_FILE).absolute()
    return default if default.is_file() else None


def read_layers(path: Path | None, environ: Mapping[str, str], overrides: Sequence[str]) -> Layers:
    """Read the file (None: none), then ``LOCALLLM_*`` of ``environ``, then ``section.key=value`` overrides.

    Raises :class:`ConfigError` when the file can't be read at all; smaller faults are kept in ``problems``.
    """
    problems: list[str] = []
    table = _read_file(path) if path is not None else {}
    table = _expand(table, "", environ, f"{path.name}: " if path else "", problems)
    layers = Layers(table, path)
    _add_environment(layers, environ, problems)
    _add_overrides(layers, overrides, problems)
    return Layers(layers.table, path, layers.origins, layers.plugin_variables, tuple(problems))


def _read_file(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise ConfigError([f"{path.name}: larger than {MAX_FILE_BYTES} bytes; is it the right file?"])
        return tomllib.loads(content.decode("utf-8"))
    except FileNotFoundError:
        raise ConfigError([f"{path}: there is no such file; `localllm init` writes one"]) from None
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror or error}"]) from None
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path.name}: not UTF-8 text (byte {error.start})"]) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"{path.name}: {error}"]) from None
    except (RecursionError, ValueError) as error:  # nesting, or an integer of thousands of digits
        raise ConfigError([f"{path.name}: can't be read: {error}"]) from None


def _expand(value: Any, path: str, environ: Mapping[str, str], label: str, problems: list[str]) -> Any:  # noqa: ANN401
    """Replace ``${env:NAME}`` and ``${env:NAME:-default}`` in all strings; ``$${`` stands for ``${``."""
    if isinstance(value, dict):
        return {k: _expand(v, f"{path}.{k}" if path else k, environ, label, problems) for k, v in value.items()}
    if isinstance(value, list):
        return [_expand(item, path, environ, label, problems) for item in value]
    if not isinstance(value, str) or "${" not in value:
        return value

    def replace(match: re.Match[str]) -> str:
        if match[1]:
            return match[1]
        if match["bad"]:
            problems.append(f"{label}{path}: '${{env:' is not followed by a variable's name and '}}'")
            return ""
        name = match["name"]
        if name not in environ and match["default"] is None:
            problems.append(f"{label}{path}: the environment variable {name} is not set")
        return environ.get(name, match["default"] or "")

    expanded, whole = _REFERENCE.sub(replace, value), _REFERENCE.fullmatch(value)
    return Text(expanded) if whole and whole["name"] else expanded


def _add_environment(layers: Layers, environ: Mapping[str, str], problems: list[str]) -> None:
    variables = core_variables()
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in OTHER_VARIABLES:
            continue
        if name.startswith(f"{PREFIX}PLUGIN_"):
            layers.plugin_variables[name] = environ[name]
        elif name in variables:
            path = variables[name]
            _put(layers, path.split("."), Text(environ[name]), f"{name} ({path})", problems)
        else:
            known = [*variables, *OTHER_VARIABLES]
            problems.append(f"{name}: no key of the configuration has this name" + _suggest_variable(name, known))


def core_variables() -> dict[str, str]:
    """Return the dotted key that each environment variable of the core sets."""
    paths = ["state_directory"]
    for section, kind in SECTIONS.items():
        paths += [f"{section}.{key}" for key in section_fields(kind) if (section, key) != ("models", "define")]
    return {PREFIX + path.replace(".", "_").upper(): path for path in paths} | SHORT_VARIABLES


def _add_overrides(layers: Layers, overrides: Iterable[str], problems: list[str]) -> None:
    for override in overrides:
        key, equals, value = override.partition("=")
        path = _parse_key(key) if equals else None
        if path is None:
            problems.append(f"--set {override}: give it as section.key=value, for example --set server.port=9000")
            continue
        _put(layers, path, Text(value), f"--set {'.'.join(path)}", problems)


def _parse_key(key: str) -> list[str] | None:
    """Split a dotted key as TOML does, quotes included; None when it is none."""
    if "\n" in key or "=" in key:
        return None
    try:
        table = tomllib.loads(f"{key} = 0")
    except (tomllib.TOMLDecodeError, RecursionError):
        return None
    path: list[str] = []
    rest: Any = table
    while isinstance(rest, dict):
        name, rest = next(iter(rest.items()))
        path.append(name)
    return path


def _put(layers: Layers, path: Sequence[str], value: Text, origin: str, problems: list[str]) -> None:
    table = layers.table
    for name in path[:-1]:
        child = table.setdefault(name, {})
        if not isinstance(child, dict):
            problems.append(f"{origin}: {name} is not a table")
            return
        table = child
    table[path[-1]] = value
    layers.origins[".".join(path)] = origin


def put_plugin_variables(layers: Layers, sections: Mapping[str, type], installed: Iterable[str]) -> list[str]:
    """Lay ``LOCALLLM_PLUGIN_*`` over the plugins' tables. Return what is wrong with them.

    A variable of a plugin that is installed but not enabled is left alone, as its table in the file is.
    """
    problems: list[str] = []
    known: dict[str, tuple[str, str]] = {}
    for plugin, section in sections.items():
        for key in section_fields(section):
            known[f"{PREFIX}PLUGIN_{variable_part(plugin)}_{key.upper()}"] = (plugin, key)
    idle = tuple(f"{PREFIX}PLUGIN_{variable_part(name)}_" for name in installed if name not in sections)
    for name, value in layers.plugin_variables.items():
        if name in known:
            plugin, key = known[name]
            if f"plugin.{plugin}.{key}" in layers.origins:  # a flag set it already, and flags count more
                continue
            _put(layers, ("plugin", plugin, key), Text(value), f"{name} (plugin.{plugin}.{key})", problems)
        elif not name.startswith(idle):
            problems.append(f"{name}: no enabled plugin has such a key" + _suggest_variable(name, known))
    return problems


def _suggest_variable(name: str, known: Iterable[str]) -> str:
    """Compare without the common prefix."""
    match = nearest(name.removeprefix(PREFIX), [other.removeprefix(PREFIX) for other in known])
    return f"; did you mean {PREFIX}{match}?" if match else ""


def variable_part(name: str) -> str:
    """Return a plugin's name as it stands in the names of environment variables."""
    return re.sub(r"[^A-Za-z0-9]", "_", name).upper()
