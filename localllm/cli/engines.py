"""Asks engines what they find on this machine, each in a child process: a bad build kills who loads it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence

from localllm.contract.backend import BackendSpec
from localllm.contract.diagnosis import Finding, Verdict
from localllm.contract.model import USUAL_MODES, ModelKind, ModelSpec
from localllm.host.environment import worker_environment
from localllm.models.catalog import Catalog

EXAMINER_ARGV = (sys.executable, "-P", "-m", "localllm.worker.examine")
_CHILD_SECONDS = 120


def models_of_interest(catalog: Catalog, *, all_models: bool) -> Sequence[ModelSpec]:
    """Return the default models of all kinds, or all models."""
    specs = catalog.specs()
    if all_models:
        return list(specs.values())
    defaults = [catalog.default_of(kind) for kind in ModelKind]
    return [specs[name] for name in dict.fromkeys(defaults) if name is not None]


def ask_engine(backend: BackendSpec, models: Sequence[ModelSpec]) -> Sequence[Finding]:
    """Return what the engine finds; one finding that says why when it can't be asked."""
    question = {
        "function": backend.examine,
        "models": [
            {
                "model_id": model.id,
                "path": model.path,
                "mode": USUAL_MODES[model.kind].value,
                "settings": dict(model.settings),
            }
            for model in models
        ],
    }
    try:
        child = subprocess.run(  # noqa: S603 - our own interpreter and module
            EXAMINER_ARGV,
            input=json.dumps(question),
            env=worker_environment(os.environ),
            capture_output=True,
            text=True,
            timeout=_CHILD_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return [_failed(backend, f"it did not answer within {_CHILD_SECONDS} s")]
    if child.returncode:
        last = (child.stderr.strip().splitlines() or ["no message"])[-1]
        cause = f"signal {-child.returncode}" if child.returncode < 0 else f"exit code {child.returncode}"
        return [_failed(backend, f"it can't be loaded ({cause}): {last}")]
    return [Finding(**{**finding, "verdict": Verdict(finding["verdict"])}) for finding in json.loads(child.stdout)]


def _failed(backend: BackendSpec, text: str) -> Finding:
    mend = f"build it again: {backend.rebuild_command}" if backend.rebuild_command else "install it again"
    return Finding(Verdict.BAD, backend.name, text, mend)
