"""GGUF files with random weights, written in a moment: the real engine's test subjects, and its benchmarks'.

The weights mean nothing, but everything else is real: a byte-level vocabulary with merges and control tokens, a ChatML
template, end tokens. Needs the ``gguf`` and ``numpy`` packages, which are imported only when a file is written.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np

Quantization = Literal["f32", "f16", "q8_0"]

CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
"""The last ids of every vocabulary written here; ``<|im_end|>`` ends an answer."""

MERGES = (
    *("t h", "th e", "i n", "e r", "o n", "a n", "r e", "a t", "e n", "o u", "i s", "in g", "an d", "h e", "l l"),
    *("Ġ t", "Ġ a", "Ġ s", "Ġ w", "Ġ the", "Ġ and", "Ġ o", "Ġ c", "Ġ b", "Ġo f", "Ġt o", "Ġ in", "e s", "e d", "o r"),
)
"""Pairs that the tokenizer joins, best first; each result is a token of its own."""

CHATML_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SMALLEST_VOCABULARY = 256 + len(MERGES) + len(CONTROL_TOKENS)

_Q8_0_BLOCK = 32  # weights that share one f16 scale
_INT8_STD = 73.3  # standard deviation of integers drawn evenly from -127 .. 127


@dataclass(frozen=True, slots=True)
class RandomWeights:
    """Random tensors of one file, in the wanted precision."""

    writer: Any
    rng: np.random.Generator
    quantization: Quantization

    def matrix(self, name: str, rows: int, columns: int, *, scale: float = 1.0) -> None:
        """Add ``rows`` x ``columns`` weights whose products keep the size of what they are multiplied with."""
        std = scale / columns**0.5
        if self.quantization == "q8_0" and columns % _Q8_0_BLOCK == 0:
            self._q8_0(name, rows, columns, std)
            return
        import numpy as np

        values = self.rng.standard_normal((rows, columns), dtype=np.float32) * np.float32(std)
        self.writer.add_tensor(name, values.astype(np.float16) if self.quantization == "f16" else values)

    def _q8_0(self, name: str, rows: int, columns: int, std: float) -> None:
        """Draw the quantised form itself: as good as quantising random floats, and many times faster."""
        import gguf
        import numpy as np

        blocks = columns // _Q8_0_BLOCK
        data = np.empty((rows, blocks, 2 + _Q8_0_BLOCK), dtype=np.uint8)
        data[..., :2] = np.frombuffer(np.float16(std / _INT8_STD).tobytes(), dtype=np.uint8)
        data[..., 2:] = self.rng.integers(-127, 128, size=(rows, blocks, _Q8_0_BLOCK), dtype=np.int8).view(np.uint8)
        raw = data.reshape(rows, blocks * (2 + _Q8_0_BLOCK))
        self.writer.add_tensor(name, raw, raw_dtype=gguf.GGMLQuantizationType.Q8_0)

    def vector(self, name: str, size: int, value: float = 1.0) -> None:
        """Add ``size`` equal float32 weights, as norms start out."""
        import numpy as np

        self.writer.add_tensor(name, np.full(size, value, dtype=np.float32))

    def array(self, name: str, values: Any) -> None:  # noqa: ANN401  # a float32 array; numpy is not imported here
        """Add float32 weights as they are."""
        self.writer.add_tensor(name, values)


def write_tiny_llama(
    path: Path,
    *,
    seed: int = 0,
    n_vocab: int = 320,
    n_embd: int = 64,
    n_layer: int = 2,
    n_head: int = 4,
    n_head_kv: int = 2,
    n_ff: int = 128,
    n_ctx: int = 512,
    quantization: Quantization = "f32",
    tie_embeddings: bool = False,
    chat_template: str | None = CHATML_TEMPLATE,
    add_bos: bool = False,
    pooling_type: int | None = None,
    metadata: dict[str, float | int | str] | None = None,
) -> Path:
    """Write a Llama model with random weights to ``path`` and return it.

    ``pooling_type`` makes it an embedding model, by llama.cpp's numbers (3: the last token's vector).
    ``metadata`` adds header keys, for instance ``{"general.sampling.temp": 0.5}``; its Python types choose float32,
    int32, bool or string. A model like the 135 M ones takes 30 layers, ``n_embd`` 576, ``n_ff`` 1536, 9 and 3 heads.
    """
    writer = _open(path, "llama", seed, n_vocab, n_embd, n_layer, n_ctx, chat_template, add_bos=add_bos)
    _describe_attention(writer, n_embd, n_head, n_head_kv, n_ff)
    if pooling_type is not None:
        writer.add_uint32("llama.pooling_type", pooling_type)
    for key, value in (metadata or {}).items():
        _add_key(writer, key, value)
    weights = random_weights(writer, seed, quantization)
    _embeddings(weights, n_vocab, n_embd, tied=tie_embeddings)
    for layer in range(n_layer):
        _attention_block(weights, f"blk.{layer}", n_embd, n_head, n_head_kv, n_ff)
    return close_file(writer, path)


def write_tiny_sliding(
    path: Path, *, seed: int = 0, n_vocab: int = 320, n_embd: int = 64, n_ctx: int = 1024, window: int = 64
) -> Path:
    """Write a Gemma 3 model whose first five layers of six see only the last ``window`` tokens."""
    n_layer, n_head, n_head_kv, n_ff = 6, 4, 2, 128
    writer = _open(path, "gemma3", seed, n_vocab, n_embd, n_layer, n_ctx, CHATML_TEMPLATE)
    _describe_attention(writer, n_embd, n_head, n_head_kv, n_ff)
    writer.add_sliding_window(window)
    weights = random_weights(writer, seed, "f32")
    _embeddings(weights, n_vocab, n_embd, tied=False)
    for layer in range(n_layer):
        block = f"blk.{layer}"
        _attention_block(weights, block, n_embd, n_head, n_head_kv, n_ff)
        for name, size in (("attn_q_norm", n_embd // n_head), ("attn_k_norm", n_embd // n_head)):
            weights.vector(f"{block}.{name}.weight", size)
        for name in ("post_attention_norm", "post_ffw_norm"):
            weights.vector(f"{block}.{name}.weight", n_embd)
    return close_file(writer, path)


def write_tiny_mamba(
    path: Path, *, seed: int = 0, n_vocab: int = 320, n_embd: int = 64, n_layer: int = 2, n_ctx: int = 512
) -> Path:
    """Write a Mamba model: recurrent, so that its memory can't be cut back to an earlier position."""
    import numpy as np

    d_conv, d_inner, d_state, dt_rank = 4, 2 * n_embd, 16, 4
    writer = _open(path, "mamba", seed, n_vocab, n_embd, n_layer, n_ctx, CHATML_TEMPLATE)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_ssm_conv_kernel(d_conv)
    writer.add_ssm_inner_size(d_inner)
    writer.add_ssm_state_size(d_state)
    writer.add_ssm_time_step_rank(dt_rank)
    weights = random_weights(writer, seed, "f32")
    _embeddings(weights, n_vocab, n_embd, tied=False)
    decay = -np.tile(np.arange(1, d_state + 1, dtype=np.float32), (d_inner, 1))  # as Mamba's own initialisation
    for layer in range(n_layer):
        block = f"blk.{layer}"
        weights.vector(f"{block}.attn_norm.weight", n_embd)
        weights.matrix(f"{block}.ssm_in.weight", 2 * d_inner, n_embd)
        weights.matrix(f"{block}.ssm_conv1d.weight", d_inner, d_conv)
        weights.vector(f"{block}.ssm_conv1d.bias", d_inner, 0.0)
        weights.matrix(f"{block}.ssm_x.weight", dt_rank + 2 * d_state, d_inner)
        weights.matrix(f"{block}.ssm_dt.weight", d_inner, dt_rank)
        weights.vector(f"{block}.ssm_dt.bias", d_inner, 0.0)
        weights.array(f"{block}.ssm_a", decay)
        weights.vector(f"{block}.ssm_d", d_inner)
        weights.matrix(f"{block}.ssm_out.weight", n_embd, d_inner)
    return close_file(writer, path)


