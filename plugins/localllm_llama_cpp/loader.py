"""Loads a model in the worker: file, memory plan, context, tokenizer, template."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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

from .adapters import load_adapters
from .chat_renderer import BrokenRenderer, ChatRenderer, describe_format, find_format
from .compute_memory import GRAMMAR_BYTES_PER_TOKEN
from .context import NativeModel, describe_context, lacks_memory, make_context, memory_detail
from .decoder import LlamaDecoder
from .dry import DrySource
from .gaps import CPU_RULE, GPU_RULE
from .grammar_tokenizer import GrammarVocabulary
from .grammars import Grammars
from .hardware import available_memory_bytes
from .header import ModelHeader
from .huge_pages import SMALLEST_BYTES, HugePages
from .idle_work import IdleWork
from .loading import Loading
from .log import native_log
from .memory import MemoryPlan
from .memory_meter import MemoryMeter
from .native_params import model_params, uses_gpu
from .offload import describe_offload, plan_for, telling
from .pool_loader import LlamaPoolerModel, assemble_pooler
from .sampler_factory import SamplerFactory, SeedSource, VocabularyFacts
from .sandbox import TemplateLimitError
from .saving import with_saving
from .settings import LlamaCppSettings
from .template import ChatTemplate
from .template_source import TemplateSource, template_source
from .tokenizer import LlamaTokenizer, suppressed_tokens


@dataclass(slots=True)
class LlamaModel:
    """A loaded model and everything that must live as long as it does."""

    info: ModelInfo
    decoder: LlamaDecoder
    tokenizer: LlamaTokenizer
    renderer: ChatRenderer | BrokenRenderer | None
    constraints: Grammars
    dry: DrySource
    native: NativeModel
    vocabulary: GrammarVocabulary
    ahead: IdleWork

    def close(self) -> None:
        """Free samplers, grammars, context and model, in this order; nothing of it may be used afterwards."""
        self.ahead.close()
        self.decoder.close_all()
        self.dry.close()
        self.constraints.close()
        self.vocabulary.close()
        self.native.close()


def load(request: LoadRequest) -> LlamaModel | LlamaPoolerModel:
    """Load a GGUF file, to write or to pool. The worker's factory. Raises ``ModelFileError`` or ``ModelLoadError``."""
    try:
        settings = LlamaCppSettings.from_mapping(request.settings)
    except (TypeError, ValueError) as error:
        message = f"The settings of model {request.model_id!r} are wrong: {error}."
        raise ModelLoadError(message) from error
    path = _checked_path(request)
    meter = MemoryMeter()
    free_bytes = available_memory_bytes()
    lib.llama_backend_init()
    offload, settings = plan_for(request, path, settings)
    with telling(offload):
        native = _load_file(request, path, settings)
        loading = Loading(request, path, native, settings, offload, free_bytes, meter)
        try:
            native.adapters = load_adapters(request.model_id, native.model, native.log, settings.lora)
            native.buffers += native.adapters.buffers
            meter.file_is_loaded(native.buffers)
            model = assemble_pooler(loading) if request.mode is Mode.POOL else _assemble(loading)
            native.huge_pages = _huge_pages(loading)
            return model
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
    log.listen()
    params, keep_alive = model_params(settings, safe_mode=request.safe_mode)
    model = lib.llama_model_load_from_file(str(path).encode(), params)
    buffers = log.heard()
    if model:
        return NativeModel(log, model, keep_alive=keep_alive, buffers=buffers)
    reason = log.first_error or "llama.cpp gave no reason"
    message = f"llama.cpp can't load {path} for model {request.model_id!r}: {reason}."
    if lacks_memory(reason):
        raise ModelLoadError(message, detail=memory_detail(reason, uses_gpu=uses_gpu(settings)))
    raise ModelFileError(message)


def _huge_pages(loading: Loading) -> HugePages | None:
    """Return what brings the model's memory into huge pages while it serves; None where it is to stay as it is."""
    settings = loading.settings
    if not settings.huge_pages or settings.mlock or loading.weights_bytes < SMALLEST_BYTES:
        return None
    if uses_gpu(settings):
        return None  # its driver may have fastened the pages where they are
    weights = [one.place for one in loading.native.buffers if one.purpose == "model"]
    # Where they have been repacked, most of what is mapped is read no more.
    huge = HugePages(loading.path, moves_file=all(place.endswith("_Mapped") for place in weights))
    huge.start()
    return huge


