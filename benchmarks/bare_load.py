"""The physical limit of a cold load: a fresh process that loads a file, makes a context and decodes one token."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import llama_cpp.llama_cpp as llama

_QUIET = llama.llama_log_callback(lambda _level, _text, _data: None)


def main() -> None:
    """Do it for ``PATH N_CTX THREADS`` and end."""
    path, n_ctx, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    llama.llama_log_set(_QUIET, ctypes.c_void_p())
    llama.llama_backend_init()
    model = llama.llama_model_load_from_file(path.encode(), llama.llama_model_default_params())
    context = llama.llama_init_from_model(model, _context_params(n_ctx, threads))
    token = (llama.llama_token * 1)(0)
    if not context or llama.llama_decode(context, llama.llama_batch_get_one(token, 1)) != 0:
        sys.exit(f"bare_load: can't decode with {path}")
    llama.llama_synchronize(context)
    sys.stdout.write("token\n")


def _context_params(n_ctx: int, threads: int) -> Any:  # noqa: ANN401
    params = llama.llama_context_default_params()
    params.n_ctx = n_ctx
    params.n_batch = params.n_ubatch = 512
    params.n_threads = params.n_threads_batch = threads
    params.no_perf = True
    return params


if __name__ == "__main__":
    main()
