"""The wheel holds the core and the built-in plugins, each once, and nothing else."""

from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """Build the wheel from a copy, without a network, so that the checkout stays clean."""
    folder = tmp_path_factory.mktemp("wheel")
    skipped = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("localllm", "plugins", "tests", "benchmarks"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / "source" / name, ignore=skipped)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder / "source" / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    command += ["--disable-pip-version-check", "--wheel-dir", str(folder), str(folder / "source")]
    subprocess.run(command, check=True, timeout=55)
    [path] = folder.glob("*.whl")
    with zipfile.ZipFile(path) as opened:
        yield opened


def test_each_package_is_there_once_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = [name for name in wheel.namelist() if ".dist-info/" not in name]
    plugins = {path.name for path in (ROOT / "plugins").iterdir() if any(path.glob("*.py"))}
    assert {name.split("/")[0] for name in names} == {"localllm", *plugins}
    assert len(names) == len(set(names))
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "localllm").rglob("*.py")}
    sources |= {path.relative_to(ROOT / "plugins").as_posix() for path in (ROOT / "plugins").rglob("*.py")}
    assert sources == {name for name in names if name.endswith(".py")}


def test_the_page_is_packed_with_its_script_and_its_style(wheel: zipfile.ZipFile) -> None:
    assert {"localllm/server/page/page.js", "localllm/server/page/page.css"} <= set(wheel.namelist())


def test_what_is_packed_lies_in_packages(wheel: zipfile.ZipFile) -> None:
    """setuptools means to leave out what does not: until then it warns whoever builds."""
    names = [name for name in wheel.namelist() if ".dist-info/" not in name]
    packages = {name.removesuffix("/__init__.py") for name in names if name.endswith("/__init__.py")}
    assert {name.rpartition("/")[0] for name in names} == packages


def test_packages_are_marked_as_typed(wheel: zipfile.ZipFile) -> None:
    packages = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" not in name}
    assert {f"{package}/py.typed" for package in packages} <= set(wheel.namelist())


def test_the_command_the_plugins_and_the_fixtures_have_entry_points(wheel: zipfile.ZipFile) -> None:
    [name] = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    entry_points = configparser.ConfigParser()
    entry_points.read_string(wheel.read(name).decode())
    assert dict(entry_points["console_scripts"]) == {"localllm": "localllm.cli:main"}
    assert dict(entry_points["pytest11"]) == {"localllm": "localllm.testing.pytest_plugin"}
    assert set(entry_points["localllm"]) == {
        "chat",
        "completions",
        "embeddings",
        "llama_cpp",
        "myllm",
        "rerank",
        "responses",
        "sessions",
        "sources",
        "tokenize",
    }
