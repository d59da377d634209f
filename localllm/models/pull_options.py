"""What all pulls of a server, or of the command line, share; and how a source becomes a job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from localllm.contract.errors import InvalidRequestError
from localllm.contract.fetch import SourceSpec
from localllm.contract.model import ModelKind
from localllm.models.fetch.job import FetchPolicy, PullJob
from localllm.models.fetch.names import check_model_id
from localllm.models.known import KnownModels

MAX_SOURCE_CHARACTERS = 4096


@dataclass(frozen=True, slots=True)
class PullOptions:
    """``sources`` are the registered ones by scheme, ``settings`` the plain settings of the plugin of each.

    Without ``local_sources`` those that read this machine's own files are refused.
    """

    directory: Path
    sources: Mapping[str, SourceSpec]
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    policy: FetchPolicy = field(default_factory=FetchPolicy)
    known: KnownModels = field(default_factory=KnownModels)
    local_sources: bool = True


def make_job(
    options: PullOptions, source: str, *, kind: ModelKind | None = None, model_id: str | None = None
) -> PullJob:
    """Return what is to be done for ``source``: a name of the known models, or a scheme and what its plugin reads.

    Raises ``InvalidRequestError`` for a source that no plugin fetches.
    """
    known = options.known.find(source)
    if known is not None:
        source, kind, model_id = known.source, kind or known.kind, model_id or known.name
    scheme, colon, reference = source.partition(":")
    spec = options.sources.get(scheme.lower()) if colon else None
    if spec is None or len(source) > MAX_SOURCE_CHARACTERS:
        raise _unknown_source(source, options)
    if spec.local and not options.local_sources:
        message = f"{scheme}: reads files of the server's own disk, which it does not do for callers from elsewhere."
        raise InvalidRequestError(message, param="source")
    if model_id is not None:
        check_model_id(model_id)
    return PullJob(
        source=f"{spec.scheme}:{reference}",
        reference=reference,
        factory=spec.factory,
        directory=str(options.directory),
        settings=options.settings.get(spec.scheme, {}),
        kind=kind,
        model_id=model_id,
        policy=options.policy,
    )


def _unknown_source(source: str, options: PullOptions) -> InvalidRequestError:
    examples = ", ".join(spec.example or f"{scheme}:…" for scheme, spec in sorted(options.sources.items()))
    message = (
        f"{source[:200]!r} can't be fetched: give a name of `localllm models list --available`, or one of: "
        f"{examples or 'nothing, for no enabled plugin brings a source'}."
    )
    return InvalidRequestError(message, param="source")
