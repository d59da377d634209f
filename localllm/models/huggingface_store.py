"""Lists the GGUF files of the Hugging Face cache where they lie: the current revision of every repository."""

from __future__ import annotations

import re
from pathlib import Path

from localllm.models.listing import Listing
from localllm.models.repository_ids import add_repository

_REPOSITORY = re.compile(r"models--(?P<org>[A-Za-z0-9._-]{1,96})--(?P<name>[A-Za-z0-9._-]{1,96})")
_REVISION = re.compile(r"[0-9A-Za-z._-]{1,128}")
_MAX_REVISION_BYTES = 256
_MAX_DEPTH = 2  # quantisations often have folders of their own


def list_huggingface(hub: Path, store: str) -> Listing:
    """Return what the cache at ``hub`` has: models--ORG--NAME/snapshots/REVISION/… with links into blobs/.

    The revision is the one that refs/main names; without that file the only one there. Links that lead out of the
    cache are not followed.
    """
    listing = Listing()
    for folder in listing.entries(hub).folders:
        found = _REPOSITORY.fullmatch(folder.name)
        if found is None:
            continue
        snapshot = _current_snapshot(listing, folder)
        if snapshot is None:
            continue
        files = [path for path in _files(listing, snapshot, _MAX_DEPTH) if listing.is_inside(path, hub)]
        add_repository(listing, f"{found['org']}/{found['name']}", snapshot, files, store)
    return listing


def _current_snapshot(listing: Listing, repository: Path) -> Path | None:
    reference = repository / "refs" / "main"
    snapshots = listing.entries(repository / "snapshots").folders
    listing.watch(reference)
    try:
        with reference.open("rb") as file:
            revision = file.read(_MAX_REVISION_BYTES).decode("ascii", "replace").strip()
    except OSError:
        return snapshots[0] if len(snapshots) == 1 else None
    if not _REVISION.fullmatch(revision) or revision in (".", ".."):
        listing.problems.append(f"{reference}: it names no revision; remove this folder and fetch the model again")
        return None
    return repository / "snapshots" / revision


def _files(listing: Listing, folder: Path, depth: int) -> list[Path]:
    entries = listing.entries(folder)
    deeper = [path for inner in entries.folders for path in _files(listing, inner, depth - 1)] if depth else []
    return [*entries.models, *deeper]
