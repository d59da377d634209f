"""GGUF files of models that embed and rank, with random weights: BERT with WordPiece, and a Qwen3 reranker.

The weights mean nothing, but everything else is real, so that any forward pass that is right gives the same vectors.
Needs the ``gguf`` and ``numpy`` packages, which are imported only when a file is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from localllm.testing.tiny_model import (
    SMALLEST_VOCABULARY,
    Quantization,
    RandomWeights,
    byte_tokenizer,
    close_file,
    open_file,
    random_weights,
)

if TYPE_CHECKING:
    import numpy as np

PoolingName = Literal["mean", "cls", "last", "rank"]

SPECIAL_PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""The first ids of every WordPiece vocabulary written here."""

RERANK_TEMPLATE = (
    '<|im_start|>system\nAnswer "yes" or "no".<|im_end|>\n<|im_start|>user\n'
    "<Query>: {query}\n<Document>: {document}<|im_end|>\n<|im_start|>assistant\n"
)

_POOLING_TYPES: dict[PoolingName, int] = {"mean": 1, "cls": 2, "last": 3, "rank": 4}
_WORDS = (
    *("the", "a", "of", "and", "in", "is", "to", "cat", "dog", "sat", "on", "mat", "river", "city", "capital"),
    *("france", "paris", "cafe", "bread", "moon", "light", "run", "fast", "slow", "blue", "red", "what", "where"),
)
_ENDINGS = ("s", "ed", "ing", "er", "ly", "ness", "tion")
_PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~"
_IDEOGRAPHS = "日本語中国人大小山川水火東京"
_OTHERS = ("😀", "привет", "straße", "ñ", "ß")


