"""``https://host/path/model.gguf``, with ``#sha256=…`` behind it where the hash is known."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

from localllm import InvalidRequestError, RemoteFile, Resolution

from .parts import part_names

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True, slots=True)
class WebSource:
    """Takes a URL as it is; which hosts may be reached is for the fetching code to decide."""

    scheme: str

    def resolve(self, reference: str) -> Resolution:
        """Return the file, and its siblings where it is one of several parts."""
        url, _, fragment = f"{self.scheme}:{reference}".partition("#")
        sha256 = _sha256(fragment)
        before, query_mark, query = url.partition("?")
        folder, _, last = before.rpartition("/")
        names = part_names(unquote(last))
        if len(names) == 1:
            files = [RemoteFile(unquote(last), url=url, sha256=sha256)]
        elif sha256 is None:
            files = [RemoteFile(name, url=f"{folder}/{quote(name)}{query_mark}{query}") for name in names]
        else:
            message = f"{unquote(last)[:100]} is one of {len(names)} parts, and one sha256 can't be for all of them."
            raise InvalidRequestError(message, param="source")
        return Resolution(tuple(files), url)


def _sha256(fragment: str) -> str | None:
    """Return the hash that stands behind the ``#``."""
    if not fragment:
        return None
    key, _, value = fragment.partition("=")
    if key.lower() != "sha256" or not _SHA256.fullmatch(value):
        message = f"#{fragment[:100]} is not understood; write #sha256= and 64 hexadecimal digits."
        raise InvalidRequestError(message, param="source")
    return value.lower()


def make_https(settings: Mapping[str, Any]) -> WebSource:
    """Return the source for ``https:``; it has no settings."""
    return WebSource("https")


def make_http(settings: Mapping[str, Any]) -> WebSource:
    """Return the source for ``http:``, which serves hosts that the configuration allows."""
    return WebSource("http")
