"""The demo embedding model's and reranker's network in PyTorch: llama.cpp's `bert` architecture, small."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class EncoderShape:
    """Sizes of the network; the head size is width / heads."""

    vocabulary: int
    width: int = 128
    layers: int = 3
    heads: int = 4
    feed_forward: int = 384
    context: int = 512
    norm_epsilon: float = 1e-12


class EncoderBlock(nn.Module):
    """Attention and a feed-forward network, each added to the stream, which is then normed (post-norm, as BERT)."""

    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.q = nn.Linear(shape.width, shape.width)
        self.k = nn.Linear(shape.width, shape.width)
        self.v = nn.Linear(shape.width, shape.width)
        self.out = nn.Linear(shape.width, shape.width)
        self.attention_norm = nn.LayerNorm(shape.width, eps=shape.norm_epsilon)
        self.up = nn.Linear(shape.width, shape.feed_forward)
        self.down = nn.Linear(shape.feed_forward, shape.width)
        self.output_norm = nn.LayerNorm(shape.width, eps=shape.norm_epsilon)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(rows, length, width) to the same; the mask is (rows, 1, 1, length), true where there is a token."""
        rows, length, width = x.shape
        q, k, v = (part(x).view(rows, length, self.heads, -1).transpose(1, 2) for part in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).reshape(rows, length, width)
        x = self.attention_norm(x + self.out(mixed))
        # llama.cpp's ggml_gelu is the tanh form.
        normed: Tensor = self.output_norm(x + self.down(F.gelu(self.up(x), approximate="tanh")))
        return normed


class Encoder(nn.Module):
    """The whole network. With `head`, the state of the first token makes one score, through tanh as llama.cpp does.

    `hint` serves the training only: from the states behind block `HINT_BLOCK`, it tells of each token whether it stands
    in both of the texts that are compared, and whether it belongs to the second.
    """

    HINT_BLOCK = 1

    def __init__(self, shape: EncoderShape, head: bool = False) -> None:
        super().__init__()
        self.shape = shape
        self.tokens = nn.Embedding(shape.vocabulary, shape.width)
        self.positions = nn.Embedding(shape.context, shape.width)
        self.embedding_norm = nn.LayerNorm(shape.width, eps=shape.norm_epsilon)
        self.blocks = nn.ModuleList(EncoderBlock(shape) for _ in range(shape.layers))
        if head:
            self.head = nn.Linear(shape.width, shape.width)
            self.score = nn.Linear(shape.width, 1)
            self.hint = nn.Linear(shape.width, 2)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.01 if name.startswith("positions") else 0.04)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def states(self, tokens: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """Final states, (rows, length, width), of tokens (rows, length); the mask is true where there is one."""
        x = self.embedding_norm(self.tokens(tokens) + self.positions(positions))
        for block in self.blocks:
            x = block(x, mask[:, None, None, :])
        states: Tensor = x
        return states

    def vectors(self, tokens: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """Mean of the states of all tokens, the special ones too, scaled to length 1: (rows, width)."""
        kept = self.states(tokens, mask, positions).float() * mask[:, :, None]
        vectors: Tensor = F.normalize(kept.sum(1) / mask.sum(1, keepdim=True), dim=-1)
        return vectors

    def scores_and_hints(self, tokens: Tensor, mask: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """One logit for each row, and two for each token: (rows) and (rows, length, 2)."""
        x = self.embedding_norm(self.tokens(tokens) + self.positions(positions))
        hints = x
        for index, block in enumerate(self.blocks):
            x = block(x, mask[:, None, None, :])
            if index == self.HINT_BLOCK:
                hints = self.hint(x).float()
        return self.score(torch.tanh(self.head(x[:, 0])))[:, 0].float(), hints

    def scores(self, tokens: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """One logit for each row, from the state of its first token."""
        return self.scores_and_hints(tokens, mask, positions)[0]


@dataclass(frozen=True)
class Rows:
    """Token rows of like lengths, padded, and where they stood before sorting."""

    tokens: Tensor
    mask: Tensor
    positions: Tensor
    order: Tensor


def padded_rows(texts: list[list[int]], offsets: list[int], context: int, tokens_a_batch: int) -> list[Rows]:
    """Texts sorted by length, in batches of about so many tokens; offsets move positions within the context."""
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    batches: list[list[int]] = [[]]
    for index in order:
        if batches[-1] and (len(batches[-1]) + 1) * len(texts[index]) > tokens_a_batch:
            batches.append([])
        batches[-1].append(index)
    rows = []
    for batch in batches:
        length = len(texts[batch[-1]])
        tokens = torch.tensor([texts[index] + [0] * (length - len(texts[index])) for index in batch])
        sizes = torch.tensor([len(texts[index]) for index in batch])
        start = torch.tensor([offsets[index] for index in batch])
        mask = torch.arange(length) < sizes[:, None]
        positions = (start[:, None] + torch.arange(length)).clamp(max=context - 1)
        rows.append(Rows(tokens, mask, positions, torch.tensor(batch)))
    return rows
