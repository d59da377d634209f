"""What one place has to offer before any file is opened: candidates for models, and what to watch for changes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from localllm.contract.model import ModelKind
from localllm.models.file_names import PART, model_stem, printable
from localllm.models.headers import Stamp, stamp

SETTLE_SECONDS = 2.0
"""A change may hide in the same tick of the file system's clock as the one before it; FAT's ticks are the longest."""

CompanionRole = Literal["projector", "adapter"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """Files that may be a model: one, or the parts of a split in any order.

    ``home`` is what it has in common with its projector and its adapters; in a ``crowded`` home (a folder of many
    models) names must fit as well. ``kind`` is what the folder says, ``role`` what the store says, ``store`` the name
    of a store of another program. ``label`` replaces file names that say nothing (a digest) in sentences.
    """

    id: str
    paths: tuple[Path, ...]
    home: str
    crowded: bool = False
    kind: ModelKind | None = None
    store: str | None = None
    aliases: tuple[str, ...] = ()
    role: CompanionRole | None = None
    label: str | None = None


@dataclass(slots=True)
class Listing:
    """What one look at a place brought. Something there changed when one of ``watched`` has another stamp."""

    candidates: list[Candidate] = field(default_factory=list)
    watched: dict[Path, Stamp | None] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def watch(self, path: Path) -> Stamp | None:
        """Note how a file or folder is now; to be called before it is read."""
        return self.watched.setdefault(path, stamp(path))

    def entries(self, folder: Path) -> Entries:
        """Return what lies in a folder, by name; nothing where there is none. Hidden entries are left out."""
        found = Entries([], [])
        self.watch(folder)
        try:
            with os.scandir(folder) as entries:
                names = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda e: e.name)
        except FileNotFoundError:
            return found
        except OSError as error:
            self.problems.append(f"{printable(str(folder))}: can't be listed: {error.strerror or error}")
            return found
        for entry in names:
            if _is(entry.is_dir):
                found.folders.append(folder / entry.name)
            elif _is(entry.is_file):
                found.files.append(folder / entry.name)
            elif entry.is_symlink():
                self.watch(folder / entry.name)  # what it points to may come later
        return found

    def is_inside(self, path: Path, root: Path) -> bool:
        """Tell whether ``path`` lies in ``root``, both with their links followed; if not, that is a problem."""
        try:
            if path.resolve(strict=True).is_relative_to(root.resolve()):
                return True
        except (OSError, RuntimeError):  # removed meanwhile, or links in a circle
            return False
        self.problems.append(f"{printable(str(path))}: it is a link that leads out of {root}; it is not served")
        return False


@dataclass(frozen=True, slots=True)
class Entries:
    """The files and folders in a folder, each by name."""

    files: list[Path]
    folders: list[Path]

    @property
    def models(self) -> list[Path]:
        """The files that are called .gguf."""
        return [path for path in self.files if path.suffix.lower() == ".gguf"]


def _is(question: Callable[[], bool]) -> bool:
    try:
        return question()
    except OSError:  # a link that leads in circles
        return False


def group_parts(paths: list[Path]) -> list[tuple[str, tuple[Path, ...]]]:
    """Return names and files of what may be one model each: parts together, whole files of the same name apart."""
    groups: dict[tuple[str, bool, Path], list[Path]] = {}
    for path in paths:
        key = model_stem(path.stem), bool(PART.match(path.stem)), path.parent
        groups.setdefault(key, []).append(path)
    return [(stem, tuple(group)) for (stem, _, _), group in groups.items()]


class Place:
    """One place that is looked at again and again, and listed anew only when something in it changed.

    ``clock`` is monotonic, in seconds.
    """

    def __init__(self, make_listing: Callable[[], Listing], clock: Callable[[], float]) -> None:
        self._make_listing = make_listing
        self._clock = clock
        self._settle_at: float | None = None
        self.listing = Listing()
        self.look_again()

    def changed(self, *, hidden: bool = False) -> bool:
        """Tell whether it must be listed anew, for the price of a stat for each of its folders.

        Of a change that may be ``hidden``, within moments of another, one who can't wait asks before it would show.
        """
        if self._settle_at is not None and (hidden or self._clock() >= self._settle_at):
            return True
        return any(stamp(path) != known for path, known in self.listing.watched.items())

    def look_again(self) -> None:
        """List it anew."""
        now = self._clock()
        before = self.listing.watched
        self.listing = self._make_listing()
        if self.listing.watched != before:
            self._settle_at = now + SETTLE_SECONDS
        elif self._settle_at is not None and now >= self._settle_at:
            self._settle_at = None
