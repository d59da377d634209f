"""Reads the three layers of a configuration (file, environment, command line) and lays them over each other."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from localllm.config.convert import Text, section_fields
from localllm.config.errors import ConfigError, nearest
from localllm.config.origins import DEFAULT, Origin, OriginKind, line_numbers, nearest_line
from localllm.config.schema import SECTIONS

MAX_FILE_BYTES = 1024 * 1024
DEFAULT_FILE = "localllm.toml"

PREFIX = "LOCALLLM_"
OTHER_VARIABLES = {
    "LOCALLLM_CONFIG": "The configuration file, when no --config is given.",
    "LOCALLLM_CLIENT_KEY": "The API key that commands send to a running server. Absent: the first of server.api_keys.",
    "LOCALLLM_TEST_FULL": "Run the tests with their large case counts.",
    "LOCALLLM_URL": "The running server that commands talk to, when no --url is given.",
}
"""Variables with our prefix that are not keys of the configuration."""

SHORT_VARIABLES = {"LOCALLLM_API_KEYS": "server.api_keys"}

FOREIGN_VARIABLES = {
    "API_KEY": "server.api_keys",
    "DEFAULT_MODEL": "models.default",
    "GGUF_MODELS_DIR": "models.directory",
    "LLAMA_LOG_LEVEL": "log.level",
    "LLAMA_N_BATCH": "plugin.llama_cpp.n_batch",
    "LLAMA_N_CTX": "plugin.llama_cpp.context_length",
    "LLAMA_N_GPU_LAYERS": "plugin.llama_cpp.n_gpu_layers",
    "LLAMA_N_THREADS": "plugin.llama_cpp.threads",
}
"""Variables of gguf-openai-api and of Local Chat Completion API, so that their environment files go on working: they
count over the file, and our own variables over them. An empty one is as good as none."""

OF_LOCAL_CHAT = frozenset({"API_KEY", "DEFAULT_MODEL"})
"""Those of the latter."""

_REFERENCE = re.compile(
    r"\$(\$\{)|\$\{env:(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}|(?P<bad>\$\{env:)"
)


@dataclass(frozen=True, slots=True)
class Layers:
    """The merged tables, not yet checked. ``origins`` says where a key was set if that is not the file.

    ``plugin_variables`` are ``LOCALLLM_PLUGIN_*`` variables, and foreign ones that mean a plugin's key: which key that
    is, if any, is known once the plugins are. ``text`` is the file's.
    """

    table: dict[str, Any]
    source: Path | None
    origins: dict[str, Origin] = field(default_factory=dict)
    plugin_variables: dict[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    text: str = ""

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
        if origin is None:
            return f"{self.file_label}: {path}"
        return f"{origin.name} {path}" if origin.kind is OriginKind.FLAG else f"{origin.name} ({path})"

    def find_origins(self, paths: Iterable[str]) -> dict[str, Origin]:
        """Return where each key was set. Complete once the layers were checked: then plugins' variables are known."""
        lines = line_numbers(self.text)
        return {path: self.origins.get(path) or self._file_origin(path, lines) for path in paths}

    def _file_origin(self, path: str, lines: dict[str, int]) -> Origin:
        names, rest = path, self.table
        while names:  # names of models may have dots in them
            name = next((name for name in rest if names == name or names.startswith(f"{name}.")), None)
            if name is None:
                return DEFAULT
            names, rest = names[len(name) + 1 :], rest[name] if isinstance(rest[name], dict) else {}
        return Origin(OriginKind.FILE, self.file_label, nearest_line(lines, path))


def find_file(path: Path | None) -> Path | None:
    """Return the absolute path of the file to read: ``path``, else ``./localllm.toml`` if that exists, else None."""
    if path is not None:
        return path.absolute()
    default = Path(DEFAULT_FILE).absolute()
    return default if default.is_file() else None


def read_layers(path: Path | None, environ: Mapping[str, str], overrides: Sequence[str]) -> Layers:
    """Read the file (None: none), then the variables of ``environ``, then ``section.key=value`` overrides.

    Raises :class:`ConfigError` when the file can't be read at all; smaller faults are kept in ``problems``.
    """
    problems: list[str] = []
    text, table = _read_file(path) if path is not None else ("", {})
    table = _expand(table, "", environ, f"{path.name}: " if path else "", problems)
    layers = Layers(table, path, text=text)
    _add_foreign(layers, environ, problems)
    _add_environment(layers, environ, problems)
    _add_overrides(layers, overrides, problems)
    return replace(layers, problems=tuple(problems))


