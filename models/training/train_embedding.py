"""Trains the demo embedding model on the CPU, from its last checkpoint: `python -m models.training.train_embedding`."""

from __future__ import annotations

import argparse
import logging
import math
import time
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from .embedding_batches import PairBatch, long_batch, same_meaning_batch, topic_batch
from .encoder import Encoder, EncoderShape, padded_rows
from .recipe import EMBEDDING_STEPS, ENCODER_SEED
from .wordpiece import load_or_train

CHECKPOINTS = Path(__file__).parent / "checkpoints" / "embedding"
TOKENIZER = CHECKPOINTS / "wordpiece.json"

_log = logging.getLogger("train_embedding")
_PEAK_RATE, _LAST_RATE, _WARM_UP = 2e-3, 2e-5, 100
_SHARPNESS, _TOPIC_SHARPNESS, _TOPIC_WEIGHT = 20.0, 10.0, 0.25
_LONG_EVERY, _SAVE_EVERY = 6, 100
_ROW_TOKENS = 2048


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up, then a cosine down to the last rate."""
    if step < _WARM_UP:
        return peak * (step + 1) / _WARM_UP
    progress = (step - _WARM_UP) / max(1, steps - _WARM_UP)
    return _LAST_RATE + (peak - _LAST_RATE) * (1 + math.cos(math.pi * progress)) / 2


def make_optimizer(model: Encoder, rate: float) -> torch.optim.AdamW:
    """AdamW that decays matrices only."""
    matrices = [parameter for parameter in model.parameters() if parameter.dim() == 2]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() != 2]
    groups = [{"params": matrices, "weight_decay": 0.02}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=True)


def save(path: Path, model: Encoder, optimizer: torch.optim.AdamW, step: int, seconds: float) -> None:
    """Replaces the checkpoint at once, so that an interrupted save can't lose the last one."""
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
        "seconds": seconds,
        "shape": asdict(model.shape),
    }
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


def vectors_of(model: Encoder, texts: list[list[int]], offsets: list[int]) -> Tensor:
    """The texts' vectors in their order, (texts, width)."""
    batches = padded_rows(texts, offsets, model.shape.context, _ROW_TOKENS)
    vectors = torch.cat([model.vectors(rows.tokens, rows.mask, rows.positions) for rows in batches])
    back = torch.empty(len(texts), dtype=torch.long)
    back[torch.cat([rows.order for rows in batches])] = torch.arange(len(texts))
    return vectors[back]


def contrast(model: Encoder, batch: PairBatch, sharpness: float) -> Tensor:
    """InfoNCE in both directions: each text must find its partner among the batch's others (van den Oord 2018)."""
    count = len(batch.first)
    vectors = vectors_of(model, batch.first + batch.second, batch.offsets)
    similar = vectors[:count] @ vectors[count:].T * sharpness
    hidden = torch.from_numpy(batch.agrees) & ~torch.eye(count, dtype=torch.bool)
    similar = similar.masked_fill(hidden, float("-inf"))
    targets = torch.arange(count)
    return (F.cross_entropy(similar, targets) + F.cross_entropy(similar.T, targets)) / 2


def train(steps: int, seed: int, threads: int) -> Path:
    """Trains until the step is reached and returns the checkpoint's path."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    tokenizer = load_or_train(TOKENIZER, seed)
    model = Encoder(EncoderShape(tokenizer.get_vocab_size()))
    optimizer = make_optimizer(model, _PEAK_RATE)
    path, start, before = CHECKPOINTS / "last.pt", 0, 0.0
    if path.exists():
        state = torch.load(path)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start, before = state["step"], state["seconds"]
    _log.info("%d parameters, from step %d", sum(p.numel() for p in model.parameters()), start)
    began, shown = time.monotonic(), [0.0, 0.0, 0.0]
    for step in range(start, steps):
        long = step % _LONG_EVERY == _LONG_EVERY - 1
        make = long_batch if long else same_meaning_batch
        context = model.shape.context
        with torch.autocast("cpu", torch.bfloat16):
            loss = contrast(model, make(tokenizer, seed, step, context), _SHARPNESS)
            topics = contrast(model, topic_batch(tokenizer, seed, step, context), _TOPIC_SHARPNESS)
        (loss + _TOPIC_WEIGHT * topics).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, _PEAK_RATE)
        optimizer.step()
        optimizer.zero_grad()
        for index, value in ((int(long), loss.item()), (2, topics.item())):
            shown[index] = 0.95 * shown[index] + 0.05 * value if shown[index] else value
        done, seconds = step + 1, before + time.monotonic() - began
        if done % 25 == 0 or done == steps:
            _log.info("step %d/%d loss %.4f long %.4f topics %.4f, %.0f s", done, steps, *shown, seconds)
        if done % _SAVE_EVERY == 0 or done == steps:
            save(path, model, optimizer, done, seconds)
    return path


def main() -> None:
    """Trains with the recipe's seed and steps unless told otherwise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=EMBEDDING_STEPS)
    parser.add_argument("--seed", type=int, default=ENCODER_SEED)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train(arguments.steps, arguments.seed, arguments.threads)


if __name__ == "__main__":
    main()
