"""A server and a models' folder for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.models.fetch.kit import FileServer, Pulling, serving


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving() as server:
        yield server


@pytest.fixture
def pulling(tmp_path: Path, server: FileServer) -> Pulling:
    return Pulling(tmp_path / "models", server)
