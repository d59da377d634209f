"""The names that lllms has for what ``[models.define.<id>]`` says, so that a table copied from it goes on working."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from localllm.config.convert import Report

OWN_NAMES: Final[Mapping[str, str]] = {
    "task": "kind",
    "engine": "backend",
    "url": "source",
    "contextSize": "context_length",
    "minInstances": "min_instances",
    "maxInstances": "max_instances",
    "ttl": "ttl_minutes",
    "completionDefaults": "defaults",
}
"""lllms' name to ours. ``preload`` is called the same in both; there it is a table with ``messages``."""

_KINDS: Final[Mapping[str, str]] = {"text-completion": "chat", "embedding": "embedding"}
_ENGINES: Final[Mapping[str, str]] = {"node-llama-cpp": "llama_cpp", "gpt4all": "llama_cpp"}


class OwnTable(NamedTuple):
    """A model's table in our words. ``written`` has, for dotted keys that are called otherwise there, how they are."""

    table: dict[str, Any]
    written: Mapping[str, str]


def in_own_words(table: Mapping[str, Any], path: str, report: Report) -> OwnTable:
    """Return the table at ``path`` with our names and values. A key that stands under both names is reported."""
    own: dict[str, Any] = {}
    written: dict[str, str] = {}
    for name, value in table.items():
        ours = OWN_NAMES.get(name, name)
        if ours != name and ours in table:
            report(f"{path}.{name}", f"{ours} says the same; leave one of them out")
            continue
        own[ours] = _own_value(name, value)
        if ours != name:
            written[f"{path}.{ours}"] = f"{path}.{name}"
    return OwnTable(own, written)


def _own_value(name: str, value: Any) -> Any:  # noqa: ANN401
    """Return what our key holds; what doesn't fit stays as it is, and is refused there."""
    match name, value:
        case "ttl", int() | float() if not isinstance(value, bool):
            return value / 60
        case "task", str():
            return _KINDS.get(value, value)
        case "engine", str():
            return _ENGINES.get(value, value)
        case "preload", {"messages": list() as messages, **rest} if not rest:
            return [messages]
    return value
