"""The field ``lora``: which of the model's adapters count in a request, and how strongly."""

from __future__ import annotations

import math
from typing import Annotated, Final

from pydantic import PlainValidator

from localllm.contract.adapters import AdapterScale
from localllm.openai.wire_model import FieldError, WireModel, check_text, describe

MAX_ADAPTERS: Final = 32
MAX_NAME_CHARS: Final = 256
MAX_SCALE: Final = 1000.0


def read_lora(value: object) -> tuple[AdapterScale, ...] | None:
    """Return the adapters in llama-server's ``lora``, which may also be named; an empty list says nothing.

    Raises ``FieldError``.
    """
    if not isinstance(value, list):
        raise FieldError(f"must be a list of objects with id or name, and scale, not {describe(value)}")
    if len(value) > MAX_ADAPTERS:
        raise FieldError(f"must have at most {MAX_ADAPTERS} entries, not {len(value)}")
    found = tuple(_read_adapter(entry, f"[{index}]") for index, entry in enumerate(value))
    for index, adapter in enumerate(found):
        if any((adapter.name, adapter.index) == (other.name, other.index) for other in found[:index]):
            raise FieldError("must not name an adapter that another entry names", at=f"[{index}]")
    return found or None


def _read_adapter(entry: object, at: str) -> AdapterScale:
    if not isinstance(entry, dict):
        raise FieldError(f"must be an object with id or name, and scale, not {describe(entry)}", at=at)
    index, name, scale = entry.get("id"), entry.get("name"), entry.get("scale", 1.0)
    if (index is None) == (name is None):
        raise FieldError("must have either id or name", at=at)
    if index is not None and (not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < MAX_ADAPTERS):
        raise FieldError(f"must be a number from 0 to {MAX_ADAPTERS - 1}, not {describe(index)}", at=f"{at}.id")
    if name is not None and (not isinstance(name, str) or not 0 < len(name) <= MAX_NAME_CHARS):
        raise FieldError(
            f"must be a name of at most {MAX_NAME_CHARS} characters, not {describe(name)}", at=f"{at}.name"
        )
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not abs(scale) <= MAX_SCALE:
        shown = "NaN" if isinstance(scale, float) and math.isnan(scale) else describe(scale)
        raise FieldError(f"must be a number of at most {MAX_SCALE:g}, not {shown}", at=f"{at}.scale")
    return AdapterScale(float(scale), None if name is None else check_text(name, f"{at}.name"), index)


class AdapterFields(WireModel):
    """The field that chooses among a model's LoRA adapters; those that it does not list do not count."""

    lora: Annotated[tuple[AdapterScale, ...] | None, PlainValidator(read_lora, list[dict[str, float | str]])] = None
