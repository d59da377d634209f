"""From staged files to a model: what it will be called, whether it is there already, and the move into its place."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from localllm.contract.errors import InvalidRequestError, ModelFileError
from localllm.contract.fetch import FileRole, PulledFile, PullResult, RemoteFile, Resolution
from localllm.contract.model import ModelKind
from localllm.models.discovery import kind_of
from localllm.models.fetch.job import PullJob
from localllm.models.fetch.names import check_model_id, clean_stem, part_stem
from localllm.models.fetch.part import BLOCK_BYTES
from localllm.models.fetch.store import Store, is_in_place, sync_folder
from localllm.models.file_names import model_stem
from localllm.models.folders import FOLDERS
from localllm.models.gguf import read_header
from localllm.models.gguf_header import GgufHeader


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One file with the name that it gets here."""

    remote: RemoteFile
    name: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be fetched and what the model will be called."""

    model_id: str
    files: tuple[PlannedFile, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of the files whose size is known."""
        return sum(file.remote.size_bytes or 0 for file in self.files)


@dataclass(frozen=True, slots=True)
class StagedFile:
    """One file that has arrived whole. ``sha256`` is that of its bytes."""

    planned: PlannedFile
    path: Path
    sha256: str


def make_plan(job: PullJob, resolution: Resolution) -> Plan:
    """Name all files. Raises ``InvalidRequestError`` for names that make no file name here."""
    models = [file for file in resolution.files if file.role is FileRole.MODEL]
    if not models:
        message = f"{job.source[:200]} has no model file."
        raise InvalidRequestError(message, param="source")
    wanted = job.model_id or resolution.model_id
    model_id = check_model_id(wanted) if wanted else model_stem(clean_stem(models[0].name))
    planned = [
        PlannedFile(file, f"{part_stem(model_id, number, len(models))}.gguf") for number, file in enumerate(models, 1)
    ]
    projectors = [file for file in resolution.files if file.role is FileRole.PROJECTOR]
    # In repositories they are all called alike; here they lie side by side.
    planned += [PlannedFile(file, f"mmproj-{model_id}.gguf") for file in projectors[:1]]
    return Plan(model_id, tuple(planned))


def find_existing(job: PullJob, resolution: Resolution, plan: Plan, store: Store) -> PullResult | None:
    """Return the model if it is there and complete; None when it is to be fetched, or fetched anew.

    Raises ``InvalidRequestError`` when its name belongs to something that came from elsewhere.
    """
    before = _version_before(job, plan, store)
    if before is not None and is_in_place(before):
        if job.kind not in (None, before.kind):
            message = f"{plan.model_id!r} is there already, as {before.kind.value}; remove it before you fetch it anew."
            raise InvalidRequestError(message, param="kind")
        return before if _is_unchanged(before, plan) else None
    taken = _taken(plan, before, store)
    if not taken:
        return None
    adopted = _adopt(job, resolution, plan, taken)
    if adopted is None:
        raise _came_from_elsewhere(taken[0])
    store.remember(adopted)
    return adopted


def place(job: PullJob, resolution: Resolution, plan: Plan, staged: Sequence[StagedFile], store: Store) -> PullResult:
    """Read the headers, choose the folder, and move all files there, the one that makes it a model last.

    Raises ``ModelFileError`` for files that can't be served; they are removed.
    """
    try:
        found = _check_headers(staged)
    except ModelFileError:
        for file in staged:
            file.path.unlink(missing_ok=True)
        raise
    kind = job.kind or resolution.kind or found
    folder = store.directory / kind.value
    folder.mkdir(parents=True, exist_ok=True)
    before = _version_before(job, plan, store)
    if taken := _taken(plan, before, store):  # another pull was quicker
        raise _came_from_elsewhere(taken[0])
    result = PullResult(
        model_id=plan.model_id,
        kind=kind,
        source=job.source,
        origin=resolution.origin,
        files=tuple(_pulled(file, folder / file.planned.name) for file in staged),
    )
    store.remember(result)  # before the moves: were they interrupted, the next pull knows its own files
    for file in reversed(staged):
        _move(file.path, folder / file.planned.name)
    sync_folder(folder)
    if before is not None:
        _remove_outdated(before, result)
    return result


def _version_before(job: PullJob, plan: Plan, store: Store) -> PullResult | None:
    """Return what was pulled from the same source under the same id; under another id it is another model."""
    before = store.find_model(plan.model_id)
    return before if before is not None and before.source == job.source else None


