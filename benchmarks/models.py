"""Random-weight models of a given size, kept between runs in ``benchmarks/work/``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from localllm.testing.tiny_encoder import wordpieces, write_tiny_bert
from localllm.testing.tiny_model import write_tiny_llama

WORK = Path(__file__).parent / "work"


@dataclass(frozen=True, slots=True)
class Size:
    """Shape of one benchmark model; Q8_0 weights."""

    n_vocab: int
    n_layer: int
    n_embd: int
    n_ff: int
    n_head: int
    n_head_kv: int


SIZES = {
    "tiny": Size(n_vocab=2048, n_layer=4, n_embd=192, n_ff=512, n_head=6, n_head_kv=2),
    "135m": Size(n_vocab=151_936, n_layer=30, n_embd=576, n_ff=1536, n_head=9, n_head_kv=3),
    "500m": Size(n_vocab=151_936, n_layer=24, n_embd=896, n_ff=4864, n_head=14, n_head_kv=2),
}


def make(size: str, n_vocab: int | None = None) -> tuple[Path, int]:
    """Return the file of a size, written on first use, and its vocabulary's size."""
    tokens = n_vocab or SIZES[size].n_vocab
    path = WORK / "models" / "chat" / f"bench-{size}-{tokens}.gguf"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, size, tokens)
    return path, tokens


def write(path: Path, size: str, n_vocab: int | None = None) -> Path:
    """Write the model of a size to ``path``; 200 MB and some seconds for "135m"."""
    shape = SIZES[size]
    return write_tiny_llama(
        path,
        n_vocab=n_vocab or shape.n_vocab,
        n_embd=shape.n_embd,
        n_layer=shape.n_layer,
        n_head=shape.n_head,
        n_head_kv=shape.n_head_kv,
        n_ff=shape.n_ff,
        n_ctx=8192,
        quantization="q8_0",
        tie_embeddings=True,
    )


def make_encoder(given: Path | None = None) -> tuple[Path, list[str]]:
    """Return an embedding model and words to write texts from: ``given``, or random weights of MiniLM-L6's shape."""
    words = [piece for piece in wordpieces() if piece.isascii() and piece.isalpha() and len(piece) > 1]
    path = WORK / "models" / "embedding" / "bench-encoder.gguf"
    path.parent.mkdir(parents=True, exist_ok=True)
    if given is not None:
        path = path.with_name(given.name)
        if not path.exists():
            path.symlink_to(given.resolve())
    elif not path.exists():
        write_tiny_bert(path, n_embd=384, n_layer=6, n_head=12, n_ff=1536, n_ctx=512, quantization="q8_0")
    return path, words
