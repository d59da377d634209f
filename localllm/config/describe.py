"""Writes the configuration down for people: the commented file of ``localllm init`` and the table in the manual."""

from __future__ import annotations

import dataclasses
import re
import textwrap
from collections.abc import Mapping
from typing import Any

import tomli_w

from localllm.config.convert import describe_type, section_fields, to_plain
from localllm.config.definitions import DefinitionSection
from localllm.config.layers import FOREIGN_VARIABLES, OF_LOCAL_CHAT, OTHER_VARIABLES, PREFIX, SHORT_VARIABLES
from localllm.config.schema import SECTIONS, Config

_WIDTH = 118
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


@dataclasses.dataclass(frozen=True, slots=True)
class Key:
    """One key as the manual shows it."""

    section: str  # dotted; "" for the top level
    name: str
    type: str
    default: Any  # plain TOML; None when the key is absent
    help: str
    bounds: str
    restart: bool  # a reload only names it

    @property
    def path(self) -> str:
        """The dotted key."""
        return f"{self.section}.{self.name}" if self.section else self.name


def list_keys(plugins: Mapping[str, type]) -> list[Key]:
    """Return all keys of the core, then those of ``plugins``' sections."""
    keys = [_key("", "state_directory", *section_fields(Config)["state_directory"])]
    for section, kind in SECTIONS.items():
        keys += _section_keys(section, kind)
    for name, kind in plugins.items():
        keys += _section_keys(f"plugin.{name}", kind)
    return keys


def toml_template(plugins: Mapping[str, type], set_keys: Mapping[str, Any] | None = None) -> str:
    """Return a ``localllm.toml`` in which every key stands with its help, commented out unless in ``set_keys``.

    ``set_keys`` maps dotted keys to the values to write for them.
    """
    chosen = set_keys or {}
    lines = [
        "# The configuration of localllm. Lines with one # are defaults: take the # away to change them.",
        f"# Every key is also an environment variable ({PREFIX}SERVER_PORT=9000) and a flag (--set server.port=9000):",
        "# flags count before the environment, the environment before this file. Strings may hold ${env:NAME}.",
        "# Relative paths count from this file's folder.",
        "",
    ]
    section = ""
    for key in list_keys(plugins):
        if key.section != section:
            lines += [f"[{key.section}]"]
            section = key.section
        lines += textwrap.wrap(key.help, _WIDTH, initial_indent="## ", subsequent_indent="## ")
        lines += [*_assignment(key, chosen), ""]
    lines += [
        "## A model by name: a table like this for each. Beside these keys it may hold every key of its engine's",
        "## section ([plugin.llama_cpp] for instance), for this model alone.",
        "# [models.define.my-model]",
    ]
    for key in _section_keys("models.define.my-model", DefinitionSection):
        lines += textwrap.wrap(key.help, _WIDTH, initial_indent="## ", subsequent_indent="## ")
        lines += [*_assignment(key, {}), ""]
    return "\n".join(lines).rstrip() + "\n"


def _assignment(key: Key, chosen: Mapping[str, Any]) -> list[str]:
    if key.path in chosen:
        return tomli_w.dumps({key.name: chosen[key.path]}).splitlines()
    if key.default is None:
        return [f"# {key.name} = ...  # {key.type}; absent by default"]
    if key.path == "models.define":  # shown at the end of the file, as the tables that it is
        return []
    return [f"# {key.name} = {toml_value(key.default)}"]


def manual_tables(plugins: Mapping[str, type]) -> str:
    """Return the reference part of docs/configuration.md: one table for each section."""
    parts: list[str] = []
    section: str | None = None
    for key in list_keys(plugins):
        if key.section != section:
            section = key.section
            parts += ["", f"### `[{section}]`" if section else "### Top level", ""]
            parts += ["| key | type | default | meaning |", "|---|---|---|---|"]
        parts.append(_row(key))
    parts += ["", "### `[models.define.NAME]`", "", "| key | type | default | meaning |", "|---|---|---|---|"]
    parts += [_row(key) for key in _section_keys("models.define.NAME", DefinitionSection)]
    parts += ["", "### Other environment variables", "", "| variable | meaning |", "|---|---|"]
    parts += [f"| `{name}` | Short for `{path}`. |" for name, path in SHORT_VARIABLES.items()]
    for name, path in FOREIGN_VARIABLES.items():
        program = "Local Chat Completion API" if name in OF_LOCAL_CHAT else "gguf-openai-api"
        parts.append(f"| `{name}` | The name that {program} gave to `{path}`. |")
    parts += [f"| `{name}` | {meaning} |" for name, meaning in OTHER_VARIABLES.items()]
    return "\n".join(parts).strip() + "\n"


def _row(key: Key) -> str:
    default = "absent" if key.default is None else f"`{toml_value(key.default)}`"
    kind = f"{key.type}{key.bounds}".replace("|", "or")
    restart = " Changes by a restart only." if key.restart else ""
    return f"| `{key.name}` | {kind} | {default} | {key.help}{restart} |"


def _section_keys(section: str, kind: type) -> list[Key]:
    return [_key(section, name, field, hint) for name, (field, hint) in section_fields(kind).items()]


def _key(section: str, name: str, field: dataclasses.Field[Any], hint: Any) -> Key:  # noqa: ANN401
    default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
    least, most = field.metadata.get("minimum"), field.metadata.get("maximum")
    limits = [f"at least {least}"] if least is not None else []
    limits += [f"at most {most}"] if most is not None else []
    bounds = f", {' and '.join(limits)}" if limits else ""
    help_text, restart = field.metadata.get("help", ""), bool(field.metadata.get("restart", False))
    return Key(section, name, describe_type(hint), to_plain(default), help_text, bounds, restart)


def toml_value(value: Any) -> str:  # noqa: ANN401
    """Return one value as TOML writes it, on one line."""
    if isinstance(value, Mapping):
        items = [f"{_toml_key(str(name))} = {toml_value(item)}" for name, item in value.items()]
        return f"{{ {', '.join(items)} }}" if items else "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml_value, value))}]"
    return tomli_w.dumps({"value": value}).removeprefix("value = ").strip()


def _toml_key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else toml_value(name)
