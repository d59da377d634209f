"""Chooses one model among the GGUF files of a repository: by quantisation, with all its parts and its projector."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from localllm import InvalidRequestError, PullError

from .parts import PART

PREFERENCE = (
    *("Q4_K_M", "Q4_K_S", "Q4_K_L", "Q4_K_XL", "Q4_0", "IQ4_XS", "IQ4_NL", "MXFP4", "MXFP4_MOE"),
    *("Q5_K_M", "Q5_K_S", "Q5_K_L", "Q5_K_XL", "Q5_0", "Q6_K", "Q6_K_L", "Q6_K_XL", "Q8_0", "Q8_K_XL"),
    *("Q4_1", "Q5_1", "Q3_K_L", "Q3_K_M", "IQ3_M", "Q3_K_S", "IQ3_S", "IQ3_XS", "IQ3_XXS", "Q2_K", "IQ2_M"),
    *("BF16", "F16", "F32"),
)
"""What is taken where the wished quantisation is not there: what costs little quality first, the full widths last."""

_PROJECTOR_PREFERENCE = ("F16", "BF16", "Q8_0", "F32")
_LABEL = re.compile(
    r"(?<![A-Za-z0-9])((?:UD-)?(?:I?Q\d|TQ\d|MXFP4|NVFP4)[A-Za-z0-9_]*|BF16|FP?16|FP?32)(?![A-Za-z0-9])",
    re.IGNORECASE,
)
_NO_MODEL = re.compile(r"(^|[-_.])(imatrix|vocab|ggml-vocab)([-_.]|$)", re.IGNORECASE)
_LISTED = 20


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of a repository, by its path there."""

    path: str
    size_bytes: int | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """The parts of one model in order, its projector if it has one, and the name of its quantisation."""

    files: tuple[HubFile, ...]
    projector: HubFile | None
    label: str


def choose(files: Sequence[HubFile], wanted: str | None, default: str, place: str) -> Choice:
    """Return the model of quantisation ``wanted``, in any capitals, or of that path; else the nearest to ``default``.

    ``place`` is how error messages call the repository. Raises ``InvalidRequestError`` when ``wanted`` is not there or
    means several models, ``PullError`` when there is no model at all or parts of it are missing.
    """
    groups = _groups(files)
    if not groups:
        message = f"{place} has no GGUF model; look for a repository whose name ends in -GGUF."
        raise PullError(message)
    if wanted is not None and wanted.lower().endswith(".gguf"):
        found = [group for group in groups if any(file.path == wanted for file in group)]
    elif wanted is not None:
        found = [group for group in groups if label_of(group[0].path).lower() == wanted.lower()]
    else:
        found = _nearest(groups, default)
    if not found:
        message = f"{place} has no {wanted!r}; it has {_list(groups)}."
        raise InvalidRequestError(message, param="source")
    if len(found) > 1:
        names = ", ".join(group[0].path for group in found[:_LISTED])
        message = f"{place} has several models that fit: {names}. Name the file: {place}/FILE.gguf."
        raise InvalidRequestError(message, param="source")
    group = found[0]
    _check_complete(group, place)
    return Choice(tuple(group), _projector(files, group[0]), label_of(group[0].path))


def label_of(path: str) -> str:
    """Return the quantisation that a path names, in capitals; its last folder may say it too. "" when nothing does."""
    pure = PurePosixPath(path)
    for text in (_stem(pure.name), *reversed(pure.parts[:-1])):
        labels = _LABEL.findall(text)
        if labels:
            label: str = labels[-1].upper()
            return {"FP16": "F16", "FP32": "F32"}.get(label, label)
    return ""


def _groups(files: Sequence[HubFile]) -> list[list[HubFile]]:
    """Return the models: files that belong together are the parts of one, in order."""
    groups: dict[str, list[HubFile]] = {}
    for file in sorted(files, key=lambda file: file.path):
        name = PurePosixPath(file.path).name
        if not name.lower().endswith(".gguf") or _is_projector(file) or _NO_MODEL.search(_stem(name)):
            continue
        part = PART.fullmatch(file.path)
        groups.setdefault(f"{part['stem']}-of-{part['count']}" if part else file.path, []).append(file)
    return list(groups.values())


def _nearest(groups: list[list[HubFile]], default: str) -> list[list[HubFile]]:
    """Return the models of the best quantisation: the default, then by :data:`PREFERENCE`, then the smallest."""
    order = [default.upper(), *PREFERENCE]
    for label in dict.fromkeys(order):
        found = [group for group in groups if label_of(group[0].path).removeprefix("UD-") == label.removeprefix("UD-")]
        plain = [group for group in found if label_of(group[0].path) == label]
        if found:
            return plain or found
    return [min(groups, key=lambda group: (sum(file.size_bytes or 0 for file in group), group[0].path))]


def _check_complete(group: list[HubFile], place: str) -> None:
    part = PART.fullmatch(group[0].path)
    if part is not None and len(group) != int(part["count"]):
        message = f"{place} has {len(group)} of the {int(part['count'])} parts of {group[0].path} only."
        raise PullError(message)


def _projector(files: Sequence[HubFile], model: HubFile) -> HubFile | None:
    """Return the projector of a model: one of its own folder first, of half precision by preference."""
    folder = PurePosixPath(model.path).parent
    found = [file for file in files if file.path.lower().endswith(".gguf") and _is_projector(file)]

    def rank(file: HubFile) -> tuple[bool, int, str]:
        label = label_of(file.path)
        known = label in _PROJECTOR_PREFERENCE
        order = _PROJECTOR_PREFERENCE.index(label) if known else len(_PROJECTOR_PREFERENCE)
        return PurePosixPath(file.path).parent != folder, order, file.path

    return min(found, key=rank, default=None)


def _is_projector(file: HubFile) -> bool:
    return "mmproj" in PurePosixPath(file.path).name.lower()


def _stem(name: str) -> str:
    part = PART.fullmatch(name)
    return part["stem"] if part else name[: -len(".gguf")] if name.lower().endswith(".gguf") else name


def _list(groups: list[list[HubFile]]) -> str:
    labels = list(dict.fromkeys(label_of(group[0].path) or group[0].path for group in groups))
    more = f" and {len(labels) - _LISTED} more" if len(labels) > _LISTED else ""
    return ", ".join(labels[:_LISTED]) + more