def _read_file(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise ConfigError([f"{path.name}: larger than {MAX_FILE_BYTES} bytes; is it the right file?"])
        text = content.decode("utf-8")
        return text, tomllib.loads(text)
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


def _add_foreign(layers: Layers, environ: Mapping[str, str], problems: list[str]) -> None:
    for name, path in FOREIGN_VARIABLES.items():
        if not environ.get(name):
            continue
        if path.startswith("plugin."):
            layers.plugin_variables[name] = environ[name]
        else:
            value = [environ[name]] if name == "API_KEY" else Text(environ[name])  # one key, commas and all
            _put(layers, path.split("."), value, Origin(OriginKind.ENVIRONMENT, name), problems)


def _add_environment(layers: Layers, environ: Mapping[str, str], problems: list[str]) -> None:
    variables = core_variables()
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in OTHER_VARIABLES:
            continue
        if name.startswith(f"{PREFIX}PLUGIN_"):
            layers.plugin_variables[name] = environ[name]
        elif name in variables:
            path = variables[name]
            _put(layers, path.split("."), Text(environ[name]), Origin(OriginKind.ENVIRONMENT, name), problems)
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
        _put(layers, path, Text(value), Origin(OriginKind.FLAG, "--set"), problems)


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
        if len(rest) != 1:
            return None  # a comment took the place of the name or of the value
        [(name, rest)] = rest.items()
        path.append(name)
    return path if rest == 0 else None


def _put(layers: Layers, path: Sequence[str], value: Text | list[str], origin: Origin, problems: list[str]) -> None:
    dotted = ".".join(path)
    table = layers.table
    for name in path[:-1]:
        child = table.setdefault(name, {})
        if not isinstance(child, dict):
            label = f"{origin.name} {dotted}" if origin.kind is OriginKind.FLAG else f"{origin.name} ({dotted})"
            problems.append(f"{label}: {name} is not a table")
            return
        table = child
    table[path[-1]] = value
    layers.origins[dotted] = origin


def put_plugin_variables(layers: Layers, sections: Mapping[str, type], installed: Iterable[str]) -> list[str]:
    """Lay ``LOCALLLM_PLUGIN_*`` and foreign variables over the plugins' tables. Return what is wrong with them.

    A variable of a plugin that is installed but not enabled is left alone, as its table in the file is.
    """
    problems: list[str] = []
    known: dict[str, tuple[str, ...]] = {}
    for plugin, section in sections.items():
        for key in section_fields(section):
            known[f"{PREFIX}PLUGIN_{variable_part(plugin)}_{key.upper()}"] = ("plugin", plugin, key)
    own = dict(known)
    known |= {
        name: path for name, dotted in FOREIGN_VARIABLES.items() if (path := tuple(dotted.split("."))) in own.values()
    }
    idle = tuple(f"{PREFIX}PLUGIN_{variable_part(name)}_" for name in installed if name not in sections)
    for name in sorted(
        layers.plugin_variables, key=FOREIGN_VARIABLES.__contains__
    ):  # our own count more: they go first
        value = layers.plugin_variables[name]
        if name in known:
            if ".".join(known[name]) in layers.origins:  # a flag set it already, or a variable of ours
                continue
            _put(layers, known[name], Text(value), Origin(OriginKind.ENVIRONMENT, name), problems)
        elif name not in FOREIGN_VARIABLES and not name.startswith(idle):
            problems.append(f"{name}: no enabled plugin has such a key" + _suggest_variable(name, own))
    return problems


def _suggest_variable(name: str, known: Iterable[str]) -> str:
    """Compare without the common prefix."""
    match = nearest(name.removeprefix(PREFIX), [other.removeprefix(PREFIX) for other in known])
    return f"; did you mean {PREFIX}{match}?" if match else ""


def variable_part(name: str) -> str:
    """Return a plugin's name as it stands in the names of environment variables."""
    return re.sub(r"[^A-Za-z0-9]", "_", name).upper()
