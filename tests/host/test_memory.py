"""What a model is expected to take, and what there is to be taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from localllm.contract.backend import BackendSpec
from localllm.contract.model import MemoryUse, Mode, ModelSpec
from localllm.host.memory import (
    AUTOMATIC_SHARE,
    WORKER_BYTES,
    automatic_limit_bytes,
    describe_bytes,
    estimated_bytes,
    machine_memory_bytes,
)

MODES = frozenset(Mode)


def worker(**changes: Any) -> BackendSpec:
    return BackendSpec("e", MODES, factory="a:b", **changes)


def test_the_engines_estimate_counts_for_the_mode_that_is_loaded() -> None:
    backend = worker(estimate=lambda spec, mode: MemoryUse(10, 5 if mode is Mode.GENERATE else 0, 1))
    assert [estimated_bytes(ModelSpec("m", "e"), mode, backend) for mode in Mode] == [16, 11]


def test_without_an_estimate_the_file_counts_and_a_bit_more(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"x" * 1000)
    for backend in (worker(), worker(estimate=lambda spec, mode: None)):
        assert estimated_bytes(ModelSpec("m", "e", path=str(path)), Mode.GENERATE, backend) == 1100 + WORKER_BYTES
    split = ModelSpec("m", "e", path=str(path), meta={"size": 5000})
    assert estimated_bytes(split, Mode.GENERATE, worker()) == 5500 + WORKER_BYTES
    gone = ModelSpec("m", "e", path=str(tmp_path / "gone"))
    assert estimated_bytes(gone, Mode.GENERATE, worker()) == WORKER_BYTES


def test_an_estimate_that_fails_is_in_the_log_and_the_file_counts(caplog: pytest.LogCaptureFixture) -> None:
    def fails(spec: ModelSpec, mode: Mode) -> MemoryUse:
        raise ZeroDivisionError

    assert estimated_bytes(ModelSpec("m", "e"), Mode.GENERATE, worker(estimate=fails)) == WORKER_BYTES
    assert "engine e can't estimate the memory of m" in caplog.text


def test_what_runs_elsewhere_takes_nothing_here() -> None:
    backend = BackendSpec("e", MODES, "client", connect=lambda spec, mode: None)
    assert estimated_bytes(ModelSpec("m", "e", meta={"size": 5000}), Mode.GENERATE, backend) == 0


def test_a_container_has_what_it_is_allowed(tmp_path: Path) -> None:
    whole = machine_memory_bytes(tmp_path)
    assert whole is not None
    assert whole > 2**28
    (tmp_path / "memory.max").write_text("1000\n")
    assert machine_memory_bytes(tmp_path) == 1000
    (tmp_path / "memory.max").write_text("max\n")
    assert machine_memory_bytes(tmp_path) == whole


def test_the_automatic_limit_leaves_room_for_others() -> None:
    whole = machine_memory_bytes()
    assert whole is not None
    assert automatic_limit_bytes() == int(whole * AUTOMATIC_SHARE)


def test_bytes_for_people() -> None:
    assert [describe_bytes(count) for count in (0, 3 * 2**20, 3 * 2**30 // 2)] == ["0.0 MiB", "3.0 MiB", "1.5 GiB"]
