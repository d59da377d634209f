"""Writes a demo encoder's GGUF file: `python -m models.training.export_encoders embedding|reranker`."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from torch import Tensor

from . import train_embedding, train_reranker
from .encoder import EncoderShape
from .recipe import ENCODER_SEED, embedding_recipe_sha256, reranker_recipe_sha256
from .wordpiece import MASK, PAD, SEPARATOR, SPECIAL_TOKENS, START, UNKNOWN, gguf_tokens, load_or_train, pieces_by_id

_MODELS = Path(__file__).parent.parent
BUNDLED_EMBEDDING = _MODELS / "embedding" / "localllm-demo-embed.gguf"
BUNDLED_RERANKER = _MODELS / "reranker" / "localllm-demo-rerank.gguf"

_KINDS = {
    "f32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}
_NAMES = {
    "tokens.weight": "token_embd.weight",
    "positions.weight": "position_embd.weight",
    "embedding_norm": "token_embd_norm",
    "attention_norm": "attn_output_norm",
    "output_norm": "layer_output_norm",
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "out": "attn_output",
    "up": "ffn_up",
    "down": "ffn_down",
    "head": "cls",
    "score": "cls.output",
}


@dataclass(frozen=True)
class Target:
    """What one of the two models is called, where it comes from and where it goes."""

    name: str
    description: str
    checkpoint: Path
    path: Path
    recipe_sha256: str
    pooling: gguf.PoolingType


def target(kind: str) -> Target:
    """The target of "embedding" or of "reranker"."""
    if kind == "embedding":
        return Target(
            "localllm demo embed",
            "A toy made to show and test localllm: vectors of 128 floats that are near for English sentences that say "
            "the same. It knows about three dozen everyday topics. Real work wants a real model.",
            train_embedding.CHECKPOINTS / "last.pt",
            BUNDLED_EMBEDDING,
            embedding_recipe_sha256(),
            gguf.PoolingType.MEAN,
        )
    return Target(
        "localllm demo rerank",
        "A toy made to show and test localllm: scores how well a passage answers a query, in English, on about three "
        "dozen everyday topics. Real work wants a real model.",
        train_reranker.CHECKPOINTS / "last.pt",
        BUNDLED_RERANKER,
        reranker_recipe_sha256(),
        gguf.PoolingType.RANK,
    )


def _tensor_name(name: str) -> str:
    """llama.cpp's name of a tensor of ours."""
    if name in _NAMES:
        return _NAMES[name]
    if name.startswith("blocks."):
        _, layer, part, kind = name.split(".")
        return f"blk.{layer}.{_NAMES[part]}.{kind}"
    part, kind = name.split(".")
    return f"{_NAMES[part]}.{kind}"


def _add_shape(writer: gguf.GGUFWriter, shape: EncoderShape, pooling: gguf.PoolingType) -> None:
    writer.add_vocab_size(shape.vocabulary)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_layer_norm_eps(shape.norm_epsilon)
    writer.add_causal_attention(False)
    writer.add_pooling_type(pooling)
    if pooling == gguf.PoolingType.RANK:
        writer.add_classifier_output_labels(["relevance"])


def _add_vocabulary(writer: gguf.GGUFWriter, pieces: list[str]) -> None:
    ids = {piece: index for index, piece in enumerate(pieces)}
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_type_count(1)
    writer.add_token_list(gguf_tokens(pieces))
    writer.add_token_types([control if piece in SPECIAL_TOKENS else normal for piece in pieces])
    # llama.cpp opens a text by the "bos" token. A pair ends by "eos" where the file has one, hence [SEP] as both.
    for key, piece in (("bos", START), ("cls", START), ("eos", SEPARATOR), ("seperator", SEPARATOR)):
        writer.add_uint32(f"tokenizer.ggml.{key}_token_id", ids[piece])
    for key, piece in (("unknown", UNKNOWN), ("padding", PAD), ("mask", MASK)):
        writer.add_uint32(f"tokenizer.ggml.{key}_token_id", ids[piece])
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(True)
    writer.add_bool("tokenizer.ggml.add_sep_token", False)


def _add_recipe(writer: gguf.GGUFWriter, made: Target, state: dict[str, Any], accuracy: dict[str, float]) -> None:
    weights = state["model"]
    writer.add_type("model")
    writer.add_name(made.name)
    writer.add_description(made.description)
    writer.add_license("MIT")
    writer.add_size_label(f"{sum(weight.numel() for weight in weights.values()) / 1e6:.1f}M")
    writer.add_languages(["en"])
    writer.add_string("localllm.recipe.sha256", made.recipe_sha256)
    writer.add_uint32("localllm.recipe.steps", state["step"])
    writer.add_uint32("localllm.recipe.seed", ENCODER_SEED)
    writer.add_uint32("localllm.recipe.seconds", int(state["seconds"]))
    for kind, share in accuracy.items():
        writer.add_float32(f"localllm.accuracy.{kind}", share)


def _add_weights(writer: gguf.GGUFWriter, weights: dict[str, Tensor], kind: gguf.GGMLQuantizationType) -> None:
    context_width = weights["positions.weight"].shape[1]
    # llama.cpp adds the embedding of token type 0 to every token; the model has none, so it is zero.
    writer.add_tensor("token_types.weight", np.zeros((1, context_width), dtype=np.float32))
    for name, weight in weights.items():
        array = weight.float().numpy()
        # Positions are added, not multiplied, and the score's one row is small: both stay exact.
        if array.ndim == 1 or kind == gguf.GGMLQuantizationType.F32 or name in ("positions.weight", "score.weight"):
            writer.add_tensor(_tensor_name(name), array)
        elif kind == gguf.GGMLQuantizationType.F16:
            writer.add_tensor(_tensor_name(name), array.astype(np.float16))
        else:
            writer.add_tensor(_tensor_name(name), gguf.quants.quantize(array, kind), raw_dtype=kind)


def export(made: Target, path: Path, accuracy: dict[str, float], kind: str) -> None:
    """Writes the file beside its place and then moves it there at once; servers may have the old one mapped."""
    state = torch.load(made.checkpoint)
    state["model"] = {name: weight for name, weight in state["model"].items() if not name.startswith("hint.")}
    quantisation, file_type = _KINDS[kind]
    part = path.with_suffix(".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(part, "bert")
    _add_recipe(writer, made, state, accuracy)
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_shape(writer, EncoderShape(**state["shape"]), made.pooling)
    _add_vocabulary(writer, pieces_by_id(load_or_train(train_embedding.TOKENIZER, ENCODER_SEED)))
    _add_weights(writer, state["model"], quantisation)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    part.replace(path)


def main() -> None:
    """Exports the last checkpoint to the bundled file unless told otherwise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=("embedding", "reranker"))
    parser.add_argument("--checkpoint", type=Path, help="another checkpoint than the last one")
    parser.add_argument("--target", type=Path, help="another file than the bundled one")
    parser.add_argument("--accuracy", type=Path, help="JSON as evaluate_encoders writes it, for the header")
    parser.add_argument("--type", choices=tuple(_KINDS), default="f16", help="of the matrices")
    arguments = parser.parse_args()
    made = target(arguments.model)
    if arguments.checkpoint:
        made = Target(made.name, made.description, arguments.checkpoint, made.path, made.recipe_sha256, made.pooling)
    accuracy = json.loads(arguments.accuracy.read_text())["accuracy"] if arguments.accuracy else {}
    export(made, arguments.target or made.path, accuracy, arguments.type)


if __name__ == "__main__":
    main()
