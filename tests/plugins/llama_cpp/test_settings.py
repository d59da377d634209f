from __future__ import annotations

import dataclasses

import pytest

from localllm_llama_cpp.settings import LlamaCppSettings


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"kv_layout": "paged"}, ["kv_layout", "'paged'", "unified", "streams"]),
        ({"cache_type_k": "q3_k"}, ["cache_type_k", "'q3_k'", "q8_0"]),
        ({"split_mode": "tensor"}, ["split_mode", "'tensor'", "layer"]),
        ({"rope_scaling_type": "ntk"}, ["rope_scaling_type", "'ntk'", "yarn"]),
        ({"flash_attention": "on"}, ["flash_attention", "'on'", "auto"]),
        ({"flash_attention": False, "cache_type_v": "q8_0"}, ["cache_type_v", "q8_0", "flash attention"]),
        ({"parallel": 200, "cached_sequences": 57}, ["200", "57", "256"]),
        ({"chat_format": "qwen9"}, ["chat_format", "'qwen9'", "hermes", "qwen3_coder"]),
        ({"tensor_split": [1.0, -1.0]}, ["tensor_split", "-1.0"]),
        ({"swa_full": True, "kv_layout": "unified"}, ["swa_full", "streams"]),
    ],
)
def test_wrong_values_are_refused_with_the_key_the_value_and_a_way_out(values, words):
    with pytest.raises(ValueError) as caught:
        LlamaCppSettings.from_mapping(values)
    assert all(word in str(caught.value) for word in words)


def test_an_unknown_key_is_refused_by_name():
    with pytest.raises(TypeError, match="'n_threads'"):
        LlamaCppSettings.from_mapping({"n_threads": 4})


def test_defaults_are_the_documented_ones_and_valid():
    settings = LlamaCppSettings.from_mapping({})
    assert (settings.context_length, settings.parallel, settings.cached_sequences) == (0, 4, 8)
    assert settings.kv_layout == "auto"
    assert settings.seed is None


def test_every_key_has_a_help_text():
    assert all(field.metadata["help"] for field in dataclasses.fields(LlamaCppSettings))


def test_quantised_keys_need_no_flash_attention():
    assert LlamaCppSettings.from_mapping({"flash_attention": False, "cache_type_k": "q8_0"}).cache_type_k == "q8_0"
