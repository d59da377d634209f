"""Removes a model's files, and nothing that lies outside of the models' folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from localllm.contract.errors import InvalidRequestError, ModelNotFoundError
from localllm.contract.model import ModelSpec
from localllm.models.discovery import examine_file
from localllm.models.fetch.store import Store
from localllm.models.file_names import model_stem
from localllm.models.headers import HeaderCache


@dataclass(frozen=True, slots=True)
class Removal:
    """What is to be removed for one model: all its parts, and a projector that was fetched with it."""

    model_id: str
    paths: tuple[Path, ...]
    size_bytes: int
    directory: Path

    def execute(self) -> None:
        """Remove the files; of a link the link goes and its target stays. Raises ``OSError``."""
        for path in reversed(self.paths):  # the first part last: without it the others would be a broken model
            path.unlink(missing_ok=True)
        folder = self.paths[0].parent
        if folder.parent.parent == self.directory and not any(folder.iterdir()):
            folder.rmdir()  # it was this model's own
        Store(self.directory).forget(model_stem(self.paths[0].stem))


def plan_removal(spec: ModelSpec, directory: Path) -> Removal:
    """Return what is to be removed. Raises ``InvalidRequestError`` for a model whose files are not ours to remove.

    Raises ``ModelNotFoundError`` for one that somebody has removed in this moment.
    """
    if spec.path is None:
        message = f"{spec.id!r} has no file that could be removed."
        raise InvalidRequestError(message, param="model")
    path = Path(spec.path)
    if not path.exists() and not path.is_symlink():
        message = f"The file of {spec.id!r} has gone already."
        raise ModelNotFoundError(message, param="model")
    found = examine_file(path, HeaderCache())
    paths = list(found.paths) if found is not None else [path]
    record = Store(directory).find_model(model_stem(path.stem))
    if record is not None and str(path) in {file.path for file in record.files}:
        paths += [Path(file.path) for file in record.files if Path(file.path) not in paths]
    for one in paths:
        if not _is_inside(one, directory):
            message = f"{one} is not in the models' folder {directory}; remove it where it lies."
            raise InvalidRequestError(message, param="model")
    paths = [one for one in paths if one.is_symlink() or one.exists()]
    return Removal(spec.id, tuple(paths), sum(one.lstat().st_size for one in paths), directory)


def _is_inside(path: Path, directory: Path) -> bool:
    """Say whether the entry itself, wherever it points, lies in the folder, whatever links lead there."""
    return path.parent.resolve().is_relative_to(directory.resolve())
