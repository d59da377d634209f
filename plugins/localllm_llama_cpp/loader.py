"""Loads a model in the worker: file, memory plan, context, tokenizer, template."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import llama_cpp.llama_cpp as lib

from localllm import (
    LoadRequest,
    Mode,
    ModelFileError,
    ModelInfo,
    ModelLoadError,
)

from .chat_renderer import ChatRenderer
from .context import NativeModel, describe_context, make_context
from .decoder import LlamaDecoder
from .dry import DrySource
from .gaps import CPU_RULE, GPU_RULE
from .grammar_tokenizer import grammar_tokenizer
from .grammars import Grammars
from .hardware import available_memory_bytes
from .header import ModelHeader
from .log import native_log
from .native_params import model_params, uses_gpu
from .pool_loader import LlamaPoolerModel, assemble_pooler
from .sampler_factory import SamplerFactory, SeedSource, VocabularyFacts
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
    renderer: ChatRenderer | None
    constraints: Grammars
    dry: DrySource
    native: NativeModel

    def close(self) -> None:
        """Free samplers, grammars, context and model, in this order; nothing of it may be used afterwards."""
        self.decoder.close_all()
        self.dry.close()
        self.constraints.close()
        self.native.close()


def load(request: LoadRequest) -> LlamaModel | LlamaPoolerModel:
    """Load a GGUF file, to write or to pool. The worker's factory. Raises ``ModelFileError`` or ``ModelLoadError``."""
    try:
        settings = LlamaCppSettings.from_mapping(request.settings)
    except (TypeError, ValueError) as error:
        message = f"The settings of model {request.model_id!r} are wrong: {error}."
        raise ModelLoadError(message) from error
    path = _checked_path(request)
    free_bytes = available_memory_bytes()
    native = _load_file(request, path, settings)
    try:
        if request.mode is Mode.POOL:
            return assemble_pooler(request, path, native, settings, free_bytes)
        return _assemble(request, native, settings, free_bytes)
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


def _load_file(request: LoadRequest, path: Path, settings: LlamaCppSettings) -> NativeModel:
    log = native_log()
    log.forget_errors()
    lib.llama_backend_init()
    params, keep_alive = model_params(settings, safe_mode=request.safe_mode)
    model = lib.llama_model_load_from_file(str(path).encode(), params)
    if not model:
        reason = log.first_error or "llama.cpp gave no reason"
        message = f"llama.cpp can't load {path} for model {request.model_id!r}: {reason}."
        raise ModelFileError(message)
    return NativeModel(log, model, keep_alive=keep_alive)


def _assemble(request: LoadRequest, native: NativeModel, settings: LlamaCppSettings, free_bytes: int) -> LlamaModel:
    header = ModelHeader(native.model)
    size_bytes = int(lib.llama_model_size(native.model))
    # The weights of a mapped file come into memory only as they are used, so that what is free now would deceive.
    budget_bytes = max(0, int((free_bytes - size_bytes) * settings.memory_fraction))
    plan = make_context(request.model_id, native, header, settings, budget_bytes)
    capabilities = describe_context(native, header, settings, plan)
    vocab = lib.llama_model_get_vocab(native.model)
    tokenizer = LlamaTokenizer(vocab)
    renderer, template_notes = _renderer(header, vocab, tokenizer)
    # Now, not when a grammar is first asked for: it would stop the step thread, and all answers, for half a second.
    grammars = Grammars(grammar_tokenizer(vocab, tokenizer.end_tokens), tokenizer)
    samplers = SamplerFactory(
        defaults=header.sampling_defaults(),
        vocabulary=VocabularyFacts(tokenizer.n_vocab, tokenizer.end_tokens, suppressed_tokens(vocab)),
        seeds=SeedSource(settings.seed),
        context_length=capabilities.context_length,
        encode=tokenizer.encode_plain,
        dry=DrySource(vocab),
        grammars=grammars,
    )
    gap_rule = GPU_RULE if uses_gpu(settings) else CPU_RULE
    return LlamaModel(
        info=ModelInfo(
            context_length=capabilities.context_length,
            n_vocab=tokenizer.n_vocab,
            description=header.description,
            n_params=int(lib.llama_model_n_params(native.model)),
            size_bytes=size_bytes,
            has_chat_template=renderer is not None and renderer.is_usable,
            notes=(*plan.notes, *template_notes),
            meta={
                "architecture": header.architecture,
                "kv_layout": capabilities.layout,
                "kv_cells": capabilities.n_cells,
                "parallel": capabilities.parallel,
                "cached_sequences": plan.cached_sequences,
            },
        ),
        decoder=LlamaDecoder(native.context, capabilities, tokenizer.n_vocab, samplers, grammars.masks, gap_rule),
        tokenizer=tokenizer,
        renderer=renderer,
        constraints=grammars,
        dry=samplers.dry,
        native=native,
    )


def _renderer(
    header: ModelHeader,
    vocab: Any,  # noqa: ANN401  # llama_vocab pointer
    tokenizer: LlamaTokenizer,
) -> tuple[ChatRenderer | None, tuple[str, ...]]:
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
        return ChatRenderer(BrokenTemplate(str(error))), (f"The chat template can't be compiled: {error}.",)
    return ChatRenderer(template), ()