def truncate_gguf(source: Path, target: Path, *, keep: float) -> Path:
    """Write the first ``keep`` (0 .. 1) of ``source`` to ``target``, as a download that broke off leaves it."""
    data = source.read_bytes()
    target.write_bytes(data[: int(len(data) * keep)])
    return target


def corrupt_gguf(
    source: Path, target: Path, *, fault: Literal["magic", "version", "tensor_count", "key_count"]
) -> Path:
    """Copy ``source`` to ``target`` with one field of the fixed header made absurd."""
    data = bytearray(source.read_bytes())
    offset, value = {
        "magic": (0, b"GGML"),
        "version": (4, struct.pack("<I", 0x7FFFFFFF)),
        "tensor_count": (8, struct.pack("<Q", 1 << 60)),
        "key_count": (16, struct.pack("<Q", 1 << 60)),
    }[fault]
    data[offset : offset + len(value)] = value
    target.write_bytes(data)
    return target


def byte_letters() -> list[str]:
    """Return the printable letter that stands for each byte in byte-level vocabularies (GPT-2's mapping)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    letters = {byte: chr(byte) for byte in printable}
    for byte in range(256):
        if byte not in letters:
            letters[byte] = chr(0x100 + len(letters) - len(printable))
    return [letters[byte] for byte in range(256)]


def vocabulary(n_vocab: int) -> list[str]:
    """Return the tokens of a file, by id: 256 bytes, the merges' results, fillers, then the control tokens.

    Raises ``ValueError`` for fewer than these need.
    """
    if n_vocab < SMALLEST_VOCABULARY:
        message = f"n_vocab is {n_vocab}, but bytes, merges and control tokens need {SMALLEST_VOCABULARY}"
        raise ValueError(message)
    tokens = byte_letters() + [merge.replace(" ", "") for merge in MERGES]
    fillers = n_vocab - len(tokens) - len(CONTROL_TOKENS)
    return [*tokens, *(f"Ġw{number}" for number in range(fillers)), *CONTROL_TOKENS]


def open_file(path: Path, architecture: str, seed: int, n_ctx: int, n_embd: int, n_layer: int) -> Any:  # noqa: ANN401
    """Return the ``gguf.GGUFWriter`` of a new file with what all headers say; :func:`close_file` ends it."""
    import gguf

    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name(f"tiny {architecture} {seed}")
    writer.add_context_length(n_ctx)
    writer.add_embedding_length(n_embd)
    writer.add_block_count(n_layer)
    return writer


def byte_tokenizer(writer: Any, n_vocab: int, *, add_bos: bool) -> None:  # noqa: ANN401
    """Describe the tokenizer of :func:`vocabulary` in the header behind ``writer``, a ``gguf.GGUFWriter``."""
    import gguf

    first_control = n_vocab - len(CONTROL_TOKENS)
    types = [gguf.TokenType.NORMAL] * first_control + [gguf.TokenType.CONTROL] * len(CONTROL_TOKENS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(vocabulary(n_vocab))
    writer.add_token_types(types)
    writer.add_token_merges(list(MERGES))
    writer.add_bos_token_id(first_control)
    writer.add_eos_token_id(n_vocab - 1)
    writer.add_add_bos_token(add_bos)


def _open(
    path: Path,
    architecture: str,
    seed: int,
    n_vocab: int,
    n_embd: int,
    n_layer: int,
    n_ctx: int,
    chat_template: str | None,
    *,
    add_bos: bool = False,
) -> Any:  # noqa: ANN401
    writer = open_file(path, architecture, seed, n_ctx, n_embd, n_layer)
    byte_tokenizer(writer, n_vocab, add_bos=add_bos)
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    return writer


def _add_key(writer: Any, key: str, value: float | int | str) -> None:  # noqa: ANN401
    if isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_int32(key, value)
    else:
        writer.add_float32(key, value)


def _describe_attention(writer: Any, n_embd: int, n_head: int, n_head_kv: int, n_ff: int) -> None:  # noqa: ANN401
    writer.add_feed_forward_length(n_ff)
    writer.add_head_count(n_head)
    writer.add_head_count_kv(n_head_kv)
    writer.add_key_length(n_embd // n_head)
    writer.add_value_length(n_embd // n_head)
    writer.add_rope_dimension_count(n_embd // n_head)
    writer.add_layer_norm_rms_eps(1e-5)


def random_weights(writer: Any, seed: int, quantization: Quantization) -> RandomWeights:  # noqa: ANN401
    """Return what draws the tensors of the file behind ``writer``, a ``gguf.GGUFWriter``."""
    import numpy as np

    return RandomWeights(writer, np.random.default_rng(seed), quantization)


def _embeddings(weights: RandomWeights, n_vocab: int, n_embd: int, *, tied: bool) -> None:
    weights.matrix("token_embd.weight", n_vocab, n_embd, scale=n_embd**0.5)
    weights.vector("output_norm.weight", n_embd)
    if not tied:
        weights.matrix("output.weight", n_vocab, n_embd, scale=3.0)  # spreads the logits as a trained model's are


def _attention_block(weights: RandomWeights, block: str, n_embd: int, n_head: int, n_head_kv: int, n_ff: int) -> None:
    n_embd_kv = n_embd // n_head * n_head_kv
    weights.vector(f"{block}.attn_norm.weight", n_embd)
    weights.matrix(f"{block}.attn_q.weight", n_embd, n_embd, scale=2.0)
    weights.matrix(f"{block}.attn_k.weight", n_embd_kv, n_embd, scale=2.0)
    weights.matrix(f"{block}.attn_v.weight", n_embd_kv, n_embd)
    weights.matrix(f"{block}.attn_output.weight", n_embd, n_embd)
    weights.vector(f"{block}.ffn_norm.weight", n_embd)
    weights.matrix(f"{block}.ffn_gate.weight", n_ff, n_embd)
    weights.matrix(f"{block}.ffn_up.weight", n_ff, n_embd)
    weights.matrix(f"{block}.ffn_down.weight", n_embd, n_ff)


def close_file(writer: Any, path: Path) -> Path:  # noqa: ANN401
    """Write the file and return its path."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
