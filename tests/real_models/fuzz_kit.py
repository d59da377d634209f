"""schemathesis against a real server: requests made from /openapi.json, and answers held against it.

python -m tests.real_models.fuzz_kit --minutes 10        (make fuzz)
"""

from __future__ import annotations

import argparse
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.real_models.conftest import ROOT, RunningServer, running_server

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
)


@contextmanager
def fuzzed_server(directory: Path) -> Iterator[RunningServer]:
    """Start a server that may be asked anything: it fetches nothing, deletes nothing, and answers are short.

    What clients may not do they are refused (403), and that too is an answer to check.
    """
    refusals = "allow_pull = false\nallow_delete = false\n"
    with running_server(directory, models_keys=refusals, define="context_length = 256\n") as server:
        yield server


def fuzz(url: str, directory: Path, *, seconds: int, seed: int) -> subprocess.CompletedProcess[str]:
    """Ask for so long; the output says what was found, and the exit code is 0 when that is nothing."""
    command = [
        *(str(Path(sys.executable).with_name("schemathesis")), "run", f"{url}/openapi.json"),
        *("--max-time", str(seconds), "--seed", str(seed), "--request-timeout", "60"),
        *("--phases", "examples,coverage,fuzzing,stateful", "--checks", ",".join(CHECKS)),
        *("--continue-on-failure", "--warnings", "off"),
    ]
    # Its database of examples belongs to the run, not to the checkout.
    hooks = {"SCHEMATHESIS_HOOKS": "tests.real_models.fuzz_hooks", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, **hooks},
        capture_output=True,
        text=True,
        timeout=seconds + 120,
        check=False,
    )


def main() -> int:
    """Fuzz for as long as is asked, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**32))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, fuzzed_server(Path(directory)) as server:
        done = fuzz(server.url, Path(directory), seconds=round(60 * arguments.minutes), seed=arguments.seed)
    sys.stdout.write(f"{done.stdout}\n{done.stderr}\n")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
