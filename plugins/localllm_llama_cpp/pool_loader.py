"""Loads a model in the worker to embed or to rank: pooling kind, context, encoder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import llama_cpp.llama_cpp as lib

from localllm import ModelInfo, ModelLoadError, PoolingInfo, PoolingKind

from .context import NativeModel
from .header import ModelHeader
from .loading import Loading
from .offload import describe_offload
from .pool_context import check_can_pool, make_pool_context
from .pool_encoder import LlamaPoolEncoder, pair_writer, special_tokens
from .pool_memory import PoolPlan
from .pooler import LlamaPooler
from .pooling_rules import FileFacts, ScoreRule, choose_kind, choose_score
from .settings import LlamaCppSettings
from .tensors import tensors_present
from .tokenizer import LlamaTokenizer

_HEAD = "cls.output.weight"
_SINGLE_LAYER_HEAD = "cls.weight"  # jina-bert-v2 has its only layer under this name (llama_model_jina_bert_v2)
_NAMES = ("general.name", "general.basename", "general.finetune")


@dataclass(slots=True)
class LlamaPoolerModel:
    """A model that was loaded to pool, and everything that must live as long as it does."""

    info: ModelInfo
    pooler: LlamaPooler
    encoder: LlamaPoolEncoder
    native: NativeModel

    def close(self) -> None:
        """Free context and model; nothing of it may be used afterwards."""
        self.native.close()


def assemble_pooler(loading: Loading) -> LlamaPoolerModel:
    """Make a pooler of a loaded file. Raises ``ModelFileError`` or ``ModelLoadError``."""
    request, path, native, settings = loading.request, loading.path, loading.native, loading.settings
    header = ModelHeader(native.model, path)
    check_can_pool(request.model_id, native, header)
    kind, score = _choose(request.model_id, path, native, header, settings)
    vocab = lib.llama_model_get_vocab(native.model)
    tokenizer = LlamaTokenizer(vocab)
    special = special_tokens(request.model_id, vocab, tokenizer)
    pairs, notes = pair_writer(header, vocab, tokenizer, special) if score else (None, ())
    plan = make_pool_context(request.model_id, native, header, settings, kind, loading.cache_budget())
    native.adapters.apply(native.context)
    loading.meter.context_is_made()
    width = int(lib.llama_model_n_cls_out(native.model) if score else lib.llama_model_n_embd_out(native.model))
    return LlamaPoolerModel(
        info=ModelInfo(
            context_length=plan.context_length,
            n_vocab=tokenizer.n_vocab,
            description=header.description,
            n_params=int(lib.llama_model_n_params(native.model)),
            size_bytes=loading.weights_bytes,
            notes=(*loading.offload.notes, *plan.notes, *notes),
            meta={
                "architecture": header.architecture,
                "pooling": kind,
                **({"lora": native.adapters.describe()} if native.adapters.names else {}),
                "pool_batch_tokens": plan.batch_tokens,
                "pool_batch_texts": plan.batch_texts,
                "offload": describe_offload(loading.offload, int(lib.llama_model_n_layer(native.model))),
            },
            memory=loading.memory(_results_bytes(plan, tokenizer.n_vocab, native)),
            parallel=plan.batch_texts,
            pooling=PoolingInfo(kind, 1, score.scale) if score else PoolingInfo(kind, width),
        ),
        pooler=LlamaPooler(native.context, plan, kind, width, score),
        encoder=LlamaPoolEncoder(tokenizer, special, pairs),
        native=native,
    )


def _results_bytes(plan: PoolPlan, n_vocab: int, native: NativeModel) -> int:
    """Return by how much the buffer of results grows with the first full batch (``llama_context::output_reserve``)."""
    row_bytes = 4 * (n_vocab + int(lib.llama_model_n_embd_out(native.model)))
    return (plan.micro_batch - plan.batch_texts) * row_bytes


def _choose(
    model_id: str, path: Path, native: NativeModel, header: ModelHeader, settings: LlamaCppSettings
) -> tuple[PoolingKind, ScoreRule | None]:
    """Return the pooling kind, and how outputs of a classification head become a score; None for vectors."""
    heads = tensors_present(path, frozenset({_HEAD, _SINGLE_LAYER_HEAD}))
    pooling_type = header.number(f"{header.architecture}.pooling_type")
    facts = FileFacts(
        architecture=header.architecture,
        pooling_type=None if pooling_type is None else int(pooling_type),
        has_head=_HEAD in heads or (header.architecture == "jina-bert-v2" and _SINGLE_LAYER_HEAD in heads),
        names=tuple(name for key in _NAMES if (name := header.text(key))),
    )
    try:
        kind = choose_kind(settings.pooling, facts)
        if kind != "rank":
            return kind, None
        labels = [
            (lib.llama_model_cls_label(native.model, index) or b"").decode("utf-8", errors="replace")
            for index in range(int(lib.llama_model_n_cls_out(native.model)))
        ]
        return kind, choose_score(header.architecture, labels)
    except ValueError as error:
        message = f"Model {model_id!r} can't be loaded with pooling {settings.pooling!r}: {error}."
        raise ModelLoadError(message) from error
