"""``python -P -m localllm.worker.examine``: asks an engine about this machine, in a process that may die of it.

Reads one JSON object on stdin (``function``: "package.module:function", ``models``: load requests) and writes a list of
findings on stdout; native code's own lines go to stderr.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from dataclasses import asdict
from typing import cast

from localllm.contract.backend import Examiner, LoadRequest
from localllm.contract.model import Mode


def main() -> None:
    """Answer the one question on stdin."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    question = json.load(sys.stdin)
    module, _, function = str(question["function"]).partition(":")
    examine = cast(Examiner, getattr(importlib.import_module(module), function))
    models = [
        LoadRequest(model["model_id"], model["path"], Mode(model["mode"]), model["settings"])
        for model in question["models"]
    ]
    json.dump([asdict(finding) for finding in examine(models)], answers)
    answers.flush()
    os._exit(0)  # what a driver does at its exit concerns nobody


if __name__ == "__main__":
    main()
