"""Lists the models of LM Studio where they lie: PUBLISHER/REPOSITORY/FILE.gguf."""

from __future__ import annotations

from pathlib import Path

from localllm.models.listing import Listing
from localllm.models.repository_ids import add_repository


def list_lmstudio(directory: Path, store: str) -> Listing:
    """Return what lies in the folders of publishers and their repositories. Links that lead out are not followed."""
    listing = Listing()
    for publisher in listing.entries(directory).folders:
        for repository in listing.entries(publisher).folders:
            files = [path for path in listing.entries(repository).models if listing.is_inside(path, directory)]
            add_repository(listing, f"{publisher.name}/{repository.name}", repository, files, store)
    return listing
