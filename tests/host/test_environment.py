"""A worker inherits what native code needs, and no secret."""

from __future__ import annotations

import os

import pytest

from localllm.host.environment import worker_environment


@pytest.mark.parametrize(
    "name",
    [
        *("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "PYTHONPATH", "LD_LIBRARY_PATH"),
        *("OMP_NUM_THREADS", "GGML_CUDA_ENABLE_UNIFIED_MEMORY", "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"),
        *("ROCR_VISIBLE_DEVICES", "VK_ICD_FILENAMES", "NVIDIA_VISIBLE_DEVICES"),
    ],
)
def test_what_a_native_library_needs_is_passed_on(name: str) -> None:
    assert worker_environment({name: "1"})[name] == "1"


@pytest.mark.parametrize(
    "name",
    [
        *(
            "LOCALLLM_API_KEYS",
            "OPENAI_API_KEY",
            "LLAMA_API_KEY",
            "LLAMA_ARG_HF_TOKEN",
            "HF_TOKEN",
            "AWS_SECRET_ACCESS_KEY",
        ),
        *("DATABASE_URL", "PYTHONINSPECT", "PYTHONSTARTUP", "SSH_AUTH_SOCK", "PATHS"),
    ],
)
def test_what_is_not_listed_stays_behind(name: str) -> None:
    assert name not in worker_environment({name: "1"})


def test_every_worker_gets_the_servers_pid_and_no_backtrace_forks() -> None:
    environment = worker_environment({"GGML_NO_BACKTRACE": "0"}, {"PYTHONPATH": "/tests"})
    assert environment == {
        "GGML_NO_BACKTRACE": "1",
        "LOCALLLM_PARENT_PID": str(os.getpid()),
        "PYTHONPATH": "/tests",
    }
