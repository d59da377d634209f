"""Names of files that others chose: cut down to what can neither leave its folder nor mean something else there."""

from __future__ import annotations

import re

from localllm.contract.errors import InvalidRequestError

MAX_ID_CHARACTERS = 120

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_RESERVED = frozenset({"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))})
"""Devices in every folder of Windows, whatever their suffix."""


def check_model_id(model_id: str, param: str = "id") -> str:
    """Return an id that a file can be named by. Raises ``InvalidRequestError``."""
    if not _is_fit(model_id):
        message = (
            f"{model_id[:60]!r} can't be the id of a fetched model: use 1 to {MAX_ID_CHARACTERS} of the characters "
            f"A-Z a-z 0-9 . _ - and begin with a letter or digit."
        )
        raise InvalidRequestError(message, param=param)
    return model_id


def clean_stem(name: str) -> str:
    """Return a file name for here, without ``.gguf``, from what another machine calls the file.

    Only its last component counts; runs of other characters become a dash. Raises ``InvalidRequestError`` when nothing
    fit is left, or it is no name of a GGUF file.
    """
    last = re.split(r"[/\\]", name[-1000:])[-1]
    if not last.lower().endswith(".gguf"):
        message = f"{last[:60]!r} is not the name of a GGUF file; name a file that ends in .gguf, or give an id."
        raise InvalidRequestError(message, param="source")
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", last[: -len(".gguf")]).strip(".-_ ")
    if not _is_fit(stem):
        message = f"{last[:60]!r} does not make a file name here; give an id."
        raise InvalidRequestError(message, param="id")
    return stem


def part_stem(stem: str, number: int, count: int) -> str:
    """Return the name of one part, as llama.cpp looks for it."""
    return stem if count == 1 else f"{stem}-{number:05d}-of-{count:05d}"


def _is_fit(name: str) -> bool:
    return (
        len(name) <= MAX_ID_CHARACTERS
        and _ID.fullmatch(name) is not None
        and not name.endswith(".")
        and name.split(".")[0].lower() not in _RESERVED
    )
