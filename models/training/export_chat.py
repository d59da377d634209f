"""Writes the demo chat model's GGUF from its checkpoint: `python -m models.training.export_chat [--accuracy FILE]`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import gguf
import numpy as np
import torch
from torch import Tensor

from .chat_markup import (
    CHAT_TEMPLATE,
    CONTROL_TOKENS,
    END_OF_TEXT,
    FIM_MIDDLE,
    FIM_PREFIX,
    FIM_SUFFIX,
    MESSAGE_END,
    TAG_TOKENS,
)
from .model import Shape
from .recipe import CHAT_SEED, chat_recipe_sha256
from .tokenizer import PRE_TOKENIZER, load_or_train, vocabulary_and_merges
from .train_chat import CHECKPOINTS

BUNDLED = Path(__file__).parent.parent / "chat" / "localllm-demo.gguf"

_DESCRIPTION = (
    "A toy of 1.9 million parameters, made to show and test localllm. It greets, names capitals, adds numbers up to "
    "20, repeats words, recalls what it was told, counts, writes lists and a story, calls tools, thinks for a sentence when "
    "asked to, and else says that it does not know. Real work wants a real model."
)
_NAMES = {
    "attention_norm.weight": "attn_norm",
    "attention.q.weight": "attn_q",
    "attention.k.weight": "attn_k",
    "attention.v.weight": "attn_v",
    "attention.out.weight": "attn_output",
    "feed_forward_norm.weight": "ffn_norm",
    "gate.weight": "ffn_gate",
    "up.weight": "ffn_up",
    "down.weight": "ffn_down",
}


def _tensor_name(name: str) -> str:
    """llama.cpp's name of a tensor of ours."""
    if name == "embedding.weight":
        return "token_embd.weight"
    if name == "norm.weight":
        return "output_norm.weight"
    _, layer, rest = name.split(".", 2)
    return f"blk.{layer}.{_NAMES[rest]}.weight"


def _add_shape(writer: gguf.GGUFWriter, shape: Shape) -> None:
    writer.add_vocab_size(shape.vocabulary)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.norm_epsilon)


def _add_vocabulary(writer: gguf.GGUFWriter, tokens: list[str], merges: list[str]) -> None:
    kinds = [
        gguf.TokenType.CONTROL
        if token in CONTROL_TOKENS
        else gguf.TokenType.USER_DEFINED
        if token in TAG_TOKENS
        else gguf.TokenType.NORMAL
        for token in tokens
    ]
    ids = {token: index for index, token in enumerate(tokens)}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE_TOKENIZER)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    # llama.cpp assumes token 11 where the header names none.
    writer.add_bos_token_id(ids[END_OF_TEXT])
    writer.add_pad_token_id(ids[END_OF_TEXT])
    writer.add_eos_token_id(ids[MESSAGE_END])
    writer.add_eot_token_id(ids[MESSAGE_END])
    for key, token in (("fim_pre", FIM_PREFIX), ("fim_suf", FIM_SUFFIX), ("fim_mid", FIM_MIDDLE)):
        writer.add_uint32(f"tokenizer.ggml.{key}_token_id", ids[token])
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def _add_recipe(writer: gguf.GGUFWriter, steps: int, seconds: float, accuracy: dict[str, float]) -> None:
    writer.add_type("model")
    writer.add_name("localllm demo")
    writer.add_description(_DESCRIPTION)
    writer.add_license("MIT")
    writer.add_size_label("1.9M")
    writer.add_languages(["en"])
    # llama.cpp reads these as the file's default sampling (LLM_KV_GENERAL_SAMPLING_* in llama-arch.cpp).
    writer.add_float32("general.sampling.temp", 0.2)
    writer.add_int32("general.sampling.top_k", 40)
    writer.add_float32("general.sampling.top_p", 0.95)
    writer.add_string("localllm.recipe.sha256", chat_recipe_sha256())
    writer.add_uint32("localllm.recipe.steps", steps)
    writer.add_uint32("localllm.recipe.seed", CHAT_SEED)
    writer.add_uint32("localllm.recipe.seconds", int(seconds))
    for kind, share in accuracy.items():
        writer.add_float32(f"localllm.accuracy.{kind}", share)


def _add_weights(writer: gguf.GGUFWriter, weights: dict[str, Tensor], kind: gguf.GGMLQuantizationType) -> None:
    for name, weight in weights.items():
        array = weight.float().numpy()
        if array.ndim == 1:
            writer.add_tensor(_tensor_name(name), array)
        else:
            data = (
                array.astype(np.float16) if kind == gguf.GGMLQuantizationType.F16 else gguf.quants.quantize(array, kind)
            )
            writer.add_tensor(_tensor_name(name), data, raw_dtype=kind)


def export(checkpoint: Path, target: Path, accuracy: dict[str, float], quantised: bool) -> None:
    """Writes the file beside the target and then replaces the target at once; servers may have the old one mapped."""
    state = torch.load(checkpoint)
    shape = Shape(**state["shape"])
    tokens, merges = vocabulary_and_merges(load_or_train(CHECKPOINTS / "tokenizer.json", CHAT_SEED))
    kind = gguf.GGMLQuantizationType.Q8_0 if quantised else gguf.GGMLQuantizationType.F16
    part = target.with_suffix(".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(part, "llama")
    _add_recipe(writer, state["step"], state["seconds"], accuracy)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0 if quantised else gguf.LlamaFileType.MOSTLY_F16)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_shape(writer, shape)
    _add_vocabulary(writer, tokens, merges)
    _add_weights(writer, state["model"], kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    part.replace(target)


def main() -> None:
    """Exports the last checkpoint to the bundled file unless told otherwise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINTS / "last.pt")
    parser.add_argument("--target", type=Path, default=BUNDLED)
    parser.add_argument("--accuracy", type=Path, help="JSON as evaluate_chat writes it, for the header")
    parser.add_argument("--q8", action="store_true", help="Q8_0 instead of F16")
    arguments = parser.parse_args()
    accuracy = json.loads(arguments.accuracy.read_text())["accuracy"] if arguments.accuracy else {}
    export(arguments.checkpoint, arguments.target, accuracy, arguments.q8)


if __name__ == "__main__":
    main()