def _pulled(file: StagedFile, path: Path) -> PulledFile:
    remote = file.planned.remote
    return PulledFile(str(path), file.path.stat().st_size, file.sha256, remote.sha256 is not None, remote.role)


def _is_unchanged(before: PullResult, plan: Plan) -> bool:
    """Say whether the source still has what came from it; of hashes and sizes that it doesn't tell, nothing is held."""
    if len(before.files) != len(plan.files):
        return False
    return all(
        planned.remote.sha256 in (None, file.sha256) and planned.remote.size_bytes in (None, file.size_bytes)
        for planned, file in zip(plan.files, before.files, strict=True)
    )


def _taken(plan: Plan, before: PullResult | None, store: Store) -> list[Path]:
    """Return files that have a name of the plan and did not come from its source."""
    own = {file.path for file in before.files} if before else set()
    found = [path for file in plan.files for path in _namesakes(store.directory, file.name)]
    return [path for path in found if str(path) not in own]


def _came_from_elsewhere(path: Path) -> InvalidRequestError:
    message = f"{path.name} is there already and came from elsewhere; give another id, or remove it before."
    return InvalidRequestError(message, param="id")


def _namesakes(directory: Path, name: str) -> list[Path]:
    folders = [directory, *(directory / folder for folder in FOLDERS)]
    return [folder / name for folder in folders if os.path.lexists(folder / name)]


def _adopt(job: PullJob, resolution: Resolution, plan: Plan, taken: list[Path]) -> PullResult | None:
    """Return files that somebody put there by hand as pulled, if they are, byte by byte, what would be fetched."""
    by_name = {path.name: path for path in taken}
    if len(taken) != len(plan.files) or set(by_name) != {file.name for file in plan.files}:
        return None
    folder = taken[0].parent
    if any(path.parent != folder or path.is_symlink() for path in taken):
        return None
    files = []
    for file in plan.files:
        path, remote = by_name[file.name], file.remote
        if remote.sha256 is None or path.stat().st_size != remote.size_bytes or hash_file(path) != remote.sha256:
            return None
        files.append(PulledFile(str(path), path.stat().st_size, remote.sha256, True, remote.role))
    kind = FOLDERS.get(folder.name) or kind_of(read_header(files[0].path))
    if job.kind not in (None, kind):
        return None
    return PullResult(plan.model_id, kind, job.source, resolution.origin, tuple(files), fresh=False)


def _check_headers(staged: Sequence[StagedFile]) -> ModelKind:
    """Return what the model's header says that it is made for."""
    headers: list[GgufHeader] = []
    for file in staged:
        name = file.planned.remote.name
        try:
            header = read_header(file.path)
        except ModelFileError as error:
            message = f"{name} can't be served: {error.message}"
            raise ModelFileError(message) from None
        wanted = "mmproj" if file.planned.remote.role is FileRole.PROJECTOR else "model"
        if header.role != wanted:
            message = f"{name} is of type {header.role[:40]!r}, where a {wanted} was expected; it was not kept."
            raise ModelFileError(message)
        if wanted == "model":
            headers.append(header)
    if headers[0].n_parts != len(headers):
        message = (
            f"{staged[0].planned.remote.name} is one of {headers[0].n_parts} parts, but {len(headers)} came; "
            f"fetch it from a source that has them all."
        )
        raise ModelFileError(message)
    if not sum(header.n_params for header in headers):
        message = f"{staged[0].planned.remote.name} holds no weights, only a vocabulary; it was not kept."
        raise ModelFileError(message)
    return kind_of(headers[0])


def _move(source: Path, target: Path) -> None:
    """Put a whole file under its name at once, over an older version of it."""
    try:
        source.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        # The folder is on another disk than the one that holds it: a copy first, which is no GGUF file by its name.
        near = target.with_name(f".{target.name}.part")
        try:
            shutil.copyfile(source, near)
            with near.open("rb+") as file:
                os.fsync(file.fileno())
            near.replace(target)
        finally:
            near.unlink(missing_ok=True)
        source.unlink()


def _remove_outdated(before: PullResult, now: PullResult) -> None:
    """Remove files of the version before that this one has not replaced: it was split otherwise, or of another kind."""
    kept = {file.path for file in now.files}
    for file in before.files:
        if file.path not in kept:
            Path(file.path).unlink(missing_ok=True)


def hash_file(path: Path) -> str:
    """Return the sha256 of a file in lower-case hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
