"""What schemathesis must be told of our content types; it imports this by its name."""

from __future__ import annotations

from typing import Any

import schemathesis


@schemathesis.serializer("application/jsonl")
def as_lines(context: Any, value: Any) -> bytes:
    """Send a text as it is: the lines in it are JSON, or they are not."""
    return value.encode("utf-8", "replace") if isinstance(value, str) else repr(value).encode()
