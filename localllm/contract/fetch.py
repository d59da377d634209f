"""How models are fetched: what a source says of its files, what a pull reports, and how it fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from localllm.contract.errors import LocalLLMError
from localllm.contract.model import ModelKind


class PullError(LocalLLMError):
    """A file could not be fetched: the other side refused it, broke off too often, or sent something else."""

    code = "pull_failed"


class AddressRefusedError(LocalLLMError):
    """An address leads, or redirects, to a place that pulls may not reach: a private network, another scheme."""

    code = "address_refused"


class StorageFullError(LocalLLMError):
    """The disk of the models' folder has too little room for what is to be fetched, and for the reserve."""

    code = "insufficient_storage"


class PullCancelledError(LocalLLMError):
    """Somebody cancelled the pull, or everybody who waited for it left. What has arrived is kept for the next one."""

    code = "pull_cancelled"


class FileRole(StrEnum):
    """What one fetched file is for."""

    MODEL = "model"
    PROJECTOR = "projector"


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of a model: where it lies, and what is known of it beforehand.

    Either ``url`` or ``path`` (absolute, on this machine) is set. ``name`` is what the other side calls it; its last
    component, sanitised, becomes the file's name here. ``sha256`` is in lower-case hex digits; without it the file is
    kept as unverified. ``headers`` (a token, for instance) go to the origin of ``url`` and nowhere it redirects to.
    """

    name: str
    url: str | None = None
    path: str | None = None
    size_bytes: int | None = None
    sha256: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    role: FileRole = FileRole.MODEL


@dataclass(frozen=True, slots=True)
class Resolution:
    """What a reference stands for: the files of one model, all parts of a split one in order, and its projector.

    ``origin`` names it for good, commit included, if the source can tell. ``kind`` is a hint; the header decides where
    it is missing. ``trusted_origins`` ("http://10.0.0.7:8080") were configured by whoever runs this machine: they may
    be private, and without TLS.
    """

    files: tuple[RemoteFile, ...]
    origin: str
    model_id: str | None = None
    kind: ModelKind | None = None
    trusted_origins: tuple[str, ...] = ()


class ModelSource(Protocol):
    """Knows where the models of one scheme lie. Lives in a process of its own, which ends with the pull."""

    def resolve(self, reference: str) -> Resolution:
        """Return the files that ``reference`` (what follows the scheme and its colon) stands for. May block.

        Raises ``InvalidRequestError`` for a reference that can't be meant, ``PullError`` for one that can't be had.
        """
        ...


SourceFactory = Callable[[Mapping[str, Any]], ModelSource]
"""Named as ``"package.module:function"`` and called with the plugin's own settings as plain JSON."""


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """A place that models can be pulled from, as a plugin registers it.

    ``scheme`` stands before the first colon of a source ("hf"). ``factory`` is imported in the fetching process only.
    ``local`` sources read this machine's own files, which callers from elsewhere must not. ``example`` is for help
    texts.
    """

    scheme: str
    factory: str
    example: str = ""
    local: bool = False


class PullStatus(StrEnum):
    """How far a pull is; the words are Ollama's where it has one."""

    QUEUED = "queued"
    RESOLVING = "resolving"
    DOWNLOADING = "downloading"
    VERIFYING = "verifying"
    SUCCESS = "success"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether nothing more will happen."""
        return self in (PullStatus.SUCCESS, PullStatus.FAILED, PullStatus.CANCELLED)


@dataclass(frozen=True, slots=True)
class PullProgress:
    """One moment of a pull. Bytes count all its files; ``speed`` is in bytes per second, None while it isn't known."""

    status: PullStatus
    file: str | None = None
    completed_bytes: int = 0
    total_bytes: int | None = None
    speed: float | None = None
    model_id: str | None = None

    @property
    def percent(self) -> float | None:
        """Share that has arrived; None while the size isn't known."""
        if not self.total_bytes:
            return None
        return round(100 * self.completed_bytes / self.total_bytes, 1)

    @property
    def eta_seconds(self) -> int | None:
        """Seconds that the rest takes at this speed."""
        if self.total_bytes is None or not self.speed:
            return None
        return round((self.total_bytes - self.completed_bytes) / self.speed)


@dataclass(frozen=True, slots=True)
class PulledFile:
    """One file in its place. ``verified``: its sha256 was known before, and is the same."""

    path: str
    size_bytes: int
    sha256: str
    verified: bool
    role: FileRole = FileRole.MODEL


@dataclass(frozen=True, slots=True)
class PullResult:
    """What a pull brought. ``fresh`` is False when all of it was there already."""

    model_id: str
    kind: ModelKind
    source: str
    origin: str
    files: tuple[PulledFile, ...]
    fresh: bool = True

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size_bytes for file in self.files)

    @property
    def verified(self) -> bool:
        """Whether the sha256 of every file was known beforehand."""
        return all(file.verified for file in self.files)

    def to_plain(self) -> dict[str, Any]:
        """Return plain JSON; :meth:`from_plain` is its inverse."""
        return asdict(self)

    @staticmethod
    def from_plain(data: Mapping[str, Any]) -> PullResult:
        """Rebuild the result. Raises ``KeyError``, ``TypeError`` or ``ValueError`` for anything else."""
        files = tuple(PulledFile(**{**file, "role": FileRole(file["role"])}) for file in data["files"])
        return PullResult(
            model_id=str(data["model_id"]),
            kind=ModelKind(data["kind"]),
            source=str(data["source"]),
            origin=str(data["origin"]),
            files=files,
            fresh=bool(data["fresh"]),
        )
