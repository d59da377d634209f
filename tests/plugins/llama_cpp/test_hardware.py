from __future__ import annotations

import importlib.metadata
import os

import pytest

from localllm_llama_cpp import hardware

GIB = 1024**3


@pytest.fixture
def cgroup(tmp_path, monkeypatch):
    """An empty folder in place of /sys/fs/cgroup; write files into it."""
    monkeypatch.setattr(hardware, "_CGROUP", tmp_path)
    monkeypatch.setattr(hardware, "_OWN_GROUPS", tmp_path / "own")

    def write(**files: str) -> None:
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/").replace("_dot_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")

    return write


def test_cores_are_those_that_this_process_may_use(cgroup):
    assert 1 <= hardware.physical_cores() <= len(os.sched_getaffinity(0))


def test_hyper_threads_of_one_core_count_once(cgroup, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr(hardware, "_thread_siblings", lambda cpu: f"{cpu % 2},{cpu % 2 + 2}")
    assert hardware.physical_cores() == 2


@pytest.mark.parametrize(("quota", "cores"), [("150000 100000", 2), ("50000 100000", 1), ("max 100000", 8)])
def test_a_containers_quota_bounds_the_cores(cgroup, monkeypatch, quota, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(hardware, "_thread_siblings", str)
    cgroup(cpu_dot_max=quota)
    assert hardware.physical_cores() == cores


def test_a_quota_of_the_first_version_counts_too(cgroup, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(hardware, "_thread_siblings", str)
    cgroup(cpu__cpu_dot_cfs_quota_us="300000", cpu__cpu_dot_cfs_period_us="100000")
    assert hardware.physical_cores() == 3
    cgroup(cpu__cpu_dot_cfs_quota_us="-1")  # no limit
    assert hardware.physical_cores() == 8


def test_free_memory_is_the_systems(cgroup):
    assert 0 < hardware.available_memory_bytes() < 1 << 50


def test_a_containers_limit_bounds_the_memory_and_cached_files_count_as_free(cgroup, monkeypatch):
    monkeypatch.setattr(hardware, "_meminfo_available", lambda: 64 * GIB)
    cgroup(memory_dot_max=str(4 * GIB), memory_dot_current=str(3 * GIB))
    assert hardware.available_memory_bytes() == 1 * GIB
    cgroup(memory_dot_stat=f"anon 5\ninactive_file {GIB // 2}\n")
    assert hardware.available_memory_bytes() == 3 * GIB // 2
    cgroup(memory_dot_max="max")
    assert hardware.available_memory_bytes() == 64 * GIB


def test_the_first_versions_limit_counts_unless_it_stands_for_none(cgroup, monkeypatch):
    monkeypatch.setattr(hardware, "_meminfo_available", lambda: 64 * GIB)
    cgroup(memory__memory_dot_limit_in_bytes=str(2 * GIB), memory__memory_dot_usage_in_bytes=str(3 * GIB))
    assert hardware.available_memory_bytes() == 0
    cgroup(memory__memory_dot_limit_in_bytes="9223372036854771712")
    assert hardware.available_memory_bytes() == 64 * GIB


def test_a_services_limit_counts_and_that_of_what_it_stands_in(cgroup, monkeypatch):
    monkeypatch.setattr(hardware, "_meminfo_available", lambda: 64 * GIB)
    cgroup(own="0::/system.slice/llm.service")
    service = {
        "system.slice__llm.service__memory_dot_max": str(6 * GIB),
        "system.slice__llm.service__memory_dot_current": str(GIB),
    }
    cgroup(**service)
    assert hardware.available_memory_bytes() == 5 * GIB
    assert hardware.total_memory_bytes() == min(6 * GIB, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    cgroup(**{"system.slice__memory_dot_max": str(4 * GIB), "system.slice__memory_dot_current": str(3 * GIB)})
    assert hardware.available_memory_bytes() == GIB


def test_a_services_limit_of_the_first_version_counts(cgroup, monkeypatch):
    monkeypatch.setattr(hardware, "_meminfo_available", lambda: 64 * GIB)
    cgroup(own="4:cpu,memory:/llm\n3:cpuset:/\n0::/")
    cgroup(memory__llm__memory_dot_limit_in_bytes=str(3 * GIB), memory__llm__memory_dot_usage_in_bytes=str(GIB))
    assert hardware.available_memory_bytes() == 2 * GIB


def test_a_group_that_is_told_from_outside_of_a_container_limits_nothing(cgroup, monkeypatch):
    monkeypatch.setattr(hardware, "_meminfo_available", lambda: 64 * GIB)
    cgroup(own="0::/docker/0123456789ab", memory_dot_max=str(4 * GIB), memory_dot_current=str(3 * GIB))
    assert hardware.available_memory_bytes() == GIB


def test_systems_without_proc_get_a_guess(cgroup, monkeypatch):
    monkeypatch.setattr(hardware, "_meminfo_available", lambda: None)
    assert hardware.available_memory_bytes() > 0


def test_the_rebuild_command_names_the_version_that_is_installed():
    assert importlib.metadata.version("llama-cpp-python") == hardware.LIBRARY_VERSION
    assert hardware.REBUILD_COMMAND.endswith(f"=={hardware.LIBRARY_VERSION}")


def test_another_build_has_another_id(tmp_path, monkeypatch):
    class Spec:
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.setattr(hardware.importlib.util, "find_spec", lambda name: Spec)
    (tmp_path / "lib").mkdir()
    library = tmp_path / "lib" / "libllama.so"
    library.write_bytes(b"one")
    first = hardware.build_id()
    library.write_bytes(b"other")
    assert hardware.build_id() != first


def test_a_missing_library_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(hardware.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install llama-cpp-python"):
        hardware.build_id()


@pytest.mark.parametrize(
    ("content", "commit"),
    [(b"..\x000.25.3\x000c1e570-dirty\x00..", "llama.cpp 0c1e570,"), (b"nothing", "llama.cpp of unknown commit,")],
)
def test_the_build_id_names_the_commit_that_the_library_carries(tmp_path, monkeypatch, content, commit):
    class Spec:
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.setattr(hardware.importlib.util, "find_spec", lambda name: Spec)
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libggml-base.so").write_bytes(content)
    assert commit in hardware.build_id()


@pytest.mark.real_model
def test_the_installed_build_tells_its_commit():
    assert "unknown" not in hardware.build_id()


def test_the_machines_memory_is_the_containers_where_that_has_less(cgroup):
    whole = hardware.total_memory_bytes()
    assert whole >= hardware.available_memory_bytes() > 0
    cgroup(memory_dot_max=str(GIB))
    assert hardware.total_memory_bytes() == GIB
    cgroup(memory_dot_max="max")
    assert hardware.total_memory_bytes() == whole


def test_no_limit_of_an_older_container_is_no_limit(cgroup):
    whole = hardware.total_memory_bytes()
    cgroup(memory__memory_dot_limit_in_bytes=str(2**63 - 4096))
    assert hardware.total_memory_bytes() == whole
