from __future__ import annotations

import dataclasses
import json

import pytest

from localllm import ChatPrompt, LoadRequest, Mode, ModelFileError, ModelLoadError, ModelUnsupportedError
from localllm.testing.tiny_model import (
    corrupt_gguf,
    truncate_gguf,
    write_tiny_llama,
    write_tiny_mamba,
    write_tiny_sliding,
)
from localllm_llama_cpp import chat_renderer, context, loader
from localllm_llama_cpp.format_presets import PRESETS
from localllm_llama_cpp.loader import load
from localllm_llama_cpp.log import native_log
from localllm_llama_cpp.sampling_defaults import SamplingDefaults
from tests.plugins.llama_cpp.families import TEMPLATES


def request_for(path, mode=Mode.GENERATE, **settings) -> LoadRequest:
    return LoadRequest("tiny", str(path), mode, settings)


def test_what_was_loaded_is_described(tiny_path, load_model):
    info = load_model(tiny_path).info
    assert (info.context_length, info.n_vocab, info.has_chat_template) == (512, 320, True)
    assert info.n_params > 100_000
    assert info.size_bytes > 400_000
    assert info.notes == ()
    assert info.meta["architecture"] == "llama"


@pytest.mark.parametrize("layout", ["unified", "streams"])
def test_capabilities_are_those_of_the_context(tiny_path, load_model, layout):
    model = load_model(tiny_path, kv_layout=layout, context_length=300, parallel=3, cached_sequences=2, max_step_ms=50)
    capabilities = model.decoder.capabilities
    assert (capabilities.context_length, capabilities.n_seq_max, capabilities.parallel) == (300, 5, 3)
    assert capabilities.layout == layout
    assert capabilities.n_cells == 512 * (3 if layout == "unified" else 5)
    assert capabilities.can_truncate
    assert capabilities.n_outputs_max == 64
    assert capabilities.can_score
    assert capabilities.step_seconds == 0.05


@pytest.mark.parametrize("layout", ["unified", "streams"])
def test_a_sliding_window_cannot_be_truncated(tmp_path, load_model, layout):
    path = write_tiny_sliding(tmp_path / "sliding.gguf")
    assert not load_model(path, kv_layout=layout).decoder.capabilities.can_truncate


def test_a_full_size_window_can_be_truncated_in_streams(tmp_path, load_model):
    path = write_tiny_sliding(tmp_path / "sliding.gguf")
    capabilities = load_model(path, swa_full=True).decoder.capabilities
    assert (capabilities.layout, capabilities.can_truncate) == ("streams", True)


def test_a_running_state_cannot_be_truncated(tmp_path, load_model):
    capabilities = load_model(write_tiny_mamba(tmp_path / "mamba.gguf")).decoder.capabilities
    assert not capabilities.can_truncate
    assert capabilities.n_cells == capabilities.n_seq_max * capabilities.context_length


def test_scarce_memory_shrinks_the_context_and_says_so(tiny_path, load_model, monkeypatch):
    monkeypatch.setattr(loader, "available_memory_bytes", lambda: 0)
    model = load_model(tiny_path, context_length=4096, kv_layout="streams")
    assert model.info.context_length == 512
    assert any("context_length is 512 instead of the configured 4096" in note for note in model.info.notes)


def test_safe_mode_loads_too(tiny_path, load_model):
    assert load_model(tiny_path, safe_mode=True).info.n_vocab == 320


@pytest.mark.parametrize(
    "settings",
    [
        {"flash_attention": True, "cache_type_k": "q8_0", "cache_type_v": "q8_0"},
        {"flash_attention": False, "cache_type_k": "f32", "cache_type_v": "f32"},
        {"mmap": False},
        {"threads": 1, "threads_batch": 2, "n_batch": 64, "n_ubatch": 32},
        {"n_gpu_layers": 0, "split_mode": "none", "main_gpu": 0, "offload_kqv": False},
        {"tensor_split": [1.0]},
        {"rope_scaling_type": "yarn", "rope_freq_scale": 0.25, "yarn_orig_ctx": 512, "context_length": 2048},
        {"rope_freq_base": 20000.0},
    ],
)
def test_settings_reach_the_library(tmp_path, load_model, settings):
    path = write_tiny_llama(tmp_path / "wide.gguf", n_embd=128, n_head=4)  # heads of 32: whole quantised blocks
    assert load_model(path, **settings).info.n_vocab == 320


