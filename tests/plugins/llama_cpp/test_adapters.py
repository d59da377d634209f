"""LoRA adapters are computed with, at their scale; a file that does not fit is told by its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from localllm import LoadRequest, MemoryUse, Mode, ModelLoadError, Plan, SamplingParams, SequenceKey, Slice
from localllm.testing.tiny_lora import merge_loras, write_tiny_lora
from localllm.testing.tiny_model import write_tiny_llama, write_tiny_mamba
from localllm_llama_cpp import memory_meter
from localllm_llama_cpp.adapter_settings import AdapterSettings
from localllm_llama_cpp.loader import load
from localllm_llama_cpp.settings import LlamaCppSettings

PROMPT = tuple(b"the quick brown fox")
N_TOP = 320


@pytest.fixture(scope="module")
def adapter(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_lora(tmp_path_factory.mktemp("lora") / "style.gguf", tiny_path)


@pytest.fixture(scope="module")
def other(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lora") / "other.gguf"
    return write_tiny_lora(path, tiny_path, seed=2, rank=2, alpha=1.0, targets=("blk.1.ffn_up.weight",))


def logprobs(model: Any) -> np.ndarray:
    """The log-probabilities of all tokens after the prompt, by token id."""
    key = SequenceKey("r", 0)
    model.decoder.open("r", SamplingParams(temperature=0.0, logprobs=N_TOP), PROMPT)
    model.decoder.submit(Plan(slices=(Slice(0, 0, PROMPT, (key,)),)))
    [sampled] = model.decoder.collect()[key]
    model.decoder.close("r")
    assert len(sampled.top) == N_TOP
    return np.array([logprob for _, logprob in sorted(sampled.top)])


def loras(*adapters: tuple[Path, float]) -> list[dict[str, Any]]:
    return [{"path": str(path), "scale": scale} for path, scale in adapters]


@pytest.mark.parametrize("scale", [1.0, 0.25, -0.5])
def test_an_adapter_counts_like_weights_with_it_merged_in(
    tiny_path: Path, adapter: Path, load_model: Any, tmp_path: Path, scale: float
) -> None:
    merged = merge_loras(tmp_path / "merged.gguf", tiny_path, [(adapter, scale)])
    expected, found = logprobs(load_model(merged)), logprobs(load_model(tiny_path, lora=loras((adapter, scale))))
    assert np.abs(expected - logprobs(load_model(tiny_path))).max() > 0.1
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_several_adapters_add_up(tiny_path: Path, adapter: Path, other: Path, load_model: Any, tmp_path: Path) -> None:
    both = [(adapter, 0.5), (other, 2.0)]
    expected = logprobs(load_model(merge_loras(tmp_path / "merged.gguf", tiny_path, both)))
    np.testing.assert_allclose(logprobs(load_model(tiny_path, lora=loras(*both))), expected, atol=2e-3)


def test_one_at_scale_0_changes_nothing_until_it_is_asked_for(tiny_path: Path, adapter: Path, load_model: Any) -> None:
    plain = logprobs(load_model(tiny_path))
    np.testing.assert_array_equal(logprobs(load_model(tiny_path, lora=loras((adapter, 0.0)))), plain)


def test_vectors_are_made_with_it_too(tmp_path: Path, load_pooler: Any) -> None:
    base = write_tiny_llama(tmp_path / "embedder.gguf", pooling_type=3)
    adapter = write_tiny_lora(tmp_path / "a.gguf", base)
    merged = merge_loras(tmp_path / "merged.gguf", base, [(adapter, 1.0)])

    def vector(model: Any) -> np.ndarray:
        from localllm import PoolItem

        [found] = model.pooler.pool([PoolItem(PROMPT)])
        return np.frombuffer(found, dtype="<f4")

    found = vector(load_pooler(base, lora=loras((adapter, 1.0))))
    np.testing.assert_allclose(found, vector(load_pooler(merged)), atol=2e-3)
    assert np.abs(found - vector(load_pooler(base))).max() > 1e-2


def refused(base: Path, path: Path) -> str:
    with pytest.raises(ModelLoadError) as caught:
        load(LoadRequest("tiny", str(base), Mode.GENERATE, {"lora": loras((path, 1.0))}))
    assert str(path) in caught.value.message
    return caught.value.message


def test_a_missing_file_is_told(tiny_path: Path, tmp_path: Path) -> None:
    assert "can't be read: No such file or directory" in refused(tiny_path, tmp_path / "none.gguf")


def test_a_file_of_another_format_is_told(tiny_path: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    message = refused(tiny_path, tmp_path / "adapter.safetensors")
    assert "is not a GGUF file" in message
    assert "convert_lora_to_gguf.py" in message


def test_a_model_is_no_adapter(tiny_path: Path) -> None:
    assert "expect general.type to be 'adapter'" in refused(tiny_path, tiny_path)


def test_an_adapter_of_another_architecture_is_told(tiny_path: Path, adapter: Path, tmp_path: Path) -> None:
    mamba = write_tiny_mamba(tmp_path / "mamba.gguf")
    assert "model arch and LoRA arch mismatch" in refused(mamba, adapter)


def test_an_adapter_of_a_larger_model_is_told(tiny_path: Path, tmp_path: Path) -> None:
    wide = write_tiny_llama(tmp_path / "wide.gguf", n_embd=128)
    assert "has incorrect shape" in refused(tiny_path, write_tiny_lora(tmp_path / "a.gguf", wide))
    deep = write_tiny_llama(tmp_path / "deep.gguf", n_layer=3)
    path = write_tiny_lora(tmp_path / "b.gguf", deep, targets=("blk.2.attn_q.weight",))
    assert "does not exist in base model" in refused(tiny_path, path)


@pytest.mark.parametrize("keep", [0.2, 0.6, 0.99])
def test_a_file_that_broke_off_is_told(tiny_path: Path, adapter: Path, tmp_path: Path, keep: float) -> None:
    content = adapter.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(content[: int(len(content) * keep)])
    assert refused(tiny_path, tmp_path / "cut.gguf")


def test_an_adapter_that_counts_only_behind_certain_tokens_is_refused(tiny_path: Path, tmp_path: Path) -> None:
    path = write_tiny_lora(tmp_path / "a.gguf", tiny_path, metadata={"adapter.alora.invocation_tokens": [1, 2]})
    assert "aLoRA" in refused(tiny_path, path)


def test_another_kind_of_adapter_is_refused(tiny_path: Path, tmp_path: Path) -> None:
    path = write_tiny_lora(tmp_path / "a.gguf", tiny_path, metadata={"adapter.type": "ia3"})
    assert "expect adapter.type to be 'lora', but got: ia3" in refused(tiny_path, path)


def test_settings_are_read_from_plain_values() -> None:
    plain = {"lora": [{"path": "/x/style.gguf", "scale": 0.5}, {"path": "/y.gguf", "name": "why"}]}
    settings = LlamaCppSettings.from_mapping(plain)
    assert settings.lora == [AdapterSettings(Path("/x/style.gguf"), 0.5), AdapterSettings(Path("/y.gguf"), name="why")]
    assert [one.label for one in settings.lora] == ["style", "why"]


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ([{"path": "/x/a.gguf"}, {"path": "/y/a.gguf"}], "lora has two adapters named 'a'"),
        ([{"path": f"/{index}.gguf"} for index in range(33)], "lora lists 33 adapters; at most 32"),
    ],
)
def test_adapters_that_can_not_be_told_apart_are_refused(lora: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LlamaCppSettings.from_mapping({"lora": lora})


def test_what_an_adapter_takes_is_announced_and_counts_once(
    tiny_path: Path, adapter: Path, load_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffers = load_model(tiny_path, lora=loras((adapter, 1.0))).native.buffers
    (taken,) = [buffer for buffer in buffers if buffer.purpose == "LoRA"]
    assert taken.n_bytes == pytest.approx(adapter.stat().st_size, abs=2**20 / 100)  # as exact as the library says it
    monkeypatch.setattr(memory_meter, "anonymous_bytes", lambda: 1000)
    meter = memory_meter.MemoryMeter()
    on_gpu = [taken._replace(place="CUDA0"), taken._replace(place="CUDA1")]
    counted = [meter.result(5, some) for some in ([], [taken], on_gpu)]
    assert counted == [MemoryUse(5, 0, 1000), MemoryUse(5, 0, 1000), MemoryUse(5, 0, 1000 + 2 * taken.n_bytes)]
