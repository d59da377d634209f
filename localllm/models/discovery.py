"""Finds the model files in a folder, reads their headers, and says what each file is."""

from __future__ import annotations

import re
import stat
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localllm.contract.errors import ModelFileError
from localllm.contract.model import ModelKind
from localllm.models.gguf import GgufHeader, read_header
from localllm.models.gguf_types import EMBEDDING_ARCHITECTURES

FOLDERS: Mapping[str, ModelKind] = {kind.value: kind for kind in ModelKind}
"""Subfolders of the models' folder; each holds models of one kind."""

_UNFIT_CATEGORIES = frozenset({"Cc", "Cs"})
"""Controls, and the surrogates that stand for bytes that are not UTF-8: no model's id can have them."""

_BEGINNING_BYTES = 4096
"""By which an unfinished file is recognised: counts, name and sizes stand there."""

_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})$")


@dataclass(frozen=True, slots=True)
class Found:
    """One model on disk. ``paths`` are its parts in order, usually one; ``kind`` is what header and folder say."""

    id: str
    paths: tuple[Path, ...]
    kind: ModelKind
    created: int  # seconds since 1970
    meta: Mapping[str, Any]

    @property
    def path(self) -> Path:
        """The file to load; llama.cpp finds the other parts itself."""
        return self.paths[0]


Stamp = tuple[int, int]
"""Modification time in nanoseconds and size: a file whose stamp is unchanged is not read again."""