def _assemble(loading: Loading) -> LlamaModel:
    request, native, settings = loading.request, loading.native, loading.settings
    header = ModelHeader(native.model, loading.path)
    plan = make_context(request.model_id, native, header, settings, loading.cache_budget())
    native.adapters.apply(native.context)
    loading.meter.context_is_made()
    capabilities = with_saving(describe_context(native, header, settings, plan), loading, header)
    vocab = lib.llama_model_get_vocab(native.model)
    tokenizer = LlamaTokenizer(vocab)
    vocabulary = GrammarVocabulary(vocab, tokenizer.end_tokens)
    grammars = Grammars(vocabulary, tokenizer)
    template = template_source(request.model_id, header.chat_template, settings.chat_template_file)
    chat = _chat(template, vocab, tokenizer, settings, grammars)
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
    ahead = IdleWork(vocabulary.build_ahead)
    model = LlamaModel(
        info=ModelInfo(
            context_length=capabilities.context_length,
            n_vocab=tokenizer.n_vocab,
            description=header.description,
            n_params=int(lib.llama_model_n_params(native.model)),
            size_bytes=loading.weights_bytes,
            has_chat_template=isinstance(chat.renderer, ChatRenderer),
            notes=(*loading.offload.notes, *plan.notes, *chat.notes),
            meta={
                "architecture": header.architecture,
                **_describe_memory(capabilities, plan),
                "offload": describe_offload(loading.offload, int(lib.llama_model_n_layer(native.model))),
                **({"lora": native.adapters.describe()} if native.adapters.names else {}),
                **chat.meta,
            },
            adapters=native.adapters.named,
            parallel=capabilities.parallel,
            memory=loading.memory(GRAMMAR_BYTES_PER_TOKEN * tokenizer.n_vocab),
        ),
        decoder=LlamaDecoder(
            native.context, capabilities, tokenizer.n_vocab, samplers, grammars.masks, gap_rule, ahead, native.adapters
        ),
        tokenizer=tokenizer,
        renderer=chat.renderer,
        constraints=grammars,
        dry=samplers.dry,
        native=native,
        vocabulary=vocabulary,
        ahead=ahead,
    )
    # It stalls the step thread, and all answers, for a third of a second: better while there are none.
    ahead.start()
    return model


def _describe_memory(capabilities: Capabilities, plan: MemoryPlan) -> dict[str, Any]:
    return {
        "kv_layout": capabilities.layout,
        "kv_cells": capabilities.n_cells,
        "parallel": capabilities.parallel,
        "cached_sequences": plan.cached_sequences,
    }


@dataclass(frozen=True, slots=True)
class _Chat:
    """What renders conversations, if there is a template, what is told of it, and notes on what is wrong with it."""

    renderer: ChatRenderer | BrokenRenderer | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def _chat(
    source: TemplateSource | None,
    vocab: Any,  # noqa: ANN401  # llama_vocab pointer
    tokenizer: LlamaTokenizer,
    settings: LlamaCppSettings,
    grammars: Grammars,
) -> _Chat:
    if source is None:
        return _Chat()
    try:
        template = ChatTemplate(
            source.text,
            bos_token=tokenizer.written_out(int(lib.llama_vocab_bos(vocab))),
            eos_token=tokenizer.written_out(int(lib.llama_vocab_eos(vocab))),
            add_bos=bool(lib.llama_vocab_get_add_bos(vocab)),
        )
    except (jinja2.TemplateError, TemplateLimitError) as error:
        return _Chat(BrokenRenderer(str(error)), notes=(f"{source.name} can't be compiled: {error}.",))
    found, notes = find_format(template, settings.chat_format)
    renderer = ChatRenderer(template, found, grammars.special_token, tokenizer.end_tokens)
    return _Chat(renderer, {"chat_format": describe_format(found.format)}, notes)
