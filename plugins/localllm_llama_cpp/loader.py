"""Loads a model in the worker: file, memory plan, context, tokenizer, template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import llama_cpp.llama_cpp as lib

from localllm import (
    Capabilities,
    LoadRequest,
    Mode,
    ModelFileError,
    ModelInfo,
    ModelLoadError,
)

from .decoder import LlamaDecoder
from .hardware import available_memory_bytes
from .header import ModelHeader
from .log import NativeLog
from .memory import MemoryPlan, Wanted, copy_cost_tokens, plan_memory
from .native_params import context_params, model_params
from .sampling import RequestSampler, SeedSource, VocabularyFacts
from .sandbox import TemplateLimitError
from .settings import LlamaCppSettings
from .template import BrokenTemplate, ChatTemplate
from .tokenizer import LlamaTokenizer, suppressed_tokens


@dataclass(slots=True)
class LlamaModel:
    """A loaded model and everything that must live as long as it does."""

    info: ModelInfo
    decoder: LlamaDecoder
    tokenizer: LlamaTokenizer
    renderer: ChatTemplate | BrokenTemplate | None
    native: NativeModel

    def close(self) -> None:
        """Free samplers, context and model, in this order; nothing of it may be used afterwards."""
        self.decoder.close_all()
        self.native.close()


@dataclass(slots=True)
class NativeModel:
    """The library's handles, and what it keeps pointers to."""

    log: NativeLog
    model: Any
    context: Any = None
    keep_alive: Sequence[Any] = ()

    def close(self) -> None:
        """Free context and model. May be called twice."""
        if self.context is not None:
            lib.llama_free(self.context)
        if self.model is not None:
            lib.llama_model_free(self.model)
        self.context = self.model = None


def load(request: LoadRequest) -> LlamaModel:
    """Load a GGUF file. The worker's factory. Raises ``ModelFileError`` or ``ModelLoadError``."""
    try:
        settings = LlamaCppSettings.from_mapping(request.settings)
    except (TypeError, ValueError) as error:
        message = f"The settings of model {request.model_id!r} are wrong: {error}."
        raise ModelLoadError(message) from error
    if request.mode is not Mode.GENERATE:
        message = f"The llama_cpp engine can't load model {request.model_id!r} in mode {request.mode.value!r}."
        raise ModelLoadError(message)
    path = _checked_path(request)
    budget_bytes = _memory_budget(path, settings)
    native = _load_file(request, path, settings)
    try:
        return _assemble(request, native, settings, budget_bytes)
    except BaseException:
        native.close()
        raise


def _checked_path(request: LoadRequest) -> Path:
    if request.path is None:
        message = f"Model {request.model_id!r} has no file; give it a 'path' to a GGUF file."
        raise ModelLoadError(message)
    path = Path(request.path)
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        message = f"The file of model {request.model_id!r} can't be read: {path}: {error.strerror}."
        raise ModelFileError(message) from error
    if magic != b"GGUF":
        message = f"The file of model {request.model_id!r} is not a GGUF file: {path}; it starts with {magic!r}."
        raise ModelFileError(message)
    return path


def _memory_budget(path: Path, settings: LlamaCppSettings) -> int:
    """Return the bytes that the KV cache may take: a share of what is free once the weights are in memory."""
    free = available_memory_bytes() - path.stat().st_size
    return max(0, int(free * settings.memory_fraction))


def _load_file(request: LoadRequest, path: Path, settings: LlamaCppSettings) -> NativeModel:
    log = NativeLog()
    log.install()
    lib.llama_backend_init()
    params, keep_alive = model_params(settings, safe_mode=request.safe_mode)
    model = lib.llama_model_load_from_file(str(path).encode(), params)
    if not model:
        reason = log.first_error or "llama.cpp gave no reason"
        message = f"llama.cpp can't load {path} for model {request.model_id!r}: {reason}."
        raise ModelFileError(message)
    return NativeModel(log, model, keep_alive=keep_alive)


