"""The keys of ``[plugin.sessions]``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from localllm import setting

Overflow = Literal["window", "summary", "error"]
"""What becomes of the oldest turns when a conversation no longer fits the model's context."""


@dataclass(frozen=True, slots=True)
class SessionsSettings:
    """``[plugin.sessions]``: where conversations are kept, for how long, and how much of them."""

    path: Path | None = setting(
        None, "The file that conversations are kept in. Absent: sessions.db in the plugin's folder of state_directory."
    )
    expire_days: float = setting(
        90.0, "Forget conversations that nobody has added to for so many days; 0: never.", minimum=0
    )
    max_sessions_per_owner: int = setting(
        10_000, "Most sessions of one API key, or of everybody where there are no keys; 0: no limit.", minimum=0
    )
    max_bytes_per_owner: int = setting(
        1024 * 1024 * 1024, "Most bytes of sessions and stored responses of one API key; 0: no limit.", minimum=0
    )
    max_bytes: int = setting(0, "Largest size of the file, in bytes; 0: as large as the disk allows.", minimum=0)
    busy_timeout_seconds: float = setting(
        5.0, "How long a write waits while another program holds the file locked.", minimum=0, maximum=60
    )
    overflow: Overflow = setting(
        "window",
        "What to do when a conversation no longer fits the model's context: 'window' leaves out the oldest turns, "
        "'summary' has the model sum them up first, 'error' refuses the request.",
    )
    max_import_bytes: int = setting(
        16 * 1024 * 1024, "Largest body of POST /v1/sessions/import, in bytes.", minimum=1024
    )