def stamp(path: Path) -> Stamp | None:
    """Return the stamp of a file or folder, None when there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, 0 if stat.S_ISDIR(found.st_mode) else found.st_size


@dataclass(frozen=True, slots=True)
class _Reading:
    """What reading one header brought. ``beginning`` is kept of unfinished files, which need ``needs_bytes``."""

    stamp: Stamp | None
    outcome: GgufHeader | ModelFileError
    needs_bytes: int = 0
    beginning: bytes = b""


class HeaderCache:
    """Remembers the headers of files that did not change, faults included.

    A file that is being copied changes all the time: as long as it is the same one and not complete, its header is not
    read again, for that may take a tenth of a second.
    """

    def __init__(self) -> None:
        self._known: dict[Path, _Reading] = {}

    def read(self, path: Path) -> GgufHeader:
        """Return the header; raises :class:`ModelFileError`."""
        now = stamp(path)
        known = self._known.get(path)
        if known is None or not (known.stamp == now or _still_incomplete(path, known, now)):
            known = self._known[path] = _read(path, now)
        if isinstance(known.outcome, ModelFileError):
            raise ModelFileError(known.outcome.message)
        return known.outcome

    def keep_only(self, paths: Iterable[Path]) -> None:
        """Forget all other files."""
        wanted = set(paths)
        self._known = {path: entry for path, entry in self._known.items() if path in wanted}


def _read(path: Path, now: Stamp | None) -> _Reading:
    try:
        return _Reading(now, read_header(path))
    except ModelFileError as error:
        needs_bytes = int(error.detail.get("needs_bytes", 0))
        return _Reading(now, error, needs_bytes, _beginning(path) if needs_bytes else b"")


def _still_incomplete(path: Path, known: _Reading, now: Stamp | None) -> bool:
    if now is None or known.stamp is None or not known.stamp[1] <= now[1] < known.needs_bytes:
        return False
    return _beginning(path).startswith(known.beginning)


def _beginning(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_BEGINNING_BYTES)
    except OSError:  # it has gone meanwhile
        return b""


@dataclass(slots=True)
class Scan:
    """What one look at the disk brought: ``files`` are all candidates, good or not; ``broken`` says by name why not."""

    found: list[Found]
    files: list[Path]
    problems: list[str]
    broken: dict[str, str]


def scan_folder(directory: Path, headers: HeaderCache) -> Scan:
    """Look into ``directory`` and its folders chat, embedding and reranker. Other folders are left alone."""
    scan = Scan([], [], [], {})
    for folder, kind in [*((directory / name, kind) for name, kind in FOLDERS.items()), (directory, None)]:
        groups: dict[str, list[Path]] = {}
        for path in _list_files(folder, scan.problems):
            scan.files.append(path)
            part = _PART.match(path.stem)
            groups.setdefault(part["stem"] if part else path.stem, []).append(path)
        for paths in groups.values():
            _add_group(scan, paths, kind, headers)
    return scan


def examine(path: Path, headers: HeaderCache) -> Found | None:
    """Return the model whose file (or whose part) ``path`` is; None for a file that is no model by itself.

    Raises :class:`ModelFileError`.
    """
    part = _PART.match(path.stem)
    siblings = [path]
    if part:
        pattern = re.compile(re.escape(part["stem"]) + r"-\d{5}-of-" + part["count"])
        siblings = [other for other in _list_files(path.parent, []) if pattern.fullmatch(other.stem)]
    return _examine_parts(siblings or [path], None, headers)


def _list_files(folder: Path, problems: list[str]) -> list[Path]:
    try:
        entries = sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        problems.append(f"{folder}: can't be listed: {error.strerror or error}")
        return []
    return [
        path for path in entries if path.suffix.lower() == ".gguf" and not path.name.startswith(".") and path.is_file()
    ]


def _add_group(scan: Scan, paths: list[Path], kind: ModelKind | None, headers: HeaderCache) -> None:
    """Add the model of one name; a whole file beside parts of the same name is a model of its own."""
    whole = [[path] for path in paths if not _PART.match(path.stem)]
    parts = [path for path in paths if _PART.match(path.stem)]
    for group in [*whole, *([parts] if parts else [])]:
        try:
            model = _examine_parts(group, kind, headers)
        except ModelFileError as error:
            scan.problems.append(error.message)
            part = _PART.match(group[0].stem)
            scan.broken[part["stem"] if part else group[0].stem] = error.message
            continue
        if model is None:
            continue
        scan.found.append(model)
        if kind is ModelKind.CHAT and model.meta["arch"] in EMBEDDING_ARCHITECTURES:
            scan.problems.append(
                f"{model.path.name}: it lies in chat/, but its architecture {model.meta['arch']} can't write text; "
                f"move it to embedding/ or reranker/"
            )


def _examine_parts(paths: Sequence[Path], kind: ModelKind | None, headers: HeaderCache) -> Found | None:
    paths = _order_parts(paths)
    if paths[0].name.lower().startswith("mmproj"):
        return None
    if any(unicodedata.category(char) in _UNFIT_CATEGORIES for char in paths[0].name):
        name = paths[0].name.encode("unicode_escape").decode("ascii")
        message = f"{name}: its name is not UTF-8 text, or has control characters in it; rename the file to serve it"
        raise ModelFileError(message)
    all_headers = [headers.read(path) for path in paths]
    first = all_headers[0]
    if first.role != "model":
        return None
    n_params = sum(header.n_params for header in all_headers)
    if not n_params:
        message = f"{paths[0].name}: it holds no weights, only a vocabulary"
        raise ModelFileError(message)
    if first.n_parts != len(paths):
        message = (
            f"{paths[0].name}: it says that it is one of {first.n_parts} parts, but {len(paths)} are named like it; "
            f"parts are called NAME-00001-of-{first.n_parts:05d}.gguf"
        )
        raise ModelFileError(message)
    kind = kind or kind_of(first)
    part = _PART.match(paths[0].stem)
    return Found(
        id=part["stem"] if part else paths[0].stem,
        paths=tuple(paths),
        kind=kind,
        created=int(max((stamp(path) or (0, 0))[0] for path in paths) // 1_000_000_000),
        meta=_describe(first, n_params, sum(header.size_bytes for header in all_headers), kind),
    )


def _order_parts(paths: Sequence[Path]) -> list[Path]:
    """Return the parts by number; raises :class:`ModelFileError` naming those that are missing."""
    matches = {path: _PART.match(path.stem) for path in paths}
    numbered = {int(match["number"]): path for path, match in matches.items() if match}
    if not numbered:
        return list(paths)
    counts = {int(match["count"]) for match in matches.values() if match}
    first = min(numbered.values())
    if len(counts) > 1:
        message = f"{first.name}: parts of two different splits of this model lie side by side; remove one of them"
        raise ModelFileError(message)
    count = counts.pop()
    missing = [str(number) for number in range(1, min(count, 1000) + 1) if number not in numbered]
    if missing or len(numbered) != count:
        message = f"{first.name}: of {count} parts these are missing: {', '.join(missing[:10])}; download them too"
        raise ModelFileError(message)
    return [numbered[number] for number in sorted(numbered)]


def kind_of(header: GgufHeader) -> ModelKind:
    """Return what the header says the model is made for."""
    if header.pooling_type == "rank" or header.is_classifier:
        return ModelKind.RERANKER
    if header.architecture in EMBEDDING_ARCHITECTURES or header.pooling_type in ("mean", "cls", "last"):
        return ModelKind.EMBEDDING
    return ModelKind.CHAT


def _describe(header: GgufHeader, n_params: int, size: int, kind: ModelKind) -> dict[str, Any]:
    """Return what ``GET /v1/models`` shows: counts in parameters and tokens, ``size`` in bytes."""
    return {
        "kind": kind.value,
        "arch": header.architecture,
        "name": header.name,
        "n_params": n_params,
        "size": size,
        "quantisation": header.quantisation,
        "n_ctx_train": header.context_length,
        "n_embd": header.embedding_length,
        "n_vocab": header.vocab_size,
        "has_chat_template": header.has_chat_template,
    }