def wordpieces() -> list[str]:
    """Return the vocabulary, by id, as BERT writes it: ``##`` begins what continues a word."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    return [
        *SPECIAL_PIECES,
        *letters,
        *_PUNCTUATION,
        *_IDEOGRAPHS,
        *(word for word in _WORDS if len(word) > 1),
        *_OTHERS,
        *(f"##{letter}" for letter in letters),
        *(f"##{ending}" for ending in _ENDINGS if len(ending) > 1),
    ]


def write_tiny_bert(
    path: Path,
    *,
    seed: int = 0,
    n_embd: int = 64,
    n_layer: int = 2,
    n_head: int = 4,
    n_ff: int = 128,
    n_ctx: int = 128,
    pooling: PoolingName | None = "mean",
    head: Literal["none", "direct", "dense"] = "none",
    labels: Sequence[str] = (),
    quantization: Quantization = "f32",
    leave_out: Sequence[str] = (),
) -> Path:
    """Write a BERT model with random weights to ``path`` and return it.

    ``head`` adds a classification head: one layer, or a dense layer before it; ``labels`` name its outputs, one
    without. ``pooling`` None leaves the pooling type out, as converters of rerankers do. ``leave_out`` names header
    keys that the file is to lack.
    """
    writer = open_file(path, "bert", seed, n_ctx, n_embd, n_layer)
    writer.add_feed_forward_length(n_ff)
    writer.add_head_count(n_head)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    if pooling is not None:
        writer.add_uint32("bert.pooling_type", _POOLING_TYPES[pooling])
    if labels:
        writer.add_classifier_output_labels(list(labels))
    pieces = wordpieces()
    _wordpiece_tokenizer(writer, pieces)
    for key in leave_out:
        del writer.kv_data[0][key]
    weights = random_weights(writer, seed, quantization)
    _bert_embeddings(weights, len(pieces), n_embd, n_ctx)
    for layer in range(n_layer):
        _bert_block(weights, f"blk.{layer}", n_embd, n_ff)
    if head == "dense":
        weights.matrix("cls.weight", n_embd, n_embd)
        _noise(weights, "cls.bias", n_embd)
    if head != "none":
        weights.matrix("cls.output.weight", max(1, len(labels)), n_embd, scale=2.0)
        _noise(weights, "cls.output.bias", max(1, len(labels)))
    return close_file(writer, path)


def write_tiny_qwen3_reranker(
    path: Path,
    *,
    seed: int = 0,
    n_embd: int = 64,
    n_layer: int = 2,
    n_head: int = 4,
    n_head_kv: int = 2,
    n_ff: int = 128,
    n_ctx: int = 1024,
    template: str | None = RERANK_TEMPLATE,
    labels: Sequence[str] = ("yes", "no"),
) -> Path:
    """Write a Qwen3 model that scores by the probability of its first label, with a ``rerank`` template."""
    head_size, n_vocab = n_embd // n_head, SMALLEST_VOCABULARY
    writer = open_file(path, "qwen3", seed, n_ctx, n_embd, n_layer)
    writer.add_feed_forward_length(n_ff)
    writer.add_head_count(n_head)
    writer.add_head_count_kv(n_head_kv)
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_uint32("qwen3.pooling_type", _POOLING_TYPES["rank"])
    writer.add_classifier_output_labels(list(labels))
    byte_tokenizer(writer, n_vocab, add_bos=False)
    if template is not None:
        writer.add_chat_template([{"name": "rerank", "template": template}])
    weights = random_weights(writer, seed, "f32")
    weights.matrix("token_embd.weight", n_vocab, n_embd, scale=n_embd**0.5)
    _noise(weights, "output_norm.weight", n_embd, 1.0)
    for layer in range(n_layer):
        _qwen3_block(weights, f"blk.{layer}", n_embd, head_size * n_head_kv, n_ff, head_size)
    weights.matrix("cls.output.weight", len(labels), n_embd)
    return close_file(writer, path)


def _wordpiece_tokenizer(writer: Any, pieces: Sequence[str]) -> None:  # noqa: ANN401
    """Write the vocabulary as converters do: what begins a word is marked, instead of what continues one."""
    import gguf

    n_special = len(SPECIAL_PIECES)
    plain = [piece[2:] if piece.startswith("##") else "\u2581" + piece for piece in pieces[n_special:]]
    writer.add_tokenizer_model("bert")
    writer.add_token_list([*SPECIAL_PIECES, *plain])
    writer.add_token_types([gguf.TokenType.CONTROL] * n_special + [gguf.TokenType.NORMAL] * len(plain))
    writer.add_token_type_count(2)
    writer.add_pad_token_id(SPECIAL_PIECES.index("[PAD]"))
    writer.add_unk_token_id(SPECIAL_PIECES.index("[UNK]"))
    writer.add_bos_token_id(SPECIAL_PIECES.index("[CLS]"))
    writer.add_sep_token_id(SPECIAL_PIECES.index("[SEP]"))
    writer.add_mask_token_id(SPECIAL_PIECES.index("[MASK]"))


def _bert_embeddings(weights: RandomWeights, n_vocab: int, n_embd: int, n_ctx: int) -> None:
    weights.matrix("token_embd.weight", n_vocab, n_embd, scale=n_embd**0.5)
    weights.array("token_types.weight", _normal(weights, (2, n_embd), 0.2))
    weights.array("position_embd.weight", _normal(weights, (n_ctx, n_embd), 0.5))
    _norm(weights, "token_embd_norm", n_embd)


def _bert_block(weights: RandomWeights, block: str, n_embd: int, n_ff: int) -> None:
    for name in ("attn_q", "attn_k"):
        weights.matrix(f"{block}.{name}.weight", n_embd, n_embd, scale=2.0)
        _noise(weights, f"{block}.{name}.bias", n_embd)
    for name in ("attn_v", "attn_output"):
        weights.matrix(f"{block}.{name}.weight", n_embd, n_embd)
        _noise(weights, f"{block}.{name}.bias", n_embd)
    _norm(weights, f"{block}.attn_output_norm", n_embd)
    weights.matrix(f"{block}.ffn_up.weight", n_ff, n_embd)
    _noise(weights, f"{block}.ffn_up.bias", n_ff)
    weights.matrix(f"{block}.ffn_down.weight", n_embd, n_ff)
    _noise(weights, f"{block}.ffn_down.bias", n_embd)
    _norm(weights, f"{block}.layer_output_norm", n_embd)


def _qwen3_block(weights: RandomWeights, block: str, n_embd: int, n_embd_kv: int, n_ff: int, head_size: int) -> None:
    for name, size in (("attn_norm", n_embd), ("ffn_norm", n_embd), ("attn_q_norm", head_size)):
        _noise(weights, f"{block}.{name}.weight", size, 1.0)
    _noise(weights, f"{block}.attn_k_norm.weight", head_size, 1.0)
    weights.matrix(f"{block}.attn_q.weight", n_embd, n_embd)
    weights.matrix(f"{block}.attn_k.weight", n_embd_kv, n_embd)
    weights.matrix(f"{block}.attn_v.weight", n_embd_kv, n_embd)
    weights.matrix(f"{block}.attn_output.weight", n_embd, n_embd)
    weights.matrix(f"{block}.ffn_gate.weight", n_ff, n_embd)
    weights.matrix(f"{block}.ffn_up.weight", n_ff, n_embd)
    weights.matrix(f"{block}.ffn_down.weight", n_embd, n_ff)


def _norm(weights: RandomWeights, name: str, size: int) -> None:
    _noise(weights, f"{name}.weight", size, 1.0)
    _noise(weights, f"{name}.bias", size)


def _noise(weights: RandomWeights, name: str, size: int, around: float = 0.0) -> None:
    """Add float32 weights that differ, so that a forward pass which leaves them out is found out."""
    weights.array(name, _normal(weights, (size,), 0.2) + around)


def _normal(weights: RandomWeights, shape: tuple[int, ...], std: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    import numpy as np

    return weights.rng.standard_normal(shape, dtype=np.float32) * np.float32(std)
