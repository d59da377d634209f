"""What a changed configuration means for a server that runs: which keys apply at once, and which need a restart."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from localllm.config.convert import section_fields
from localllm.config.errors import ConfigError
from localllm.config.load import server_problems
from localllm.config.schema import SECTIONS, Config


@dataclasses.dataclass(frozen=True, slots=True)
class Changes:
    """The outcome of laying a fresh configuration over the running one.

    ``config`` is what is in force from now on: the fresh one, with the running one's values where only a restart can
    change them. ``applied`` and ``needs_restart`` are the dotted keys that differ; models have one for each definition.
    """

    config: Config
    applied: tuple[str, ...]
    needs_restart: tuple[str, ...]


def needs_restart(section: type, key: str) -> bool:
    """Say whether a key of the core was declared as one that only a restart can change."""
    field, _ = section_fields(section)[key]
    return bool(field.metadata.get("restart", False))


def compare(running: Config, fresh: Config, live_plugins: Collection[str]) -> Changes:
    """Return what becomes of ``running`` when ``fresh`` is applied. Keys that did not change are in neither list.

    ``live_plugins`` are those whose section is looked at anew by each load and each pull. Other plugins have read
    theirs when they registered: it needs a restart.
    Raises :class:`ConfigError` when the mixture is one that the server would refuse to start with.
    """
    applied: list[str] = []
    later: list[str] = []
    values: dict[str, Any] = {"source": fresh.source, "state_directory": running.state_directory}
    if running.state_directory != fresh.state_directory:
        later.append("state_directory")
    for name, kind in SECTIONS.items():
        before, after = getattr(running, name), getattr(fresh, name)
        kept: dict[str, Any] = {}
        for key in section_fields(kind):
            if getattr(before, key) == getattr(after, key):
                continue
            if needs_restart(kind, key):
                later.append(f"{name}.{key}")
                kept[key] = getattr(before, key)
            else:
                applied += _paths(f"{name}.{key}", getattr(before, key), getattr(after, key))
        values[name] = dataclasses.replace(after, **kept)
    values["plugin"] = _plugins(running.plugin, fresh.plugin, live_plugins, applied, later)
    config = Config(**values)
    if problems := [f"{path}: {sentence}" for path, sentence in server_problems(config.server)]:
        raise ConfigError([f"{problem} ({', '.join(later)} changes only by a restart)" for problem in problems])
    return Changes(config, tuple(applied), tuple(later))


def _plugins(
    running: Mapping[str, Any],
    fresh: Mapping[str, Any],
    live_plugins: Collection[str],
    applied: list[str],
    later: list[str],
) -> dict[str, Any]:
    """Return the sections that are in force; both have one for each plugin that is enabled."""
    sections = dict(running)
    for name, after in fresh.items():
        if name in live_plugins:
            sections[name] = after
        changed = applied if name in live_plugins else later
        for key in section_fields(type(after)):
            if getattr(running[name], key) != getattr(after, key):
                changed.append(f"plugin.{name}.{key}")
    return sections


def _paths(path: str, before: object, after: object) -> Iterator[str]:
    """Yield one path for each entry of a table that differs, or the path of what is no table."""
    if not (isinstance(before, Mapping) and isinstance(after, Mapping)):
        yield path
        return
    missing = object()
    for name in dict.fromkeys([*before, *after]):
        if before.get(name, missing) != after.get(name, missing):
            yield f"{path}.{name}"
