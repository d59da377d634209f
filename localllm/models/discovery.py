"""Says what the files of a candidate are: a model, something that belongs to one, or neither."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localllm.contract.errors import ModelFileError
from localllm.contract.model import ModelKind
from localllm.models.file_names import PART, is_fit, model_stem, plain_name, printable
from localllm.models.gguf_header import GgufHeader, main_type
from localllm.models.headers import HeaderCache, stamp
from localllm.models.listing import Candidate, CompanionRole, Listing

MAX_TAG_CHARACTERS = 64
_LAST_SECOND = 253_402_300_799  # of the year 9999

_ROLES: Mapping[str, CompanionRole] = {"mmproj": "projector", "adapter": "adapter"}


@dataclass(frozen=True, slots=True)
class Found:
    """One model on disk. ``paths`` are its parts in order, usually one; ``kind`` is what header and folder say."""

    candidate: Candidate
    paths: tuple[Path, ...]
    kind: ModelKind
    created: int  # seconds since 1970
    meta: Mapping[str, Any]
    tags: tuple[str, ...]
    names: frozenset[str]  # plain ones of its file and of itself, by which adapters are told

    @property
    def id(self) -> str:
        """What it is called."""
        return self.candidate.id

    @property
    def path(self) -> Path:
        """The file to load; llama.cpp finds the other parts itself."""
        return self.paths[0]


@dataclass(frozen=True, slots=True)
class Companion:
    """A file that is no model by itself but goes with one. ``names`` are plain ones, as those of :class:`Found`."""

    candidate: Candidate
    path: Path
    role: CompanionRole
    architecture: str
    file_name: str  # plain
    names: frozenset[str]


def examine(candidate: Candidate, headers: HeaderCache) -> Found | Companion | None:
    """Return what the files are; None for what is neither model nor companion. Raises :class:`ModelFileError`."""
    try:
        return _examine(candidate, headers)
    except ModelFileError as error:
        if candidate.label is None:
            raise
        _, _, reason = error.message.partition(": ")
        raise ModelFileError(f"{candidate.label}: {reason}") from None


def examine_file(path: Path, headers: HeaderCache) -> Found | None:
    """Return the model whose file (or whose part) ``path`` is; None for a file that is no model by itself.

    Raises :class:`ModelFileError`.
    """
    part = PART.match(path.stem)
    siblings = [path]
    if part:
        others = Listing().entries(path.parent).models
        siblings = [other for other in others if _is_sibling(other, part["stem"], part["count"])] or [path]
    candidate = Candidate(model_stem(path.stem), tuple(siblings), str(path.parent), crowded=True)
    found = examine(candidate, headers)
    return found if isinstance(found, Found) else None


def _is_sibling(path: Path, stem: str, count: str) -> bool:
    part = PART.match(path.stem)
    return part is not None and (part["stem"], part["count"]) == (stem, count)


def _examine(candidate: Candidate, headers: HeaderCache) -> Found | Companion | None:
    paths = order_parts(candidate.paths)
    if not (is_fit(candidate.id) and is_fit(paths[0].name)):
        message = (
            f"{printable(paths[0].name)}: its name is not UTF-8 text, or has control characters in it; "
            f"rename the file to serve it"
        )
        raise ModelFileError(message)
    all_headers = [headers.read(path) for path in paths]
    first = all_headers[0]
    role = candidate.role or _ROLES.get("mmproj" if paths[0].name.lower().startswith("mmproj") else first.role)
    if role is not None:
        return _companion(candidate, paths[0], role, first)
    if first.role != "model":
        return None
    parameters: Counter[str] = Counter()
    for header in all_headers:
        parameters.update(header.parameters)
    _check_whole(paths, first, parameters.total())
    kind = candidate.kind or kind_of(first)
    meta = _describe(first, parameters, sum(header.size_bytes for header in all_headers), kind)
    if candidate.store is not None:
        meta["store"] = candidate.store
    return Found(
        candidate=candidate,
        paths=tuple(paths),
        kind=kind,
        created=_seconds(max((stamp(path) or (0, 0, 0))[0] for path in paths)),
        meta=meta,
        tags=tuple(dict.fromkeys(tag for tag in map(str.strip, first.tags) if is_tag(tag))),
        names=_plain_names(first) | {plain_name(model_stem(paths[0].stem))},
    )


def _seconds(nanoseconds: int) -> int:
    """Return a time of the file system as calendars can hold it."""
    return min(max(nanoseconds // 1_000_000_000, 0), _LAST_SECOND)


def _check_whole(paths: Sequence[Path], first: GgufHeader, n_params: int) -> None:
    if not n_params:
        message = f"{paths[0].name}: it holds no weights, only a vocabulary"
        raise ModelFileError(message)
    if first.n_parts != len(paths):
        message = (
            f"{paths[0].name}: it says that it is one of {first.n_parts} parts, but {len(paths)} are named like it; "
            f"parts are called NAME-00001-of-{first.n_parts:05d}.gguf"
        )
        raise ModelFileError(message)


def _companion(candidate: Candidate, path: Path, role: CompanionRole, header: GgufHeader) -> Companion:
    return Companion(
        candidate=candidate,
        path=path,
        role=role,
        architecture=header.architecture,
        file_name=plain_name(model_stem(path.stem)),
        names=_plain_names(header),
    )


def _plain_names(header: GgufHeader) -> frozenset[str]:
    named = [header.name or "", *header.base_names]
    return frozenset(filter(None, map(plain_name, named)))


def order_parts(paths: Sequence[Path]) -> list[Path]:
    """Return the parts by number; raises :class:`ModelFileError` naming those that are missing."""
    matches = {path: PART.match(path.stem) for path in paths}
    numbered = {int(match["number"]): path for path, match in matches.items() if match}
    if not numbered:
        return list(paths)
    counts = {int(match["count"]) for match in matches.values() if match}
    first = min(numbered.values())
    if len(counts) > 1:
        message = f"{printable(first.name)}: parts of two different splits of this model lie side by side; remove one"
        raise ModelFileError(message)
    count = counts.pop()
    missing = [str(number) for number in range(1, min(count, 1000) + 1) if number not in numbered]
    if missing or len(numbered) != count:
        message = (
            f"{printable(first.name)}: of {count} parts these are missing: {', '.join(missing[:10])}; download them too"
        )
        raise ModelFileError(message)
    return [numbered[number] for number in sorted(numbered)]


def kind_of(header: GgufHeader) -> ModelKind:
    """Return what the header says the model is made for."""
    if header.pooling_type == "rank" or header.is_classifier:
        return ModelKind.RERANKER
    if header.is_encoder or header.pooling_type in ("mean", "cls", "last"):
        return ModelKind.EMBEDDING
    return ModelKind.CHAT


def is_tag(text: str) -> bool:
    """Tell whether a text may be a tag: short, printable, not empty."""
    return 0 < len(text) <= MAX_TAG_CHARACTERS and text.isprintable() and text == text.strip()


def _describe(header: GgufHeader, parameters: Mapping[str, int], size: int, kind: ModelKind) -> dict[str, Any]:
    """Return the facts of a model: counts in parameters and tokens, ``size`` in bytes.

    ``hyperparameters`` are the header's own, for engines to estimate by, with the number of the tokenizer's merges.
    """
    n_merges = header.arrays.get("tokenizer.ggml.merges", 0)
    return {
        "kind": kind.value,
        "arch": header.architecture,
        "name": header.name,
        "n_params": sum(parameters.values()),
        "size": size,
        "quantisation": header.file_type or main_type(parameters),
        "n_ctx_train": header.context_length,
        "n_embd": header.embedding_length,
        "n_layer": header.block_count,
        "n_vocab": header.vocab_size,
        "has_chat_template": header.has_chat_template,
        "hyperparameters": header.hyperparameters | ({"tokenizer.merges": n_merges} if n_merges else {}),
    }
