"""How many threads a model gets by default."""

from __future__ import annotations

import pytest

from localllm_llama_cpp.native_params import default_threads

MEBIBYTE = 1024 * 1024


@pytest.mark.parametrize(
    ("model_mebibytes", "cores", "threads"),
    [(4, 64, 1), (15, 64, 1), (16, 64, 2), (140, 8, 8), (140, 64, 17), (4, 1, 1)],
)
def test_small_models_get_no_more_threads_than_they_keep_busy(model_mebibytes, cores, threads):
    assert default_threads(model_mebibytes * MEBIBYTE, cores) == threads
