"""Says, by a model's header facts and settings alone, what it will take when it is loaded: in the server's process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from localllm import MemoryUse, Mode, ModelSpec

from .compute_memory import GRAMMAR_BYTES_PER_TOKEN, generation_bytes, pooling_bytes
from .hardware import total_memory_bytes
from .memory import CacheShape, Wanted, plan_memory
from .model_facts import ModelFacts, read_facts
from .pool_memory import BATCH_TOKENS_CPU, PoolShape, PoolWanted, plan_pool
from .pooling_rules import ENCODERS, LEARNED_POSITIONS
from .settings import LlamaCppSettings

PROCESS_BYTES = 32 * 1024 * 1024
"""A worker with the library, numpy and jinja2, and no model."""

VOCABULARY_BYTES_PER_TOKEN = 175
MERGE_BYTES = 140
"""What the library's vocabulary takes for a token, and for a merge of two."""


def estimate(spec: ModelSpec, mode: Mode) -> MemoryUse | None:
    """Return what the worker will measure, nearly; None when the header was not read or is silent about its sizes.

    The cache is planned as the loader plans it, but with the machine's whole memory instead of what is free now: so
    the answer stays the same whatever else is loaded. Looks at the sizes of adapters, and reads no file.
    """
    hyperparameters = spec.meta.get("hyperparameters")
    if not isinstance(hyperparameters, dict):
        return None
    try:
        settings = LlamaCppSettings.from_mapping(spec.settings)
        facts = read_facts(str(spec.meta.get("arch", "")), hyperparameters.get, _integer(spec.meta.get("n_vocab")))
    except (TypeError, ValueError):  # loading it will say what is wrong
        return None
    weights_bytes = _integer(spec.meta.get("size"))  # headers are a few thousandths of a file
    budget_bytes = max(0, int((total_memory_bytes() - weights_bytes) * settings.memory_fraction))
    n_merges = _integer(hyperparameters.get("tokenizer.merges"))
    process_bytes = PROCESS_BYTES + VOCABULARY_BYTES_PER_TOKEN * facts.n_vocab + MERGE_BYTES * n_merges
    process_bytes += sum(_file_bytes(adapter.file) for adapter in settings.lora)
    sizes = _pool if mode is Mode.POOL else _generate
    cache_bytes, compute_bytes = sizes(facts, settings, budget_bytes)
    return MemoryUse(weights_bytes, cache_bytes, compute_bytes + process_bytes)


def _generate(facts: ModelFacts, settings: LlamaCppSettings, budget_bytes: int) -> tuple[int, int]:
    wanted = Wanted(
        context_length=settings.context_length,
        n_ctx_train=facts.n_ctx_train,
        parallel=settings.parallel,
        cached_sequences=settings.cached_sequences,
        layout=settings.kv_layout,
        n_ubatch=settings.n_ubatch,
        swa_full=settings.swa_full,
    )
    plan = plan_memory(wanted, facts.cache_shape(settings.cache_type_k, settings.cache_type_v), budget_bytes)
    flash = settings.flash_attention is not False
    compute_bytes = generation_bytes(facts, plan, settings.n_ubatch, swa_full=settings.swa_full, flash_attention=flash)
    return plan.kv_bytes, compute_bytes + GRAMMAR_BYTES_PER_TOKEN * facts.n_vocab


def _pool(facts: ModelFacts, settings: LlamaCppSettings, budget_bytes: int) -> tuple[int, int]:
    flash = settings.flash_attention is not False
    cut_texts = facts.architecture not in ENCODERS and facts.is_causal
    shape = PoolShape(
        n_vocab=facts.n_vocab,
        n_embd=facts.n_embd,
        n_ff=facts.n_ff or 4 * facts.n_embd,
        n_head=facts.n_head,
        cut_texts=cut_texts,
        cache=facts.cache_shape(settings.cache_type_k, settings.cache_type_v) if cut_texts else CacheShape(0.0),
        has_state=facts.has_state,
        flash_attention=flash,
    )
    wanted = PoolWanted(
        context_length=settings.context_length,
        n_ctx_train=facts.n_ctx_train,
        batch_tokens=settings.pool_batch_tokens or BATCH_TOKENS_CPU,
        fixed_positions=facts.architecture in LEARNED_POSITIONS,
    )
    plan = plan_pool(wanted, shape, budget_bytes)
    return round(plan.cache_bytes(shape)), pooling_bytes(facts, plan, flash_attention=flash)


def _file_bytes(path: Path) -> int:
    """Return the size of an adapter, which is read into memory as a whole; 0 where loading will say what is wrong."""
    try:
        return path.stat().st_size
    except (OSError, ValueError):  # ValueError: a name with a NUL in it
        return 0


def _integer(value: Any) -> int:  # noqa: ANN401
    return value if isinstance(value, int) else 0
