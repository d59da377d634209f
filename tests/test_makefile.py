"""`make serve` on machines that lack something says what to install, before pip would fail obscurely."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NODE = "tests/seeds/node"
TOOLS = ("sh", "mkdir", "cp", "chmod", "touch", "cat", "env")

PYTHON = """#!/bin/sh
# Stands in for an interpreter: says what it is asked to be, and makes an "environment" that is itself.
case "$*" in
    --version) echo "Python {version}" ;;
    *version_info*) exit {too_old} ;;
    *ensurepip*) exit {no_venv} ;;
    "-m venv .venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    *importlib.metadata*) exit {no_llama} ;;
    *"pip install"*) echo "$*" "CXXFLAGS=$CXXFLAGS CMAKE_ARGS=$CMAKE_ARGS" >> pip.log ;;
esac
"""


def make(folder: Path, *arguments: str, compiler: bool = True, **faults: object) -> subprocess.CompletedProcess[str]:
    """Run the Makefile in an empty folder with a PATH that holds a few tools, and a compiler or none."""
    tools = folder / "bin"
    tools.mkdir(exist_ok=True)
    for name in (*TOOLS, "make"):
        (tools / name).unlink(missing_ok=True)
        (tools / name).symlink_to(shutil.which(name) or f"/no/{name}")
    values = {"version": "3.11.9", "too_old": 0, "no_venv": 0, "no_llama": 1} | faults
    scripts = {"fakepython": PYTHON.format(**values), **({"c++": "#!/bin/sh\n"} if compiler else {})}
    scripts["npm"] = '#!/bin/sh\necho "$*" >> npm.log\n'
    for name, text in scripts.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    (folder / NODE).mkdir(parents=True, exist_ok=True)
    for name in ("Makefile", "pyproject.toml", f"{NODE}/package.json", f"{NODE}/package-lock.json"):
        shutil.copy2(ROOT / name, folder / name)  # with its time, which make looks at
    kept = {
        name: value for name, value in os.environ.items() if name not in {"CXX", "CXXFLAGS", "CMAKE_ARGS", "MAKEFLAGS"}
    }
    command = [str(tools / "make"), "PYTHON=fakepython", *arguments]
    environment = {**kept, "PATH": str(tools)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize(
    ("arguments", "faults", "sentence"),
    [
        (["PYTHON=python9"], {}, "there is no 'python9'; install Python 3.11 or newer"),
        (
            [],
            {"too_old": 1, "version": "3.10.2"},
            "localllm needs Python 3.11 or newer, and fakepython is Python 3.10.2",
        ),
        ([], {"no_venv": 1}, "apt install python3-venv"),
        ([], {"compiler": False}, "there is no C++ compiler; on Debian and Ubuntu: apt install g++"),
    ],
)
def test_what_is_missing_is_said(
    tmp_path: Path, arguments: list[str], faults: dict[str, object], sentence: str
) -> None:
    done = make(tmp_path, "install", *arguments, **faults)  # type: ignore[arg-type]
    assert done.returncode != 0
    assert sentence in done.stderr
    assert not (tmp_path / "pip.log").exists()


def test_no_compiler_is_needed_where_the_library_is_installed(tmp_path: Path) -> None:
    done = make(tmp_path, "install", compiler=False, no_llama=0)
    assert done.returncode == 0, done.stderr


def test_flags_reach_the_build_and_a_second_run_does_nothing(tmp_path: Path) -> None:
    flags = ["CXXFLAGS=-O3", "CMAKE_ARGS=-DGGML_CUDA=on"]
    assert make(tmp_path, "install", *flags).returncode == 0
    first = (tmp_path / "pip.log").read_text()
    assert first.splitlines() == [
        "-m pip install --no-cache-dir --quiet --editable . CXXFLAGS=-O3 -fno-dse CMAKE_ARGS=-DGGML_CUDA=on"
    ]
    assert make(tmp_path, "install", *flags).returncode == 0
    log = (tmp_path / "pip.log").read_text()
    assert log == first


def test_development_tools_come_from_the_dependency_group(tmp_path: Path) -> None:
    assert make(tmp_path, "install-dev").returncode == 0
    commands = [line.split(" CXXFLAGS")[0] for line in (tmp_path / "pip.log").read_text().splitlines()]
    assert commands[1:] == ["-m pip install --quiet pip>=25.1", "-m pip install --quiet --group dev"]
    assert (tmp_path / "npm.log").read_text().startswith("ci --prefix .venv/node --ignore-scripts ")
    assert sorted(path.name for path in (tmp_path / ".venv" / "node").iterdir()) == [
        ".installed",
        "package-lock.json",
        "package.json",
    ]
