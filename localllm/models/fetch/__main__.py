"""``python -P -m localllm.models.fetch``: what the server starts for each pull. Not for use by hand.

The job stands on the first line of stdin, as JSON. Progress, and the result or the error at the end, go to stdout, one
JSON object a line. The end of stdin means that the server has gone, and ends this process; so does SIGTERM. What has
arrived stays on the disk in either case.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from localllm.contract.errors import LocalLLMError
from localllm.models.fetch.job import PullJob
from localllm.models.fetch.pull import run_pull

_USAGE = "localllm.models.fetch is started by the localllm server. Run 'localllm models pull SOURCE' instead.\n"


def main() -> None:
    """Do the pull that the server asks for; ends the process."""
    if sys.stdin is None or sys.stdin.isatty():
        sys.stderr.write(_USAGE)
        sys.exit(64)
    jobs, lines = _claim_pipes()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the server decides
    line = jobs.readline()
    if not line:
        os._exit(0)
    threading.Thread(target=_leave_with_server, args=(jobs,), daemon=True).start()

    def tell(message: Mapping[str, Any]) -> None:
        try:
            lines.write(json.dumps(message).encode() + b"\n")
            lines.flush()
        except OSError:  # the server has gone
            os._exit(0)

    try:
        job = PullJob.from_plain(json.loads(line))
        result = run_pull(job, lambda progress: tell({"progress": asdict(progress)}))
        tell({"result": result.to_plain()})
    except LocalLLMError as error:
        tell({"error": error.to_wire()})
    except BaseException:  # noqa: BLE001 - the process ends, with the reason on stderr
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)  # threads of libraries are not waited for


def _claim_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Return the pipes to the server, and leave nothing of them where a library could print or read.

    What else the server had open is closed: uvloop leaves second copies of the pipes behind, and with the other end of
    our own stdin in our hands we would never see its end.
    """
    for descriptor in _inherited():
        with contextlib.suppress(OSError):  # the one that the folder was read through
            os.close(descriptor)
    jobs, lines = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return jobs, lines


def _inherited() -> list[int]:
    folder = Path("/dev/fd")  # Linux and macOS; Windows passes nothing on unasked
    return [int(entry.name) for entry in folder.iterdir() if int(entry.name) > 2] if folder.is_dir() else []


def _leave_with_server(jobs: BinaryIO) -> None:
    """End this process when the server closes stdin, or has died."""
    jobs.read()
    os._exit(0)


if __name__ == "__main__":
    main()
