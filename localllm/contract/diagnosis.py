"""What ``localllm doctor`` reports: findings, each with what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    """How a finding is marked."""

    GOOD = "ok"
    NOTE = "note"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; ``advice`` is what to do about it, one thing a line; ``data`` is for programs."""

    verdict: Verdict
    subject: str
    text: str
    advice: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
