"""Gives the files of model repositories ids that stay: "org/name:Q4_K_M", as other programs call them too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from localllm.models.file_names import quantisation_in
from localllm.models.listing import Candidate, Listing, group_parts


def add_repository(listing: Listing, repository: str, root: Path, files: Sequence[Path], store: str) -> None:
    """Add the models of ``repository`` ("org/name"), whose files lie in or below ``root``.

    Of several files of one quantisation the one with the shortest name is called by it, the others by their names. The
    only model of a repository is also known as the repository itself.
    """
    groups = sorted(group_parts(list(files)), key=lambda group: (len(group[0]), group[0], str(group[1][0].parent)))
    models = [(stem, paths) for stem, paths in groups if "mmproj" not in stem.lower()]
    names = _names(models, root)
    aliases = (repository,) if len(models) == 1 else ()
    for stem, paths in groups:
        is_model = (stem, paths) in models
        listing.candidates.append(
            Candidate(
                id=f"{repository}:{names[paths[0]] if is_model else stem}",
                paths=paths,
                home=str(root),
                store=store,
                aliases=aliases if is_model else (),
            )
        )


def _names(models: Sequence[tuple[str, tuple[Path, ...]]], root: Path) -> dict[Path, str]:
    """Return what to call each model within its repository, by its first file."""
    names: dict[Path, str] = {}
    taken: set[str] = set()
    stems = Counter(stem for stem, _ in models)
    for stem, paths in models:
        folder = paths[0].parent
        inner = folder.relative_to(root).as_posix() if folder != root else ""
        quantisation = quantisation_in(stem) or quantisation_in(inner.rpartition("/")[2])
        full = f"{inner}/{stem}" if inner and stems[stem] > 1 else stem
        name = full if quantisation is None or quantisation in taken else quantisation
        taken.add(name)
        names[paths[0]] = name
    return names
