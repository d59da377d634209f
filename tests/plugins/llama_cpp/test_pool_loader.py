from __future__ import annotations

import numpy as np
import pytest

from localllm import LoadRequest, Mode, ModelLoadError, PoolCapabilities, PoolingInfo, PoolItem
from localllm.testing.tiny_encoder import write_tiny_bert, write_tiny_qwen3_reranker
from localllm.testing.tiny_model import write_tiny_llama, write_tiny_mamba, write_tiny_sliding
from localllm_llama_cpp import loader, pool_context
from localllm_llama_cpp.loader import load
from localllm_llama_cpp.log import native_log

WRITERS = {
    "encoder": write_tiny_bert,
    "decoder": write_tiny_llama,
    "window": write_tiny_sliding,
    "state": write_tiny_mamba,
}


def item(tokens) -> PoolItem:
    return PoolItem(tuple(tokens))


def test_what_was_loaded_is_described(tmp_path, load_pooler):
    model = load_pooler(write_tiny_bert(tmp_path / "bert.gguf", n_ctx=512))
    assert model.info.pooling == PoolingInfo("mean", 64)
    assert (model.info.context_length, model.info.n_vocab, model.info.notes) == (512, 160, ())
    assert model.info.meta["architecture"] == "bert"
    assert model.pooler.capabilities == PoolCapabilities(512, batch_tokens=256, batch_texts=64)


@pytest.mark.parametrize(
    ("options", "info"),
    [
        pytest.param({"pooling": "cls"}, PoolingInfo("cls", 64), id="cls"),
        pytest.param({"pooling": None}, PoolingInfo("mean", 64), id="nothing-said"),
        pytest.param({"pooling": "rank", "head": "direct"}, PoolingInfo("rank", 1, "logit"), id="rank"),
        pytest.param({"pooling": None, "head": "dense"}, PoolingInfo("rank", 1, "logit"), id="a-head-only"),
        pytest.param(
            {"pooling": "rank", "head": "direct", "labels": ["no", "yes"]},
            PoolingInfo("rank", 1, "probability"),
            id="two-labels",
        ),
    ],
)
def test_the_file_says_how_it_pools(tmp_path, load_pooler, options, info):
    assert load_pooler(write_tiny_bert(tmp_path / "bert.gguf", **options)).info.pooling == info


def test_a_setting_says_otherwise(tmp_path, load_pooler):
    path = write_tiny_bert(tmp_path / "bert.gguf", pooling="mean")
    tokens = load_pooler(path).encoder.encode_text("the cat sat on the mat")
    results = {kind: load_pooler(path, pooling=kind).pooler.pool([item(tokens)])[0] for kind in ("mean", "cls", "last")}
    assert len(set(results.values())) == 3


@pytest.mark.parametrize("settings", [{"pooling": "rank"}, {}])
def test_scores_without_a_head_are_a_load_error(tmp_path, load_pooler, settings):
    path = write_tiny_bert(tmp_path / "bert.gguf", pooling="rank", head="none")
    with pytest.raises(ModelLoadError, match=r"'tiny' can't be loaded .* no classification head"):
        load_pooler(path, **settings)


def test_a_softmax_over_one_output_is_a_load_error(tmp_path, load_pooler):
    with pytest.raises(ModelLoadError, match="every score would be 1"):
        load_pooler(write_tiny_qwen3_reranker(tmp_path / "reranker.gguf", labels=["yes"]))


def test_an_encoder_decoder_is_refused(tmp_path, load_pooler, monkeypatch):
    monkeypatch.setattr(pool_context.lib, "llama_model_has_encoder", lambda _model: True)
    with pytest.raises(ModelLoadError, match=r"'tiny' can't give embeddings .* its decoder alone"):
        load_pooler(write_tiny_llama(tmp_path / "decoder.gguf"))


def test_what_only_drafts_is_refused(tmp_path, load_pooler, monkeypatch):
    monkeypatch.setattr(pool_context, "why_not", {"llama": "it only drafts for another model"}.get)
    with pytest.raises(ModelLoadError, match="'llama', and it only drafts"):
        load_pooler(write_tiny_llama(tmp_path / "decoder.gguf"))


@pytest.mark.parametrize("pooling", ["auto", "mean", "cls", "last"])
@pytest.mark.parametrize("kind", WRITERS)
def test_every_kind_of_model_pools(tmp_path, load_pooler, kind, pooling):
    model = load_pooler(WRITERS[kind](tmp_path / "model.gguf"), pooling=pooling)
    assert model.info.pooling.kind == ("mean" if pooling == "auto" else pooling)
    texts = [item(model.encoder.encode_text(text)) for text in ("the cat", "what is in the river", "a")]
    vectors = np.frombuffer(b"".join(model.pooler.pool(texts)), "<f4").reshape(3, model.info.pooling.dimensions)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    similarity = vectors @ vectors.T
    assert similarity[np.triu_indices(3, 1)].max() < 0.99


