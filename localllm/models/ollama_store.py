"""Lists Ollama's models where they lie: its manifests name blobs, which are GGUF files.

Ollama's own template, parameters and system prompt are layers of a manifest that are left alone: the chat template in
the GGUF file itself is used, and what else a model is to have stands in its definition.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from localllm.models.file_names import printable
from localllm.models.listing import Candidate, CompanionRole, Listing

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_MAX_MANIFEST_BYTES = 1024 * 1024
_MAX_MANIFESTS = 10_000
_DEPTH = 4  # registry / namespace / model / tag
_MODEL_LAYER = "application/vnd.ollama.image.model"
_ROLES: dict[str, CompanionRole | None] = {
    _MODEL_LAYER: None,
    "application/vnd.ollama.image.projector": "projector",
    "application/vnd.ollama.image.adapter": "adapter",
}


class _ManifestError(Exception):
    """Why a manifest can't be used, as the rest of a sentence."""


def list_ollama(directory: Path, store: str) -> Listing:
    """Return what the manifests in ``directory`` name, each model as "model:tag", or "namespace/model:tag"."""
    listing = Listing()
    manifests = directory / "manifests"
    blobs = directory / "blobs"
    listing.watch(directory)
    listing.watch(blobs)  # a blob that is missing may come
    for number, path in enumerate(_manifests(listing, manifests, _DEPTH)):
        if number == _MAX_MANIFESTS:
            listing.problems.append(f"{manifests}: it has more than {_MAX_MANIFESTS} manifests; the rest is left out")
            break
        names = path.relative_to(manifests).parts
        if len(names) != _DEPTH or not all(_PART.fullmatch(name) for name in names):
            continue
        listing.watch(path)
        try:
            _add_model(listing, names, path, blobs, store)
        except _ManifestError as error:
            listing.problems.append(f"{_name(names)}: {error} ({printable(str(path))}); pull it again with Ollama")
    return listing


def _manifests(listing: Listing, folder: Path, depth: int) -> Iterator[Path]:
    entries = listing.entries(folder)
    if depth == 1:
        yield from entries.files
        return
    for inner in entries.folders:
        yield from _manifests(listing, inner, depth - 1)


def _name(names: tuple[str, ...]) -> str:
    registry, namespace, model, tag = names
    if registry != "registry.ollama.ai":
        return f"{registry}/{namespace}/{model}:{tag}"
    return f"{model}:{tag}" if namespace == "library" else f"{namespace}/{model}:{tag}"


def _add_model(listing: Listing, names: tuple[str, ...], manifest: Path, blobs: Path, store: str) -> None:
    model_id = _name(names)
    layers = [(_ROLES[kind], digest) for kind, digest in _layers(manifest) if kind in _ROLES]
    models = [digest for role, digest in layers if role is None]
    if len(models) > 1:  # parts of a split, whose names say nothing of their order
        message = f"its manifest names {len(models)} model files"
        raise _ManifestError(message)
    if not models:
        return  # a model that runs elsewhere, or one that is not a GGUF file
    aliases = (model_id.removesuffix(":latest"),) if model_id.endswith(":latest") else ()
    for role, digest in layers:
        candidate = Candidate(
            id=model_id if role is None else f"{model_id} {digest}",
            paths=(_blob(blobs, digest),),
            home=str(manifest),
            store=store,
            aliases=aliases if role is None else (),
            role=role,
            label=model_id,
        )
        listing.candidates.append(candidate)


def _layers(manifest: Path) -> list[tuple[str, str]]:
    """Return media type and digest of each layer."""
    try:
        with manifest.open("rb") as file:
            content = file.read(_MAX_MANIFEST_BYTES + 1)
        if len(content) > _MAX_MANIFEST_BYTES:
            message = f"its manifest has more than {_MAX_MANIFEST_BYTES} bytes"
            raise _ManifestError(message)
        layers: Any = json.loads(content)["layers"]
        return [(str(layer["mediaType"]), str(layer["digest"])) for layer in layers]
    except OSError as error:
        message = f"its manifest can't be read: {error.strerror or error}"
        raise _ManifestError(message) from None
    except (ValueError, KeyError, TypeError, RecursionError):
        message = "its manifest is no manifest"
        raise _ManifestError(message) from None


def _blob(blobs: Path, digest: str) -> Path:
    """Return where a blob lies; a digest of any other form could name a file anywhere."""
    if not DIGEST.fullmatch(digest):
        message = f"its manifest names a file by {digest[:80]!r}, which is no digest"
        raise _ManifestError(message)
    path = blobs / digest.replace(":", "-")
    try:
        is_inside = path.resolve(strict=True).is_relative_to(blobs.resolve())
    except (OSError, RuntimeError):
        message = f"its file {digest[:19]}… is missing"
        raise _ManifestError(message) from None
    if not is_inside:
        message = f"its file {digest[:19]}… is a link that leads out of the store"
        raise _ManifestError(message)
    return path
