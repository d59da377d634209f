"""What the two processes agree on outside of frames: how a worker is started and who its server is."""

from __future__ import annotations

import sys

WORKER_ARGV = (sys.executable, "-P", "-m", "localllm.worker")
"""``-P``: the folder that the server was started in must not come first on the worker's import path."""

PARENT_PID_VARIABLE = "LOCALLLM_PARENT_PID"
"""Environment variable with the server's process id, by which a worker sees that it was orphaned while starting."""
