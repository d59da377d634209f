"""What the pulls' records tell of definitions with a source: whether their file is there, and where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from localllm.contract.errors import ModelNotFoundError
from localllm.contract.model import ModelDefinition
from localllm.models.discovery import Found
from localllm.models.fetch.store import Store, is_in_place
from localllm.models.file_names import fold


def find_definition(name: str, definitions: Mapping[str, ModelDefinition]) -> ModelDefinition | None:
    """Return the definition that ``name`` means: its id or an alias, in whatever case, with or without ".gguf"."""
    wanted = {fold(name), fold(name.removesuffix(".gguf"))}
    for definition in definitions.values():
        if wanted & {fold(known) for known in (definition.id, *definition.aliases)}:
            return definition
    return None


def file_fetched_from(source: str, directory: Path, by_path: Mapping[Path, Found]) -> Found | None:
    """Return the file of the models' folder that was pulled from ``source``, whatever it was called then."""
    try:
        record = Store(directory).find(source)
    except OSError:  # without its records it is only unknown where a file came from
        return None
    if record is None or not is_in_place(record):
        return None
    return next((found for file in record.files if (found := by_path.get(Path(file.path)))), None)


def other_origin(definition: ModelDefinition, directory: Path, model: Found) -> list[str]:
    """Return what to say of a file that has the definition's name and was pulled from somewhere else."""
    record = Store(directory).find_model(definition.id)
    if record is None or record.source == definition.source:
        return []
    if all(Path(file.path) != model.path for file in record.files):
        return []
    sentence = (
        f"models.define.{definition.id}: {model.path} came from {record.source[:200]}, and is served; remove it "
        f"(localllm models rm {definition.id}) to have {(definition.source or '')[:200]} fetched"
    )
    return [sentence]


def not_fetched(name: str | None, arriving: Mapping[str, ModelDefinition]) -> ModelNotFoundError | None:
    """Return the error for a model that is defined with a source, and is not there."""
    definition = find_definition(name, arriving) if name is not None else None
    if definition is None:
        return None
    message = (
        f"Model {definition.id!r} has not been fetched yet from {(definition.source or '')[:200]}; a server does so "
        f"when it starts."
    )
    return ModelNotFoundError(message, param="model")
