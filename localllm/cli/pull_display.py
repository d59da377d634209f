"""Shows a pull in the terminal: one bar with size, speed and time left; a line for each stage where there is none."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from localllm.contract.fetch import PullProgress


class PullDisplay:
    """Used in a ``with``. Writes to stderr, so that stdout has the result alone; a ``quiet`` one writes nothing."""

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        console = console or Console(stderr=True, quiet=quiet)
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._console = console
        self._task = self._bar.add_task("resolving", total=None)
        self._stage = ""

    def __enter__(self) -> PullDisplay:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:  # a bar that was never started writes an empty line when it is stopped
            self._bar.stop()

    def show(self, progress: PullProgress) -> None:
        """Show one moment of the pull."""
        stage = " ".join(part for part in (progress.status.value, progress.file) if part)
        if self._console.is_terminal:
            self._bar.update(
                self._task, description=stage, completed=progress.completed_bytes, total=progress.total_bytes
            )
        elif stage != self._stage:
            self._console.print(stage, markup=False, highlight=False, soft_wrap=True)
        self._stage = stage
