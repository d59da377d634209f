"""An independent forward pass: what a GGUF file's own tensors give, by textbook formulas in float64.

It knows BERT (encoder, WordPiece) and Llama and Qwen3 (causal decoders), the pooling kinds, and classification heads.
Nothing here comes from llama.cpp but the names of tensors and header keys.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_erf = np.vectorize(math.erf, otypes=[np.float64])


class GgufFile:
    """The header's scalars, strings and lists of strings, and all tensors as float64."""

    def __init__(self, path: Path) -> None:
        reader = gguf.GGUFReader(path)
        self.header: dict[str, Any] = {key: field.contents() for key, field in reader.fields.items()}
        self.tensors: dict[str, Array] = {
            tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float64)
            for tensor in reader.tensors
        }

    def own(self, key: str, default: Any = None) -> Any:
        return self.header.get(f"{self.header['general.architecture']}.{key}", default)


class NumpyEncoder:
    """``pooled`` gives what a server should, before normalising; ``score`` what a classification head does."""

    def __init__(self, path: Path) -> None:
        self.file = GgufFile(path)
        self.architecture: str = self.file.header["general.architecture"]
        self.n_layer = int(self.file.own("block_count"))
        self.n_head = int(self.file.own("attention.head_count"))
        self.causal = bool(self.file.own("attention.causal", self.architecture != "bert"))
        self.n_head_kv = int(self.file.own("attention.head_count_kv", self.n_head))

    def pooled(self, tokens: Sequence[int], kind: str) -> Array:
        hidden = self.hidden(tokens)
        return {"mean": hidden.mean(axis=0), "cls": hidden[0], "last": hidden[-1]}[kind]

    def vector(self, tokens: Sequence[int], kind: str, dimensions: int | None = None) -> Array:
        """The pooled vector, cut, of length 1."""
        vector = self.pooled(tokens, kind)[:dimensions]
        return vector / np.linalg.norm(vector)

    def outputs(self, tokens: Sequence[int]) -> Array:
        """What the classification head gives, without any softmax: read at the first token, in decoders at the last."""
        vector = self.pooled(tokens, "cls" if self.architecture == "bert" else "last")
        if "cls.weight" in self.file.tensors:
            vector = np.tanh(self._linear(vector, "cls"))
        return self._linear(vector, "cls.output")

    def hidden(self, tokens: Sequence[int]) -> Array:
        """The last layer's vectors, one row for each token."""
        return self._bert(tokens) if self.architecture == "bert" else self._decoder(tokens)

    def _bert(self, tokens: Sequence[int]) -> Array:
        tensors = self.file.tensors
        eps = float(self.file.own("attention.layer_norm_epsilon"))
        x = tensors["token_embd.weight"][list(tokens)] + tensors["position_embd.weight"][: len(tokens)]
        if "token_types.weight" in tensors:
            x = x + tensors["token_types.weight"][0]
        x = self._layer_norm(x, "token_embd_norm", eps)
        for layer in range(self.n_layer):
            block = f"blk.{layer}"
            q, k, v = (self._heads(self._linear(x, f"{block}.attn_{name}")) for name in "qkv")
            x = self._layer_norm(
                x + self._linear(_attend(q, k, v, causal=self.causal), f"{block}.attn_output"),
                f"{block}.attn_output_norm",
                eps,
            )
            up = self._linear(x, f"{block}.ffn_up")
            gelu = up * (1 + _erf(up / math.sqrt(2))) / 2
            x = self._layer_norm(x + self._linear(gelu, f"{block}.ffn_down"), f"{block}.layer_output_norm", eps)
        return x

    def _decoder(self, tokens: Sequence[int]) -> Array:
        eps = float(self.file.own("attention.layer_norm_rms_epsilon"))
        x = self.file.tensors["token_embd.weight"][list(tokens)]
        for layer in range(self.n_layer):
            block = f"blk.{layer}"
            y = self._rms_norm(x, f"{block}.attn_norm", eps)
            q, k, v = (self._heads(self._linear(y, f"{block}.attn_{name}")) for name in "qkv")
            if self.architecture == "qwen3":
                q, k = self._rms_norm(q, f"{block}.attn_q_norm", eps), self._rms_norm(k, f"{block}.attn_k_norm", eps)
            shared = self.n_head // self.n_head_kv
            q, k = self._rotate(q), self._rotate(k)
            attended = _attend(q, k.repeat(shared, axis=0), v.repeat(shared, axis=0), causal=self.causal)
            x = x + self._linear(attended, f"{block}.attn_output")
            y = self._rms_norm(x, f"{block}.ffn_norm", eps)
            gate, up = self._linear(y, f"{block}.ffn_gate"), self._linear(y, f"{block}.ffn_up")
            x = x + self._linear(gate / (1 + np.exp(-gate)) * up, f"{block}.ffn_down")
        return self._rms_norm(x, "output_norm", eps)

    def _rotate(self, heads: Array) -> Array:
        """Turn each pair of numbers by an angle that grows with the position: neighbours in Llama, else both halves."""
        size = heads.shape[-1]
        base = float(self.file.own("rope.freq_base", 10_000.0))
        angles = np.outer(np.arange(heads.shape[1]), base ** (-np.arange(0, size, 2) / size))
        cos, sin = np.cos(angles), np.sin(angles)
        first, second = (
            (heads[..., 0::2], heads[..., 1::2])
            if self.architecture == "llama"
            else (heads[..., : size // 2], heads[..., size // 2 :])
        )
        turned = first * cos - second * sin, first * sin + second * cos
        if self.architecture == "llama":
            return np.stack(turned, axis=-1).reshape(heads.shape)
        return np.concatenate(turned, axis=-1)

    def _heads(self, x: Array) -> Array:
        """Cut rows of all heads into (head, token, number); how many heads there are follows from the query's size."""
        size = int(self.file.own("attention.key_length", int(self.file.own("embedding_length")) // self.n_head))
        return x.reshape(len(x), -1, size).transpose(1, 0, 2)

    def _linear(self, x: Array, name: str) -> Array:
        y = x @ self.file.tensors[f"{name}.weight"].T
        bias = self.file.tensors.get(f"{name}.bias")
        return y if bias is None else y + bias

    def _layer_norm(self, x: Array, name: str, eps: float) -> Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + eps)
        return scaled * self.file.tensors[f"{name}.weight"] + self.file.tensors[f"{name}.bias"]

    def _rms_norm(self, x: Array, name: str, eps: float) -> Array:
        return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + eps) * self.file.tensors[f"{name}.weight"]


class WordPiece:
    """BERT's uncased tokenizer: split at spaces, punctuation and ideographs, then the longest pieces first."""

    def __init__(self, path: Path) -> None:
        header = GgufFile(path).header
        self._ids = {piece: token for token, piece in enumerate(header["tokenizer.ggml.tokens"])}
        self.cls = int(header.get("tokenizer.ggml.bos_token_id", 101))  # the defaults are those of BERT's own file
        self.sep = int(header.get("tokenizer.ggml.seperator_token_id", 102))
        self._unknown = int(header.get("tokenizer.ggml.unknown_token_id", 100))

    def text(self, text: str) -> list[int]:
        return [self.cls, *self.plain(text), self.sep]

    def pair(self, query: str, document: str) -> list[int]:
        return [self.cls, *self.plain(query), self.sep, *self.plain(document), self.sep]

    def plain(self, text: str) -> list[int]:
        return [token for word in _words(text) for token in self._pieces(word)]

    def _pieces(self, word: str) -> list[int]:
        tokens: list[int] = []
        rest = "\u2581" + word
        while rest:
            size = next((size for size in range(len(rest), 0, -1) if rest[:size] in self._ids), 0)
            if size == 0:
                return [self._unknown]
            tokens.append(self._ids[rest[:size]])
            rest = rest[size:]
        return tokens


def cosine(first: Any, second: Any) -> float:
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def _attend(q: Array, k: Array, v: Array, *, causal: bool) -> Array:
    """Scaled dot-product attention of (head, token, number) arrays; returns (token, all heads' numbers)."""
    scores = q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1])
    if causal:
        scores = np.where(np.tri(q.shape[1], dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    mixed = weights / weights.sum(axis=-1, keepdims=True) @ v
    return mixed.transpose(1, 0, 2).reshape(q.shape[1], -1)


def _words(text: str) -> list[str]:
    letters = []
    for letter in unicodedata.normalize("NFD", text.lower()):
        category = unicodedata.category(letter)
        if category == "Mn" or (category.startswith("C") and not letter.isspace()):
            continue
        alone = category.startswith("P") or (letter.isascii() and category.startswith("S")) or _is_ideograph(letter)
        letters.append(f" {letter} " if alone else letter)
    return "".join(letters).split()


def _is_ideograph(letter: str) -> bool:
    return 0x4E00 <= ord(letter) <= 0x9FFF or 0x3400 <= ord(letter) <= 0x4DBF or 0x20000 <= ord(letter) <= 0x2FA1F
