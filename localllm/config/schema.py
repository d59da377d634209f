"""Every key of ``localllm.toml`` that the core owns, as data: name, type, default, help."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal


def setting(
    default: Any,  # noqa: ANN401
    help_text: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    secret: bool = False,
) -> Any:  # noqa: ANN401
    """Declare one key of a section: a dataclass field with help text and bounds. Lists and dicts are copied.

    A ``secret`` value is never printed. The section's ``__post_init__`` may raise ``ValueError`` for what bounds and
    types can't say; it becomes an error that names the section.
    """
    metadata = {"help": help_text, "minimum": minimum, "maximum": maximum, "secret": secret}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class ServerSection:
    """``[server]``: where to listen, who may ask, and the limits of one request."""

    host: str = setting("127.0.0.1", "Address to listen on. Beyond loopback an API key is required.")
    port: int = setting(8000, "Port to listen on; 0 takes a free one.", minimum=0, maximum=65535)
    api_keys: list[str] = setting(
        [], "Keys that clients send as 'Authorization: Bearer' or 'x-api-key'. None: no check.", secret=True
    )
    allow_public_without_key: bool = setting(False, "Listen beyond loopback without API keys.")
    allowed_hosts: list[str] = setting(
        [], "Host names, beside localhost and the bound address, that requests may be addressed to; '*' for any."
    )
    cors_origins: list[str] = setting([], "Origins of web pages that may call this server; '*' for any.")
    max_body_bytes: int = setting(8 * 1024 * 1024, "Largest request body, unless a route says otherwise.", minimum=1024)
    body_timeout_seconds: float = setting(30.0, "Time that a client has to send its whole body.", minimum=0.1)
    send_timeout_seconds: float = setting(
        30.0, "Time that a client may leave a stream unread before it is dropped.", minimum=0.1
    )
    request_timeout_seconds: float = setting(3600.0, "Longest time for one request, waiting included.", minimum=1)
    ping_seconds: float = setting(15.0, "Silence on a stream after which ': ping' is sent.", minimum=0.05)
    shutdown_seconds: float = setting(30.0, "Time that open requests get to finish after SIGTERM.", minimum=0)


@dataclass(frozen=True, slots=True)
class LogSection:
    """``[log]``: what is written to stderr."""

    level: Literal["debug", "info", "warning", "error"] = setting("info", "Least important lines that are written.")
    format: Literal["text", "json"] = setting("text", "Lines for people, or one JSON object a line.")


@dataclass(frozen=True, slots=True)
class PluginsSection:
    """``[plugins]``: which plugins run, in which order."""

    enabled: list[str] | None = setting(
        None, "Ordered allow-list of entry points; only these are imported. Absent: all built-in plugins."
    )


@dataclass(frozen=True, slots=True)
class ModelsSection:
    """``[models]``: where models are found and how long they stay."""

    directory: Path = setting(
        Path("models"), "Folder with chat/, embedding/ and reranker/; GGUF files are found there."
    )
    default: str | None = setting(
        None, "Model that answers when a request names none. Absent: the only, or the first, chat model."
    )
    default_embedding: str | None = setting(
        None, "The same for embeddings. Absent: the only, or the first, embedding model."
    )
    default_reranker: str | None = setting(
        None, "The same for reranking. Absent: the only, or the first, reranker; without one, the embedding model."
    )
    backend: str = setting("llama_cpp", "Engine for files that no [models.define] gives another one.")
    idle_unload_minutes: float = setting(30.0, "Unload a model that was not used for so long; 0 keeps it.", minimum=0)
    load_timeout_seconds: float = setting(600.0, "Give up loading a model after so long.", minimum=1)
    hang_timeout_seconds: float = setting(
        300.0, "Kill a model's worker that owes answers and has been silent for so long.", minimum=0.1
    )
    max_queue: int = setting(
        256, "Requests that one model takes at a time, running and waiting; more get 503.", minimum=1
    )
    share_prefix_cache: bool = setting(
        False, "Let requests with different API keys reuse each other's evaluated prompts."
    )
    define: dict[str, dict[str, Any]] = setting(
        {}, "Models by name: [models.define.NAME] with path, backend, kind, aliases and the backend's own keys."
    )


@dataclass(frozen=True, slots=True)
class Config:
    """A whole, checked configuration. ``plugin`` holds one section object per plugin that declared one."""

    server: ServerSection = field(default_factory=ServerSection)
    log: LogSection = field(default_factory=LogSection)
    plugins: PluginsSection = field(default_factory=PluginsSection)
    models: ModelsSection = field(default_factory=ModelsSection)
    state_directory: Path = setting(Path("state"), "Folder for what the server itself writes; mode 0700.")
    plugin: Mapping[str, Any] = field(default_factory=dict)
    source: Path | None = None  # the file that was read


SECTIONS: Mapping[str, type] = {
    "server": ServerSection,
    "log": LogSection,
    "plugins": PluginsSection,
    "models": ModelsSection,
}
"""The core's sections by name; what else a file may hold is ``state_directory`` and ``[plugin.<name>]``."""

OBSOLETE_KEYS: Mapping[str, str] = {}
"""Keys that once existed, each with the sentence to print. Empty until the first one is retired."""
