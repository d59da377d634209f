"""What the names of model files tell: parts of a split, the quantisation, and which names stand for the same model."""

from __future__ import annotations

import re
import unicodedata

MAX_NAME_CHARACTERS = 1024
"""Names in requests that are longer are those of no model; the longest file names have 255 characters."""

PART = re.compile(r"(?P<stem>.+)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\Z")
"""A part's file name without ".gguf", as llama.cpp's gguf-split gives it."""

_QUANTISATION = re.compile(
    r"(?:^|[-._])((?:UD-)?(?:I?Q\d(?:_[A-Z0-9]+)*|TQ\d_\d|BF16|FP?16|FP?32|MXFP4(?:_MOE)?|NVFP4))(?=$|[-._])",
    re.IGNORECASE,
)
_ROLE_WORDS = re.compile(r"mmproj|lora|adapter", re.IGNORECASE)

_UNFIT_CATEGORIES = frozenset({"Cc", "Cs"})
"""Controls, and the surrogates that stand for bytes that are not UTF-8: no model's id can have them."""


def model_stem(file_stem: str) -> str:
    """Return a file's name without what numbers it among the parts of a split."""
    part = PART.match(file_stem)
    return part["stem"] if part else file_stem


def quantisation_in(stem: str) -> str | None:
    """Return the quantisation that a file's name ends with ("Q4_K_M", "UD-IQ2_XXS", "BF16"), None without one."""
    found = _QUANTISATION.findall(stem)
    return found[-1].upper() if found else None


def plain_name(stem: str) -> str:
    """Return what is the same in the names of a model's quantisations, projectors and adapters: letters and digits."""
    without = _ROLE_WORDS.sub("", _QUANTISATION.sub("", stem))
    return "".join(char for char in unicodedata.normalize("NFKC", without).casefold() if char.isalnum())


def fold(name: str) -> str:
    """Return what is the same in names that only differ in case, or in how their accents are stored."""
    return unicodedata.normalize("NFC", name).casefold()


def is_fit(name: str) -> bool:
    """Tell whether a name may be a model's id: text that an answer can carry, without control characters."""
    return bool(name) and not any(unicodedata.category(char) in _UNFIT_CATEGORIES for char in name)


def printable(name: str) -> str:
    """Return a name of any bytes so that it can stand in a sentence."""
    return name if name.isprintable() else name.encode("unicode_escape", "backslashreplace").decode("ascii")