def _assemble(request: LoadRequest, native: NativeModel, settings: LlamaCppSettings, budget_bytes: int) -> LlamaModel:
    header = ModelHeader(native.model)
    plan = plan_memory(_wanted(native, settings), header.cache_shape(settings), budget_bytes)
    _make_context(request, native, settings, plan)
    capabilities = _capabilities(native, header, settings, plan)
    vocab = lib.llama_model_get_vocab(native.model)
    tokenizer = LlamaTokenizer(vocab)
    renderer, template_notes = _renderer(header, vocab, tokenizer)
    new_sampler = partial(
        RequestSampler,
        defaults=header.sampling_defaults(),
        vocabulary=VocabularyFacts(tokenizer.n_vocab, tokenizer.end_tokens, suppressed_tokens(vocab)),
        seeds=SeedSource(settings.seed),
        context_length=capabilities.context_length,
    )
    return LlamaModel(
        info=ModelInfo(
            context_length=capabilities.context_length,
            n_vocab=tokenizer.n_vocab,
            description=header.description,
            n_params=int(lib.llama_model_n_params(native.model)),
            size_bytes=int(lib.llama_model_size(native.model)),
            has_chat_template=isinstance(renderer, ChatTemplate),
            notes=(*plan.notes, *template_notes),
            meta={
                "architecture": header.architecture,
                "kv_layout": capabilities.layout,
                "kv_cells": capabilities.n_cells,
                "parallel": capabilities.parallel,
                "cached_sequences": plan.cached_sequences,
            },
        ),
        decoder=LlamaDecoder(native.context, capabilities, tokenizer.n_vocab, new_sampler),
        tokenizer=tokenizer,
        renderer=renderer,
        native=native,
    )


def _wanted(native: NativeModel, settings: LlamaCppSettings) -> Wanted:
    return Wanted(
        context_length=settings.context_length,
        n_ctx_train=int(lib.llama_model_n_ctx_train(native.model)),
        parallel=settings.parallel,
        cached_sequences=settings.cached_sequences,
        layout=settings.kv_layout,
        n_ubatch=settings.n_ubatch,
        swa_full=settings.swa_full,
    )


def _make_context(request: LoadRequest, native: NativeModel, settings: LlamaCppSettings, plan: MemoryPlan) -> None:
    if lib.llama_model_has_encoder(native.model) or not lib.llama_model_has_decoder(native.model):
        message = f"Model {request.model_id!r} does not write text by itself: it is not a decoder-only model."
        raise ModelLoadError(message)
    native.context = lib.llama_init_from_model(native.model, context_params(settings, plan))
    if not native.context:
        reason = native.log.first_error or "llama.cpp gave no reason"
        message = (
            f"llama.cpp can't make a context of {plan.n_ctx} KV cells for model {request.model_id!r}: {reason}. "
            "If memory is short, lower context_length or parallel."
        )
        raise ModelLoadError(message)
    if not lib.llama_get_memory(native.context):
        message = f"Model {request.model_id!r} keeps no memory of what it reads, so it can't write text."
        raise ModelLoadError(message)


def _capabilities(
    native: NativeModel, header: ModelHeader, settings: LlamaCppSettings, plan: MemoryPlan
) -> Capabilities:
    """Describe the context as the library made it: it rounds sizes (llama.h, llama_n_ctx and its like)."""
    n_ctx, n_ctx_seq = int(lib.llama_n_ctx(native.context)), int(lib.llama_n_ctx_seq(native.context))
    recurrent_only = bool(lib.llama_model_is_recurrent(native.model))
    # One pool gives away cells behind any sequence's window, so only streams keep what a full-size window promises.
    keeps_window = header.n_swa == 0 or (settings.swa_full and plan.layout == "streams")
    return Capabilities(
        context_length=min(plan.context_length, n_ctx_seq),
        n_cells=plan.context_length * plan.n_seq_max if recurrent_only else n_ctx,
        n_seq_max=int(lib.llama_n_seq_max(native.context)),
        n_batch=int(lib.llama_n_batch(native.context)),
        parallel=plan.parallel,
        layout=plan.layout,
        can_truncate=keeps_window and not header.is_recurrent,
        can_copy=True,
        copy_cost_tokens=copy_cost_tokens(n_ctx_seq) if plan.layout == "streams" and not recurrent_only else 0,
        n_outputs_max=plan.n_seq_max,
        step_seconds=settings.max_step_ms / 1000,
    )


def _renderer(
    header: ModelHeader,
    vocab: Any,  # noqa: ANN401  # llama_vocab pointer
    tokenizer: LlamaTokenizer,
) -> tuple[ChatTemplate | BrokenTemplate | None, tuple[str, ...]]:
    """Return the chat template, if there is one, and notes on what is wrong with it."""
    source = header.chat_template
    if source is None:
        return None, ()
    try:
        template = ChatTemplate(
            source,
            bos_token=tokenizer.written_out(int(lib.llama_vocab_bos(vocab))),
            eos_token=tokenizer.written_out(int(lib.llama_vocab_eos(vocab))),
            add_bos=bool(lib.llama_vocab_get_add_bos(vocab)),
        )
    except (jinja2.TemplateError, TemplateLimitError) as error:
        return BrokenTemplate(str(error)), (f"The chat template can't be compiled: {error}.",)
    return template, ()