def test_a_model_whose_header_hides_how_it_attends(tmp_path, load_pooler, monkeypatch):
    monkeypatch.setattr(pool_context, "ENCODERS", frozenset())
    model = load_pooler(write_tiny_bert(tmp_path / "bert.gguf", n_ctx=300, leave_out=["bert.attention.causal"]))
    tokens = model.encoder.encode_text("the cat sat " * 200, max_tokens=300)
    assert len(model.pooler.pool([item(tokens)])[0]) == 64 * 4


@pytest.mark.parametrize(
    "settings",
    [
        {"flash_attention": True, "cache_type_k": "q8_0", "cache_type_v": "q8_0"},
        {"flash_attention": False},
        {"context_length": 1},
        {"context_length": 37},
        {"context_length": 101},
        {"pool_batch_tokens": 16},
        {"pool_batch_tokens": 103},
        {"context_length": 90, "pool_batch_tokens": 1},
        {"n_batch": 16, "n_ubatch": 8},
        {"n_gpu_layers": 0, "mmap": False},
    ],
)
@pytest.mark.parametrize("write", [write_tiny_bert, write_tiny_llama])
def test_settings_load(tmp_path, load_pooler, write, settings):
    model = load_pooler(write(tmp_path / "model.gguf", n_embd=128), **settings)
    longest = model.info.context_length
    assert longest == settings.get("context_length", 128 if write is write_tiny_bert else 512)
    assert len(model.pooler.pool([item([5] * longest)])[0]) == 128 * 4


def test_scarce_memory_shortens_texts_and_says_so(tmp_path, load_pooler, monkeypatch):
    path = write_tiny_bert(tmp_path / "bert.gguf", n_ctx=4096)
    assert load_pooler(path).info.context_length == 4096
    monkeypatch.setattr(loader, "available_memory_bytes", lambda: 30_000_000)
    model = load_pooler(path)
    assert 512 <= model.info.context_length < 4096
    assert "instead of the model's own 4096" in model.info.notes[0]


def test_learned_positions_are_not_overrun(tmp_path, load_pooler):
    model = load_pooler(write_tiny_bert(tmp_path / "bert.gguf", n_ctx=128), context_length=1000)
    assert model.info.context_length == 128
    assert "learned no positions" in model.info.notes[0].replace("has learned no", "learned no")


def test_what_cannot_be_allocated_is_planned_anew(tmp_path, load_pooler, monkeypatch):
    sizes = []

    def refuse_large(model, params):
        sizes.append(params.n_ubatch)
        if params.n_ubatch <= 2048:
            return create(model, params)
        native_log().first_error = "failed to allocate compute buffers"
        return None

    create = pool_context.lib.llama_init_from_model
    monkeypatch.setattr(pool_context.lib, "llama_init_from_model", refuse_large)
    model = load_pooler(write_tiny_bert(tmp_path / "bert.gguf", n_ctx=4096))
    assert sizes[0] == 4096
    assert model.info.context_length == sizes[-1] <= 2048
    assert model.info.notes


def test_what_the_library_refuses_is_a_load_error(tmp_path, load_pooler, monkeypatch):
    def refuse(_model, _params):
        native_log().first_error = "unheard of"

    monkeypatch.setattr(pool_context.lib, "llama_init_from_model", refuse)
    with pytest.raises(ModelLoadError, match=r"texts of 128 tokens for model 'tiny': unheard of\. .*context_length"):
        load_pooler(write_tiny_bert(tmp_path / "bert.gguf"))


@pytest.mark.parametrize("bad", [{"pooling": "median"}, {"pool_batch": 256}])
def test_wrong_settings_are_a_load_error(tmp_path, bad):
    with pytest.raises(ModelLoadError, match="'tiny'"):
        load(LoadRequest("tiny", str(write_tiny_bert(tmp_path / "bert.gguf")), Mode.POOL, bad))


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        pytest.param([], "0 texts", id="nothing"),
        pytest.param([PoolItem((2, 3))] * 33, "33 texts", id="too-many"),
        pytest.param([PoolItem((2, 3)), PoolItem(())], "0 or 2 tokens", id="an-empty-text"),
        pytest.param([PoolItem((2,) * 129)], "129 tokens", id="too-long"),
        pytest.param([PoolItem((2,) * 100)] * 2, "200 tokens", id="too-long-together"),
    ],
)
def test_a_batch_against_the_capabilities_is_not_computed(tmp_path, load_pooler, batch, words):
    model = load_pooler(write_tiny_bert(tmp_path / "bert.gguf", n_ctx=128))
    with pytest.raises(ValueError, match=words):
        model.pooler.pool(batch)


def test_a_failure_of_the_library_says_which(tmp_path, load_pooler):
    model = load_pooler(write_tiny_bert(tmp_path / "bert.gguf"))
    with pytest.raises(RuntimeError, match="the batch is invalid"):
        model.pooler.pool([item([2, 160, 3])])
    assert len(model.pooler.pool([item([2, 159, 3])])[0]) == 256, "the next batch is computed"
