"""Lists folders of model files that people fill by hand: by kind, flat, and one folder for each model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from localllm.contract.model import ModelKind
from localllm.models.listing import Candidate, Listing, group_parts

FOLDERS: Mapping[str, ModelKind] = {kind.value: kind for kind in ModelKind}
"""Subfolders of the models' folder; each holds models of one kind."""


def list_models_folder(directory: Path) -> Listing:
    """Look into chat/, embedding/ and reranker/, into the folders in them, and for files that lie beside them.

    What other folders hold (training/) is no model. Links are followed: whoever fills this folder may point elsewhere.
    """
    listing = Listing()
    for name, kind in FOLDERS.items():
        entries = listing.entries(directory / name)
        _add_files(listing, entries.models, directory / name, kind, crowded=True)
        for folder in entries.folders:
            _add_files(listing, listing.entries(folder).models, folder, kind, crowded=False)
    _add_files(listing, listing.entries(directory).models, directory, None, crowded=True)
    return listing


def list_plain_store(directory: Path, store: str) -> Listing:
    """Do the same in a folder of another program, in which every folder may be one for a model."""
    listing = list_models_folder(directory)
    for folder in listing.entries(directory).folders:
        if folder.name not in FOLDERS:
            _add_files(listing, listing.entries(folder).models, folder, None, crowded=False)
    listing.candidates = [replace(candidate, store=store) for candidate in listing.candidates]
    return listing


def _add_files(listing: Listing, files: list[Path], home: Path, kind: ModelKind | None, *, crowded: bool) -> None:
    for stem, paths in group_parts(files):
        listing.candidates.append(Candidate(stem, paths, str(home), crowded=crowded, kind=kind))
