"""``file:/path/model.gguf``: a file, or all parts of one, that lies on this machine already."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from localllm import InvalidRequestError, PullError, RemoteFile, Resolution

from .parts import part_names


class FileSource:
    """Names files by their path."""

    def resolve(self, reference: str) -> Resolution:
        """Return the file, and its siblings where it is one of several parts. ``file:///path`` will do too."""
        path = Path(unquote(reference[2:]) if reference.startswith("///") else reference).expanduser()
        if reference.startswith("//") and not reference.startswith("///"):
            message = f"file:{reference[:200]} names another host; write file:/path."
            raise InvalidRequestError(message, param="source")
        if not path.is_absolute():
            message = f"file:{reference[:200]} is no absolute path; write file:/path."
            raise InvalidRequestError(message, param="source")
        paths = [path.with_name(name) for name in part_names(path.name)]
        missing = [one for one in paths if not one.is_file()]
        if missing:
            message = f"{missing[0]} is not there, or is no file."
            raise PullError(message)
        return Resolution(tuple(RemoteFile(one.name, path=str(one)) for one in paths), f"file:{path}")


def make_source(settings: Mapping[str, Any]) -> FileSource:
    """Return the source; it has no settings."""
    return FileSource()
