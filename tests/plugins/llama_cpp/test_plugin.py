from __future__ import annotations

import subprocess
import sys

import localllm_llama_cpp
from localllm import BackendSpec, Mode, ModelSpec
from localllm_llama_cpp.settings import LlamaCppSettings

HEAVY = ("llama_cpp", "numpy", "jinja2")


def registered() -> BackendSpec:
    backends: list[BackendSpec] = []
    localllm_llama_cpp.localllm_register_backends(None, backends.append)
    (backend,) = backends
    return backend


def test_localllm_config_section_declares_the_settings():
    assert localllm_llama_cpp.localllm_config_section() is LlamaCppSettings


def test_localllm_register_backends_registers_a_worker_factory():
    backend = registered()
    assert backend.name == "llama_cpp"
    assert backend.kind == "worker"
    assert backend.modes == {Mode.GENERATE, Mode.POOL}
    assert backend.factory == "localllm_llama_cpp.loader:load"
    assert backend.settings is LlamaCppSettings
    assert backend.rebuild_command is not None
    assert "-fno-dse" in backend.rebuild_command


def test_a_model_that_has_no_vector_for_a_text_is_refused_without_loading_it():
    refuses = registered().refuses
    assert refuses is not None
    t5, llama = (ModelSpec("m", "llama_cpp", meta={"arch": arch}) for arch in ("t5", "llama"))
    assert "decoder" in str(refuses(t5, Mode.POOL))
    assert refuses(t5, Mode.GENERATE) is refuses(llama, Mode.POOL) is None


def test_the_server_side_loads_no_heavy_package():
    code = (
        "import sys, localllm_llama_cpp as plugin\n"
        "plugin.localllm_config_section()(); found = []\n"
        "plugin.localllm_register_backends(None, found.append)\n"
        "print(found[0].build_id())\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": ":".join(sys.path)}
    )
    build, loaded = done.stdout.splitlines()
    assert build.startswith("llama-cpp-python 0.3.")
    assert loaded == "[]"


def test_the_build_id_names_the_same_build_the_same_way():
    build_id = registered().build_id
    assert build_id is not None
    assert build_id() == build_id()
