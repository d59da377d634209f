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
    restart: bool = False,
) -> Any:  # noqa: ANN401
    """Declare one key of a section: a dataclass field with help text and bounds. Lists and dicts are copied.

    A ``secret`` value is never printed. A key that needs a ``restart`` is named, but not changed, by a reload. The
    section's ``__post_init__`` may raise ``ValueError`` for what bounds and types can't say; it becomes an error that
    names the section.
    """
    metadata = {"help": help_text, "minimum": minimum, "maximum": maximum, "secret": secret, "restart": restart}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class ServerSection:
    """``[server]``: where to listen, who may ask, and the limits of one request."""

    host: str = setting("127.0.0.1", "Address to listen on. Beyond loopback an API key is required.", restart=True)
    port: int = setting(8000, "Port to listen on; 0 takes a free one.", minimum=0, maximum=65535, restart=True)
    api_keys: list[str] = setting(
        [], "Keys that clients send as 'Authorization: Bearer' or 'x-api-key'. None: no check.", secret=True
    )
    allow_public_without_key: bool = setting(False, "Listen beyond loopback without API keys.")
    allowed_hosts: list[str] = setting(
        [], "Host names, beside localhost and the bound address, that requests may be addressed to; '*' for any."
    )
    cors_origins: list[str] = setting([], "Origins of web pages that may call this server; '*' for any.")
    max_body_bytes: int = setting(8 * 1024 * 1024, "Largest request body, unless a route says otherwise.", minimum=1024)
    docs: bool = setting(
        True, "Describe all endpoints at /openapi.json, with a page to try them at /docs; neither needs an API key."
    )
    session_store: str = setting(
        "", "Where conversations are kept, of the stores that plugins bring ('sqlite'); empty: in the first of them."
    )
    body_timeout_seconds: float = setting(30.0, "Time that a client has to send its whole body.", minimum=0.1)
    send_timeout_seconds: float = setting(
        30.0, "Time that a client may leave a stream unread before it is dropped.", minimum=0.1
    )
    request_timeout_seconds: float = setting(3600.0, "Longest time for one request, waiting included.", minimum=1)
    ping_seconds: float = setting(15.0, "Silence on a stream after which ': ping' is sent.", minimum=0.05)
    shutdown_seconds: float = setting(30.0, "Time that open requests get to finish after SIGTERM.", minimum=0)
    watch_config: bool = setting(
        True, "Apply changes of this file by themselves, within two seconds; false: only after SIGHUP or a reload."
    )


@dataclass(frozen=True, slots=True)
class LogSection:
    """``[log]``: what is written to stderr."""

    level: Literal["debug", "info", "warning", "error"] = setting("info", "Least important lines that are written.")
    format: Literal["text", "json"] = setting("text", "Lines for people, or one JSON object a line.")


@dataclass(frozen=True, slots=True)
class PluginsSection:
    """``[plugins]``: which plugins run, in which order."""

    enabled: list[str] | None = setting(
        None, "Ordered allow-list of entry points; only these are imported. Absent: all built-in plugins.", restart=True
    )


@dataclass(frozen=True, slots=True)
class ModelsSection:
    """``[models]``: where models are found and how long they stay."""

    directory: Path = setting(
        Path("models"), "Folder with chat/, embedding/ and reranker/; GGUF files are found there."
    )
    stores: list[str] = setting(
        [],
        "Models of other programs, served where they lie: huggingface, lmstudio, ollama, or paths of their folders "
        "or of any folder with GGUF files.",
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
    max_loaded: int = setting(
        0, "Models loaded at a time; idle ones go for others, the least recently used first. 0: any number.", minimum=0
    )
    memory_limit_gib: float = setting(
        0.0,
        "Memory that all loaded models may take together, on whatever device, in GiB; idle ones go for others. 0: 80 % "
        "of the machine's memory.",
        minimum=0,
        maximum=1_000_000,
    )
    preload: bool | list[str] = setting(
        False,
        "Models to load when the server starts, by name; true: the default one. GET /ready waits for them.",
        restart=True,
    )
    catalogue: Path | None = setting(
        None, "TOML file with models to pull by name, beside those of `localllm models list --available`."
    )
    allow_pull: bool = setting(
        True, "Let clients have models fetched; always refused to those beyond loopback that need no API key."
    )
    allow_delete: bool = setting(False, "Let clients remove model files; refused as allow_pull is.")
    wait_for_pull: bool = setting(
        True, "Have requests for a model that is being fetched wait for it; false: they get 503 and Retry-After."
    )
    pull_private_hosts: bool = setting(False, "Fetch models from private networks and from this machine, too.")
    pull_http_hosts: list[str] = setting(
        [], "Hosts that models may be fetched from without TLS: names or addresses, with or without :port."
    )
    pull_local_files: bool | None = setting(
        None, "Let clients name files of this machine (file:). Absent: while the server listens on loopback only."
    )
    pull_reserve_megabytes: int = setting(1000, "Room that stays free on the disk when models are fetched.", minimum=0)
    pull_stall_seconds: float = setting(
        30.0, "Silence after which a connection that models are fetched by is given up and made anew.", minimum=1
    )
    pull_min_bytes_per_second: float = setting(
        0.0, "Speed below which it is given up too, over the same time. 0: any speed will do.", minimum=0
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
    state_directory: Path = setting(Path("state"), "Folder for what the server itself writes; mode 0700.", restart=True)
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
