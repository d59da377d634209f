"""The first batch of a model that pools, before the worker calls itself ready."""

from __future__ import annotations

import math
import struct

from localllm.contract.backend import LoadedPooler
from localllm.contract.errors import ModelFileError, ModelLoadError
from localllm.contract.pooling import PoolingInfo, PoolItem
from localllm.worker.self_test import PROMPT_TOKENS

_TEXTS = ("The quick brown fox jumps over the lazy dog. ", "Pack my box with five dozen liquor jugs. ")
_REPEAT = 8  # more than PROMPT_TOKENS tokens, in whatever vocabulary
_FLOAT_BYTES = 4


def run_pool_self_test(model: LoadedPooler, pooling: PoolingInfo, model_id: str) -> None:
    """Pool two short texts in one batch (step thread), or one where a batch takes no more.

    Raises ``ModelLoadError`` when not exactly their vectors come back, and ``ModelFileError`` for vectors that are no
    numbers; a miscompiled build ends the process by a signal instead.
    """
    items = [PoolItem(tokens) for tokens in _texts(model, pooling)]
    vectors = model.pooler.pool(items)
    n_bytes = _FLOAT_BYTES * pooling.dimensions
    if [len(vector) for vector in vectors] != [n_bytes] * len(items):
        message = (
            f"The self-test of model {model_id!r} pooled {len(items)} texts and got {len(vectors)} vectors of "
            f"{sorted({len(vector) for vector in vectors})} bytes, not {len(items)} of {n_bytes}."
        )
        raise ModelLoadError(message)
    numbers = (number for vector in vectors for number in struct.unpack(f"<{pooling.dimensions}f", vector))
    if not all(map(math.isfinite, numbers)):
        message = f"What model {model_id!r} computes is not a number. Its file is corrupt; download it again."
        raise ModelFileError(message)


def _texts(model: LoadedPooler, pooling: PoolingInfo) -> list[tuple[int, ...]]:
    """Return as many of the texts as one batch takes, cut to fit."""
    capabilities, encoder = model.pooler.capabilities, model.encoder
    n_texts = min(len(_TEXTS), capabilities.batch_texts, capabilities.batch_tokens)
    length = min(PROMPT_TOKENS, capabilities.context_length, capabilities.batch_tokens // n_texts)
    long = [text * _REPEAT for text in _TEXTS[:n_texts]]
    if pooling.kind == "rank":
        return [tuple(encoder.encode_pair(_TEXTS[0], text)[:length]) for text in long]
    return [tuple(encoder.encode_text(text)[:length]) for text in long]
