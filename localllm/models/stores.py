"""Where other programs keep their models: each store by its name, or by the path of its folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from localllm.models.file_names import printable
from localllm.models.folders import FOLDERS, list_plain_store
from localllm.models.huggingface_store import list_huggingface
from localllm.models.listing import Listing
from localllm.models.lmstudio_store import list_lmstudio
from localllm.models.ollama_store import list_ollama

STORE_NAMES = ("huggingface", "lmstudio", "ollama")

Lister = Callable[[Path, str], Listing]


@dataclass(frozen=True, slots=True)
class Store:
    """One store: ``name`` is shown with its models, ``directory`` is where it lies, ``layout`` one of the names.

    Without a ``layout`` the folder itself shows it. Nothing is ever written into a store.
    """

    name: str
    directory: Path
    layout: str | None = None

    def look(self) -> Listing:
        """Look into it."""
        probe = Listing()
        layout = self.layout or _layout(self.directory, probe)
        listing = _LISTERS[layout](self.directory, self.name)
        listing.watched |= probe.watched
        if not self.directory.is_dir():
            hint = f"; set {_VARIABLES[self.layout]} if it is elsewhere" if self.layout in _VARIABLES else ""
            listing.problems.append(f"models.stores: {printable(str(self.directory))} is no folder{hint}")
        return listing


def find_stores(entries: Sequence[str], environ: Mapping[str, str], base: Path) -> tuple[Store, ...]:
    """Return the stores that ``models.stores`` lists: names of programs, or paths that count from ``base``.

    The programs' own environment variables are heeded.
    """
    stores: dict[Path, Store] = {}
    for entry in entries:
        if entry in STORE_NAMES:
            store = Store(entry, _DIRECTORIES[entry](environ), entry)
        else:
            path = base / _expand(entry, environ)
            store = Store(str(path), path)
        stores.setdefault(store.directory, store)
    return tuple(stores.values())


def _layout(directory: Path, probe: Listing) -> str:
    """Return whose folder it is, as what lies in it shows; "plain" when it is nobody's. ``probe`` notes what counts."""
    folders = probe.entries(directory).folders
    names = {folder.name for folder in folders}
    if {"manifests", "blobs"} <= names:
        return "ollama"
    if any(name.startswith("models--") for name in names):
        return "huggingface"
    if names.isdisjoint(FOLDERS) and any(
        probe.entries(inner).models for folder in folders for inner in probe.entries(folder).folders
    ):
        return "lmstudio"
    return "plain"


def _huggingface(environ: Mapping[str, str]) -> Path:
    """As huggingface_hub.constants finds it."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if environ.get(variable):
            return _expand(environ[variable], environ)
    if environ.get("HF_HOME"):
        return _expand(environ["HF_HOME"], environ) / "hub"
    cache = environ.get("XDG_CACHE_HOME") or str(_home(environ) / ".cache")
    return _expand(cache, environ) / "huggingface" / "hub"


def _lmstudio(environ: Mapping[str, str]) -> Path:
    new, old = (_home(environ) / path / "models" for path in (".lmstudio", ".cache/lm-studio"))
    return old if old.is_dir() and not new.is_dir() else new


def _ollama(environ: Mapping[str, str]) -> Path:
    if environ.get("OLLAMA_MODELS"):
        return _expand(environ["OLLAMA_MODELS"], environ)
    return _home(environ) / ".ollama" / "models"


def _home(environ: Mapping[str, str]) -> Path:
    named = environ.get("HOME") or environ.get("USERPROFILE")
    return Path(named) if named else Path.home()


def _expand(path: str, environ: Mapping[str, str]) -> Path:
    if path == "~" or path.startswith(("~/", "~\\")):
        return _home(environ) / path[2:]
    return Path(path)


_DIRECTORIES: Mapping[str, Callable[[Mapping[str, str]], Path]] = {
    "huggingface": _huggingface,
    "lmstudio": _lmstudio,
    "ollama": _ollama,
}
_VARIABLES: Mapping[str | None, str] = {"huggingface": "HF_HUB_CACHE", "ollama": "OLLAMA_MODELS"}
_LISTERS: Mapping[str, Lister] = {
    "huggingface": list_huggingface,
    "lmstudio": list_lmstudio,
    "ollama": list_ollama,
    "plain": list_plain_store,
}
