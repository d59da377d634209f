"""What one pull is to do, as plain JSON: the server writes it to the fetching process's stdin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from localllm.contract.model import ModelKind


@dataclass(frozen=True, slots=True)
class FetchPolicy:
    """The limits of all pulls.

    A connection is given up after ``stall_seconds`` without a byte, or slower than ``min_bytes_per_second`` over that
    time (0: any speed will do), and tried again up to ``retries`` times in a row without progress. ``reserve_bytes``
    stay free on the disk.
    """

    private_hosts: bool = False
    http_hosts: tuple[str, ...] = ()
    stall_seconds: float = 30.0
    min_bytes_per_second: float = 0.0
    reserve_bytes: int = 1_000_000_000
    retries: int = 6


@dataclass(frozen=True, slots=True)
class PullJob:
    """One pull. ``source`` is all that was asked for, ``reference`` what its scheme's plugin reads of it.

    ``factory`` and ``settings`` are the plugin's. ``directory`` is the models' folder. ``kind`` and ``model_id``
    replace what the file says of itself and what it is called.
    """

    source: str
    reference: str
    factory: str
    directory: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    kind: ModelKind | None = None
    model_id: str | None = None
    policy: FetchPolicy = field(default_factory=FetchPolicy)

    def to_plain(self) -> dict[str, Any]:
        """Return plain JSON; :meth:`from_plain` is its inverse."""
        return asdict(self)

    @staticmethod
    def from_plain(data: Mapping[str, Any]) -> PullJob:
        """Rebuild the job. Raises ``KeyError``, ``TypeError`` or ``ValueError`` for anything else."""
        policy = FetchPolicy(**{**data["policy"], "http_hosts": tuple(data["policy"]["http_hosts"])})
        kind = None if data["kind"] is None else ModelKind(data["kind"])
        return PullJob(**{**data, "kind": kind, "policy": policy})
