"""What a worker inherits of the server's environment: an allow-list, since it runs native code on foreign files."""

from __future__ import annotations

import os
from collections.abc import Mapping

from localllm.transport.launch import PARENT_PID_VARIABLE

_NAMES = frozenset(
    {
        # the system
        *("HOME", "PATH", "TMPDIR", "TMP", "TEMP", "TZ", "LANG", "LANGUAGE", "SYSTEMROOT", "WINDIR", "USERPROFILE"),
        *("VIRTUAL_ENV", "XDG_CACHE_HOME"),
        # where libraries are found
        *("LD_LIBRARY_PATH", "LD_PRELOAD", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH"),
        # the interpreter; PYTHONINSPECT and PYTHONSTARTUP would read stdin, which carries frames
        *("PYTHONPATH", "PYTHONHOME", "PYTHONUTF8", "PYTHONIOENCODING", "PYTHONHASHSEED", "PYTHONWARNINGS"),
        *("PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX", "PYTHONMALLOC"),
    }
)

_PREFIXES = (
    *("LC_", "GGML_", "LLAMA_"),
    *("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "BLIS_", "VECLIB_"),  # threads of BLAS and OpenMP
    *("CUDA_", "NVIDIA_", "HIP_", "HSA_", "ROCR_", "AMD_", "GPU_", "VK_", "METAL_", "MTL_"),
    *("ONEAPI_", "SYCL_", "ZE_", "ASCEND_", "MUSA_"),
)

_SECRETS = ("KEY", "TOKEN", "SECRET", "PASSWORD")  # LLAMA_API_KEY and the like, whatever their prefix


def worker_environment(environ: Mapping[str, str], extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a worker: nothing of ``environ`` that is not listed here, so no key and no token."""
    kept = {name: value for name, value in environ.items() if _is_passed_on(name)}
    # On an abort ggml would fork a debugger, which keeps the pipes open and hides the death for as long as it runs.
    kept["GGML_NO_BACKTRACE"] = "1"
    kept[PARENT_PID_VARIABLE] = str(os.getpid())
    kept.update(extra or {})
    return kept


def _is_passed_on(name: str) -> bool:
    if any(word in name for word in _SECRETS):
        return False
    return name in _NAMES or name.startswith(_PREFIXES)
