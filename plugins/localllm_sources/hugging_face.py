"""``hf:org/repo[/file.gguf][:quantisation][@revision]``: models of the Hugging Face hub, or of a mirror of it.

``HF_ENDPOINT`` names the hub, ``HF_TOKEN`` (or ``hf auth login``) opens gated repositories, ``HF_HUB_OFFLINE`` and
``HF_HOME`` mean what they always do. Imported in the fetching process only: ``huggingface_hub`` is big.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from huggingface_hub import HfApi, constants, get_token, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from localllm import FileRole, InvalidRequestError, PullError, RemoteFile, Resolution

from .choosing import Choice, HubFile, choose

_REFERENCE = re.compile(
    r"(?P<repo>[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95})"
    r"(?:/(?P<file>[^:@\\\x00-\x1f]+\.gguf))?"
    r"(?::(?P<label>[A-Za-z0-9._-]{1,60}))?"
    r"(?:@(?P<revision>[A-Za-z0-9._/-]{1,200}))?"
)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LIST_SECONDS = 30.0
_HTTP_ERRORS: tuple[type[BaseException], ...] = HfHubHTTPError.__bases__
"""OSError, and the base of all errors of the HTTP library that this release of huggingface_hub brings along."""


class HubSource:
    """Asks the hub for a repository's files; where it can't be reached, its cache on this disk."""

    def __init__(self, *, quantisation: str = "Q4_K_M", use_hub_cache: bool = True, projector: bool = True) -> None:
        self._quantisation = quantisation
        self._use_cache = use_hub_cache
        self._projector = projector

    def resolve(self, reference: str) -> Resolution:
        """Return one model of a repository, of the quantisation asked for, with all its parts and its projector."""
        found = _REFERENCE.fullmatch(reference)
        if found is None or (found["file"] and found["label"]) or ".." in reference:
            message = (
                f"hf:{reference[:200]} is not understood; write hf:org/repo, hf:org/repo:Q4_K_M or "
                f"hf:org/repo/file.gguf, each with @revision behind it if need be."
            )
            raise InvalidRequestError(message, param="source")
        repo, revision = found["repo"], found["revision"]
        place = f"hf:{repo}"
        commit, files = self._list(repo, revision)
        choice = choose(files, found["file"] or found["label"], self._quantisation, place)
        remote = [self._remote(repo, commit, file, FileRole.MODEL) for file in choice.files]
        if self._projector and choice.projector is not None:
            remote.append(self._remote(repo, commit, choice.projector, FileRole.PROJECTOR))
        origin = f"{place}/{choice.files[0].path}@{commit}"
        return Resolution(tuple(remote), origin, _model_id(repo, choice), trusted_origins=(_endpoint_origin(),))

    def _list(self, repo: str, revision: str | None) -> tuple[str, Sequence[HubFile]]:
        """Return commit and files of a repository. Raises ``PullError`` with what to do about it."""
        try:
            if constants.HF_HUB_OFFLINE:
                return self._list_cached(repo, revision, "HF_HUB_OFFLINE is set")
            info = HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=_LIST_SECONDS)
        except GatedRepoError:
            page = f"{constants.ENDPOINT}/{repo}"
            message = f"hf:{repo} is gated: accept its terms at {page}, and set HF_TOKEN to a token of that account."
            raise PullError(message) from None
        except RepositoryNotFoundError:
            message = f"hf:{repo} is not there, or is private: check the name, or set HF_TOKEN."
            raise PullError(message) from None
        except RevisionNotFoundError:
            message = f"hf:{repo} has no revision {revision!r}."
            raise PullError(message) from None
        except _HTTP_ERRORS as error:
            return self._list_cached(repo, revision, f"{constants.ENDPOINT} can't be reached ({_reason(error)})")
        files = [
            HubFile(one.rfilename, one.lfs.size if one.lfs else one.size, one.lfs.sha256 if one.lfs else None)
            for one in info.siblings or ()
        ]
        return info.sha or revision or "main", files

    def _list_cached(self, repo: str, revision: str | None, reason: str) -> tuple[str, Sequence[HubFile]]:
        """Return what the hub's cache has of a repository."""
        name = f"models--{repo.replace('/', '--')}"
        folder = Path(constants.HF_HUB_CACHE) / name
        ref = folder / "refs" / (revision or "main")
        commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else revision or ""
        snapshot = folder / "snapshots" / commit
        if not (self._use_cache and commit and ".." not in commit and snapshot.is_dir()):
            message = f"hf:{repo} can't be listed: {reason}, and the cache {constants.HF_HUB_CACHE} does not have it."
            raise PullError(message)
        paths = [path for path in sorted(snapshot.rglob("*")) if path.is_file()]
        return commit, [
            HubFile(path.relative_to(snapshot).as_posix(), path.stat().st_size, _cached_sha256(path)) for path in paths
        ]

    def _remote(self, repo: str, commit: str, file: HubFile, role: FileRole) -> RemoteFile:
        """Return where the file lies: in the cache on this disk, or at the hub."""
        cached = try_to_load_from_cache(repo, file.path, revision=commit) if self._use_cache else None
        if isinstance(cached, str) and file.size_bytes in (None, Path(cached).stat().st_size):
            return RemoteFile(file.path, path=cached, size_bytes=file.size_bytes, sha256=file.sha256, role=role)
        if constants.HF_HUB_OFFLINE:
            message = f"hf:{repo}/{file.path} is not in the cache, and HF_HUB_OFFLINE is set."
            raise PullError(message)
        token = get_token()
        return RemoteFile(
            file.path,
            url=hf_hub_url(repo, file.path, revision=commit),
            size_bytes=file.size_bytes,
            sha256=file.sha256,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            role=role,
        )


def make_source(settings: Mapping[str, Any]) -> HubSource:
    """Return the source with the settings of ``[plugin.sources]``."""
    return HubSource(**settings)


def _model_id(repo: str, choice: Choice) -> str | None:
    """Return an id where the file's name would be none: it is called after its quantisation alone."""
    stem = PurePosixPath(choice.files[0].path).stem
    if choice.label and stem.upper().startswith(choice.label):
        return f"{repo.split('/')[1].removesuffix('-GGUF').removesuffix('-gguf')}-{choice.label}"
    return None


def _cached_sha256(path: Path) -> str | None:
    """Return the hash that the cache calls a file by; small ones have git's hash instead, which is shorter."""
    name = path.resolve().name
    return name if _SHA256.fullmatch(name) else None


def _endpoint_origin() -> str:
    """Return the hub's scheme, host and port as addresses are compared by."""
    parts = urlsplit(constants.ENDPOINT)
    default = {"https": 443, "http": 80}.get(parts.scheme)
    host = (parts.hostname or "").lower()
    host = f"[{host}]" if ":" in host else host
    port = f":{parts.port}" if parts.port not in (None, default) else ""
    return f"{parts.scheme}://{host}{port}"


def _reason(error: BaseException) -> str:
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    return f"status {status}" if status is not None else type(error).__name__