def test_every_setting_is_known_to_the_loader(tiny_path, load_model):
    defaults = {field.name: getattr(load_settings(), field.name) for field in dataclasses.fields(load_settings())}
    assert load_model(tiny_path, **defaults).info.context_length == 512


def load_settings():
    return loader.LlamaCppSettings()


FAULTS = {
    "missing": lambda tiny, target: target,
    "a_folder": lambda tiny, target: (target.mkdir(), target)[1],
    "empty": lambda tiny, target: (target.write_bytes(b""), target)[1],
    "a_web_page": lambda tiny, target: (target.write_bytes(b"<!DOCTYPE html><html></html>"), target)[1],
    "half_the_download": lambda tiny, target: truncate_gguf(tiny, target, keep=0.5),
    "only_the_header": lambda tiny, target: truncate_gguf(tiny, target, keep=0.002),
    "bad_magic": lambda tiny, target: corrupt_gguf(tiny, target, fault="magic"),
    "bad_version": lambda tiny, target: corrupt_gguf(tiny, target, fault="version"),
    "absurd_tensor_count": lambda tiny, target: corrupt_gguf(tiny, target, fault="tensor_count"),
    "absurd_key_count": lambda tiny, target: corrupt_gguf(tiny, target, fault="key_count"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_is_no_model_is_refused_by_name(tiny_path, tmp_path, fault):
    path = FAULTS[fault](tiny_path, tmp_path / "model.gguf")
    with pytest.raises(ModelFileError) as caught:
        load(request_for(path))
    assert str(path) in caught.value.message
    assert "'tiny'" in caught.value.message


def test_a_model_without_a_file_is_refused():
    with pytest.raises(ModelLoadError, match="'path'"):
        load(LoadRequest("tiny", None, Mode.GENERATE))


@pytest.mark.parametrize(
    "settings", [{"kv_layout": "paged"}, {"n_threads": 3}, {"parallel": "many"}, {"chat_format": "qwen9"}]
)
def test_wrong_settings_are_a_load_error(tiny_path, settings):
    with pytest.raises(ModelLoadError, match="'tiny'"):
        load(request_for(tiny_path, **settings))


def test_a_file_without_a_template_has_no_renderer(tmp_path, load_model):
    model = load_model(write_tiny_llama(tmp_path / "bare.gguf", chat_template=None))
    assert model.renderer is None
    assert not model.info.has_chat_template
    assert "chat_format" not in model.info.meta


def test_a_broken_template_costs_only_the_chat(tmp_path, load_model):
    model = load_model(write_tiny_llama(tmp_path / "broken.gguf", chat_template="{% if %}"))
    assert model.renderer is not None
    with pytest.raises(ModelUnsupportedError, match="can't be compiled"):
        model.renderer.render(ChatPrompt(({"role": "user", "content": "x"},)))
    assert not model.info.has_chat_template
    assert "can't be compiled" in model.info.notes[0]


def test_how_the_model_writes_calls_is_found_in_its_template_and_told(tmp_path, load_model):
    template = (TEMPLATES / "qwen3.jinja").read_text(encoding="utf-8")
    model = load_model(write_tiny_llama(tmp_path / "qwen.gguf", chat_template=template))
    told = model.info.meta["chat_format"]
    assert (told["name"], told["source"], told["calls"]["style"]) == ("hermes", "template", "json")
    assert told["thought"] == {"open": "<think>", "close": "</think>"}
    assert json.loads(json.dumps(told)) == told
    tool = {"type": "function", "function": {"name": "get", "parameters": {"type": "object"}}}
    rendered = model.renderer.render(ChatPrompt(({"role": "user", "content": "x"},), tools=(tool,)))
    assert rendered.reply.calls == PRESETS["hermes"].calls
    assert model.info.notes == ()


def test_a_setting_says_how_the_model_writes_calls(tiny_path, load_model):
    told = load_model(tiny_path, chat_format="mistral").info.meta["chat_format"]
    assert (told["name"], told["source"], told["calls"]["style"]) == ("mistral", "config", "tagged_json")


def test_a_template_that_tells_of_no_calls_is_no_fault(tiny_path, load_model):
    info = load_model(tiny_path).info
    assert info.meta["chat_format"] == {"name": "", "source": "none", "thought": None, "calls": None}
    assert info.notes == ()


def test_calls_of_an_unknown_kind_are_noted(tmp_path, load_model):
    template = (TEMPLATES / "solar.jinja").read_text(encoding="utf-8")
    (note,) = load_model(write_tiny_llama(tmp_path / "solar.gguf", chat_template=template)).info.notes
    assert "in a way that is not known here" in note


def test_a_detection_that_fails_costs_the_format_and_not_the_model(tiny_path, load_model, monkeypatch):
    def fail(*_args, **_kwargs):
        raise RecursionError("too deep")

    monkeypatch.setattr(chat_renderer, "detect_format", fail)
    model = load_model(tiny_path)
    (note,) = model.info.notes
    assert "RecursionError: too deep" in note
    assert model.info.meta["chat_format"]["source"] == "none"
    assert model.renderer.render(ChatPrompt(({"role": "user", "content": "x"},))).text
    told = load_model(tiny_path, chat_format="hermes").info.meta["chat_format"]
    assert (told["name"], told["source"]) == ("hermes", "config")


def test_the_files_sampling_recommendations_are_the_defaults(tmp_path, load_model):
    from localllm_llama_cpp.header import ModelHeader

    recommended = {
        "general.sampling.temp": 0.25,
        "general.sampling.top_k": 7,
        "general.sampling.top_p": 0.5,
        "general.sampling.min_p": 3.0,  # nonsense: the usual value stays
    }
    model = load_model(write_tiny_llama(tmp_path / "tuned.gguf", metadata=recommended))
    assert ModelHeader(model.native.model, tmp_path).sampling_defaults() == SamplingDefaults(0.25, 7, 0.5, 0.05)


def test_closing_twice_does_no_harm(tiny_path):
    model = load(request_for(tiny_path))
    model.close()
    model.close()


def test_what_cannot_be_allocated_is_tried_again_with_half(tiny_path, load_model, monkeypatch):
    asked: list[int] = []
    make = context.lib.llama_init_from_model

    def short_of_memory(model, params):
        asked.append(params.n_ctx)
        if params.n_ctx > 600:
            native_log().first_error = "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 9 MiB failed"
            return None
        return make(model, params)

    monkeypatch.setattr(context.lib, "llama_init_from_model", short_of_memory)
    model = load_model(tiny_path, context_length=4096, parallel=1, cached_sequences=0, kv_layout="unified")
    assert asked == [4096, 2048, 1024, 512]
    assert model.info.context_length == 512
    assert any("context_length is 512 instead of the configured 4096" in note for note in model.info.notes)


def test_another_refusal_is_final_and_told(tiny_path, load_model, monkeypatch):
    asked: list[int] = []

    def refuse(model, params):
        asked.append(params.n_ctx)
        native_log().first_error = "V cache quantization requires flash_attn"

    monkeypatch.setattr(context.lib, "llama_init_from_model", refuse)
    with pytest.raises(ModelLoadError, match="'tiny': V cache quantization requires flash_attn"):
        load_model(tiny_path)
    assert len(asked) == 1
