"""Where a model's chat template comes from: its file, or one of the configuration's that replaces it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from localllm import ModelLoadError

MAX_TEMPLATE_BYTES = 1024 * 1024


class TemplateSource(NamedTuple):
    """A template's text, and what it is called in sentences."""

    text: str
    name: str


def template_source(model_id: str, own: str | None, file: Path | None) -> TemplateSource | None:
    """Return ``file``'s text where there is one, and else the model's ``own`` template. Raises ``ModelLoadError``."""
    if file is None:
        return None if own is None else TemplateSource(own, "The chat template")
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_TEMPLATE_BYTES + 1)
        text = content.decode()
    except OSError as error:
        raise _unreadable(model_id, file, f"can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise _unreadable(model_id, file, "is not a text in UTF-8") from error
    if len(content) > MAX_TEMPLATE_BYTES:
        raise _unreadable(model_id, file, f"has more than {MAX_TEMPLATE_BYTES} bytes")
    if not text.strip():
        raise _unreadable(model_id, file, "is empty")
    return TemplateSource(text, f"The chat template in {file}")


def _unreadable(model_id: str, file: Path, fault: str) -> ModelLoadError:
    return ModelLoadError(f"The chat template {file} of model {model_id!r} {fault} (chat_template_file).")
