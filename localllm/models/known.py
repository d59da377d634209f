"""The models that can be pulled by a short name: the list in this package, and what the configuration adds to it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from localllm.contract.errors import LocalLLMError
from localllm.contract.model import ModelKind
from localllm.models.fetch.names import check_model_id

_OWN_LIST = Path(__file__).with_name("known_models.toml")
_KEYS = frozenset({"source", "kind", "size_megabytes", "license", "about"})


class KnownModelsError(Exception):
    """A file of known models can't be used. The message names the file and the entry."""


@dataclass(frozen=True, slots=True)
class KnownModel:
    """One entry. ``size_megabytes`` is about what will be fetched; None where nobody wrote it down."""

    name: str
    source: str
    kind: ModelKind | None = None
    size_megabytes: float | None = None
    license: str = ""
    about: str = ""


@dataclass(frozen=True, slots=True)
class KnownModels:
    """Models by the name that they are pulled by, and then have."""

    models: Mapping[str, KnownModel] = field(default_factory=dict)

    def find(self, name: str) -> KnownModel | None:
        """Return the model of this name, however it is capitalised."""
        return self.models.get(name.lower())


def read_known_models(extra: Path | None = None) -> KnownModels:
    """Return our own list with ``extra`` (``models.catalogue``) laid over it. Raises :class:`KnownModelsError`."""
    models = _read(_OWN_LIST)
    if extra is not None:
        models |= _read(extra)
    return KnownModels(models)


def _read(path: Path) -> dict[str, KnownModel]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        message = f"{path}: can't be read: {error.strerror or error}"
        raise KnownModelsError(message) from None
    except ValueError as error:
        message = f"{path}: not valid TOML: {error}"
        raise KnownModelsError(message) from None
    found = {}
    for name, entry in table.items():
        try:
            found[name.lower()] = _entry(name, entry)
        except (ValueError, TypeError, LocalLLMError) as error:
            message = f"{path}: [{name}]: {error}"
            raise KnownModelsError(message) from None
    return found


def _entry(name: str, entry: Any) -> KnownModel:  # noqa: ANN401
    check_model_id(name)
    if not isinstance(entry, dict):
        message = "a model is a table with a source"
        raise TypeError(message)
    if unknown := entry.keys() - _KEYS:
        message = f"unknown key {min(unknown)!r}; known are {', '.join(sorted(_KEYS))}"
        raise ValueError(message)
    source, size = entry.get("source"), entry.get("size_megabytes")
    if not isinstance(source, str) or ":" not in source:
        message = f'source is {source!r}, and must be a text like "hf:org/repo:Q4_K_M"'
        raise ValueError(message)
    if size is not None and (isinstance(size, bool) or not isinstance(size, int | float) or size <= 0):
        message = f"size_megabytes is {size!r}, and must be a positive number"
        raise ValueError(message)
    kind = ModelKind(entry["kind"]) if "kind" in entry else None
    return KnownModel(name, source, kind, size, str(entry.get("license", "")), str(entry.get("about", "")))
