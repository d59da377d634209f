"""The configuration that is in force, key by key, each with the place that it came from; secrets are masked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from localllm.config.convert import section_fields, to_plain
from localllm.config.definitions import DefinitionSection
from localllm.config.layers import Layers
from localllm.config.origins import Origin
from localllm.config.schema import SECTIONS, Config

MASK = "***"


@dataclass(frozen=True, slots=True)
class Entry:
    """One key. ``value`` is plain TOML, None when the key is absent; a secret's texts are masked."""

    path: str
    value: Any
    origin: Origin


def list_effective(config: Config, layers: Layers) -> list[Entry]:
    """Return all keys of a configuration that was made from ``layers``, in the order of the manual."""
    found = list(_entries(config))
    origins = layers.find_origins(path for path, _ in found)
    return [Entry(path, value, origins[path]) for path, value in found]


def _entries(config: Config) -> Iterator[tuple[str, Any]]:
    yield "state_directory", to_plain(config.state_directory)
    for name in SECTIONS:
        yield from _section(name, getattr(config, name))
    for name, section in config.plugin.items():
        yield from _section(f"plugin.{name}", section)
    secrets = {key for section in config.plugin.values() for key in _secrets(type(section))}
    secrets |= _secrets(DefinitionSection)
    for model_id, table in config.models.define.items():
        for key, value in table.items():
            yield f"models.define.{model_id}.{key}", mask(to_plain(value)) if key in secrets else to_plain(value)


def _section(path: str, section: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401
    secrets = _secrets(type(section))
    for key in section_fields(type(section)):
        if (path, key) == ("models", "define"):  # comes last, key by key
            continue
        value = to_plain(getattr(section, key))
        yield f"{path}.{key}", mask(value) if key in secrets else value


def _secrets(section: type) -> set[str]:
    return {key for key, (field, _) in section_fields(section).items() if field.metadata.get("secret", False)}


def mask(value: Any) -> Any:  # noqa: ANN401
    """Return ``value`` with every text and number in it masked: how many there are may be seen."""
    if isinstance(value, Mapping):
        return {key: mask(item) for key, item in value.items()}
    if isinstance(value, list):
        return [mask(item) for item in value]
    return value if value is None or isinstance(value, bool) or value == "" else MASK
