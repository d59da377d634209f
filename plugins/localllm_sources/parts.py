"""Names of the parts that a big model is split into."""

from __future__ import annotations

import re

MAX_PARTS = 512

PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.gguf)", re.IGNORECASE)


def part_names(name: str) -> list[str]:
    """Return the names of all parts in order, if ``name`` is one of several; else ``name`` alone."""
    found = PART.fullmatch(name)
    if found is None or not 0 < int(found["count"]) <= MAX_PARTS:
        return [name]
    count = int(found["count"])
    return [f"{found['stem']}-{number:05d}-of-{count:05d}{found['suffix']}" for number in range(1, count + 1)]
