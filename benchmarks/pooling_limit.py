"""The limit of embedding: the bare library on the same texts, sorted by length and packed to its best batch.

Runs as a child that keeps the model loaded, like ``benchmarks.limit``: one JSON command a line, one JSON line back.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import llama_cpp.llama_cpp as llama

BATCH_TOKENS = (256, 512)  # the sizes among which the better one is the limit
CONTEXT = 512
MAX_TEXTS = 64


class PoolingLimit:
    """One model with a pooling context."""

    def __init__(self, path: str, threads: int) -> None:
        self._model = llama.llama_model_load_from_file(path.encode(), llama.llama_model_default_params())
        self._vocab = llama.llama_model_get_vocab(self._model)
        params = llama.llama_context_default_params()
        params.embeddings = True
        params.n_ctx = params.n_batch = params.n_ubatch = CONTEXT
        params.n_seq_max = MAX_TEXTS
        params.kv_unified = True
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_ENABLED
        params.no_perf = True
        self._context = llama.llama_init_from_model(self._model, params)
        self._batch = llama.llama_batch_init(CONTEXT, 0, 1)

    def embed(self, texts: Sequence[str], batch_tokens: int) -> dict[str, float]:
        """Return seconds (without tokenising) and tokens of one pass over the texts."""
        tokens = sorted((self._tokens(text) for text in texts), key=len)
        started = time.perf_counter()
        for group in _packed(tokens, batch_tokens):
            self._compute(group)
        return {"seconds": time.perf_counter() - started, "tokens": sum(map(len, tokens))}

    def _tokens(self, text: str) -> list[int]:
        data = text.encode()
        buffer = (llama.llama_token * (len(data) + 8))()
        count = llama.llama_tokenize(self._vocab, data, len(data), buffer, len(buffer), True, False)
        return list(buffer[:count])

    def _compute(self, group: Sequence[Sequence[int]]) -> None:
        batch, index = self._batch, 0
        for sequence, tokens in enumerate(group):
            for position, token in enumerate(tokens):
                batch.token[index] = token
                batch.pos[index] = position
                batch.n_seq_id[index] = 1
                batch.seq_id[index][0] = sequence
                batch.logits[index] = True
                index += 1
        batch.n_tokens = index
        if llama.llama_encode(self._context, batch) != 0:
            message = f"llama_encode failed for {index} tokens"
            raise RuntimeError(message)
        for sequence in range(len(group)):
            llama.llama_get_embeddings_seq(self._context, sequence)


def _packed(tokens: Sequence[list[int]], batch_tokens: int) -> Iterator[list[list[int]]]:
    group: list[list[int]] = []
    room = batch_tokens
    for text in tokens:
        if group and (len(text) > room or len(group) == MAX_TEXTS):
            yield group
            group, room = [], batch_tokens
        group.append(text)
        room -= len(text)
    if group:
        yield group


_QUIET = llama.llama_log_callback(lambda _level, _text, _data: None)


def main() -> None:
    """Serve commands such as ``{"texts": [...], "batch_tokens": 256}`` until stdin ends."""
    llama.llama_log_set(_QUIET, ctypes.c_void_p())
    llama.llama_backend_init()
    limit = PoolingLimit(sys.argv[1], int(sys.argv[2]))
    for line in sys.stdin:
        command: dict[str, Any] = json.loads(line)
        print(json.dumps(limit.embed(**command)), flush=True)


if __name__ == "__main__":
    main()
