"""Goes through everything that the places list: what is a model, what is broken, what was not read yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from localllm.contract.errors import ModelFileError
from localllm.contract.model import ModelKind
from localllm.models.companions import companions_of
from localllm.models.discovery import Companion, Found, examine
from localllm.models.file_names import fold
from localllm.models.gguf_types import EMBEDDING_ARCHITECTURES
from localllm.models.headers import HeaderCache, Stamp, stamp
from localllm.models.listing import Candidate, Listing


@dataclass(slots=True)
class Survey:
    """All that there is. ``broken`` says by name why not, ``pending`` are those whose headers were not read yet."""

    found: dict[str, Found] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)
    pending: dict[str, Candidate] = field(default_factory=dict)
    files: dict[Path, Stamp | None] = field(default_factory=dict)


Outcome = Found | Companion | str | None
"""A string is the sentence why the files can't be used."""

Stamps = tuple[Stamp | None, ...]


class Surveyor:
    """Examines candidates, and remembers what came out for as long as their files do not change."""

    def __init__(self) -> None:
        self.headers = HeaderCache()
        self._known: dict[Candidate, tuple[Stamps, Outcome]] = {}

    def survey(self, listings: Iterable[Listing], may_read: Callable[[Candidate], bool]) -> Survey:
        """Examine all candidates. Of two of one name the first counts.

        ``may_read`` is asked before a header is read that is not known yet; for what it refuses, see
        ``Survey.pending``.
        """
        result = Survey()
        companions: list[Companion] = []
        known: dict[Candidate, tuple[Stamps, Outcome]] = {}
        for listing in listings:
            result.problems += listing.problems
            for candidate in listing.candidates:
                stamps = tuple(stamp(path) for path in candidate.paths)
                result.files.update(zip(candidate.paths, stamps, strict=True))
                entry = self._known.get(candidate)
                if entry is None or entry[0] != stamps:
                    if not all(map(self.headers.knows, candidate.paths)) and not may_read(candidate):
                        result.pending.setdefault(candidate.id, candidate)
                        continue
                    entry = stamps, self._examine(candidate)
                known[candidate] = entry
                _note(candidate, entry[1], result, companions)
        self._known = known
        _add_companions(result, companions)
        _point_out_twins(result)
        return result

    def _examine(self, candidate: Candidate) -> Outcome:
        try:
            return examine(candidate, self.headers)
        except ModelFileError as error:
            return error.message


def _note(candidate: Candidate, outcome: Outcome, result: Survey, companions: list[Companion]) -> None:
    if isinstance(outcome, str):
        result.problems.append(outcome)
        if candidate.role is None:
            for name in (candidate.id, *candidate.aliases):
                result.broken.setdefault(name, outcome)
    elif isinstance(outcome, Companion):
        companions.append(outcome)
    elif outcome is not None:
        _add(outcome, result)


def _add_companions(result: Survey, companions: Iterable[Companion]) -> None:
    facts = companions_of(list(result.found.values()), companions)
    for model_id, more in facts.items():
        model = result.found[model_id]
        result.found[model_id] = replace(model, meta={**model.meta, **more})


def _add(model: Found, result: Survey) -> None:
    first = result.found.setdefault(model.id, model)
    if first is not model:
        advice = "one of the two is enough" if model.candidate.store else "rename one of the files"
        result.problems.append(f"{model.path}: {first.path} is already served as {model.id!r}; {advice}")
        return
    arch = model.meta["arch"]
    if model.candidate.kind is ModelKind.CHAT and arch in EMBEDDING_ARCHITECTURES:
        result.problems.append(
            f"{model.path.name}: it lies in chat/, but its architecture {arch} can't write text; "
            f"move it to embedding/ or reranker/"
        )


def _point_out_twins(result: Survey) -> None:
    """Say which names only differ in case: on many systems, and for many people, they are the same."""
    names: dict[str, str] = {}
    for model_id in result.found:
        first = names.setdefault(fold(model_id), model_id)
        if first != model_id:
            result.problems.append(
                f"{result.found[model_id].path}: {model_id!r} and {first!r} differ only in case; rename one of them"
            )
