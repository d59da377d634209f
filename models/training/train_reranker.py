"""Trains the demo reranker from the demo embedding model's weights: `python -m models.training.train_reranker`."""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import train_embedding
from .encoder import Encoder, EncoderShape, Rows, padded_rows
from .recipe import ENCODER_SEED, RERANKER_STEPS
from .reranker_batches import WRONG, RankBatch, rank_batch
from .train_embedding import TOKENIZER, learning_rate, make_optimizer, save
from .wordpiece import SEPARATOR_ID, load_or_train

CHECKPOINTS = Path(__file__).parent / "checkpoints" / "reranker"

_log = logging.getLogger("train_reranker")
# The rate falls along one cosine, and along a second from where the words of a query are found in every document.
_PEAK_RATE, _FIRST_STEPS, _SECOND_PEAK_RATE = 1.5e-3, 1300, 1e-3
_LIST_WEIGHT, _HINT_WEIGHT = 0.5, 0.5
_LONG_EVERY, _SAVE_EVERY = 5, 100
_ROW_TOKENS = 2048


def _rate(step: int, steps: int) -> float:
    if step < _FIRST_STEPS:
        return learning_rate(step, _FIRST_STEPS, _PEAK_RATE)
    return learning_rate(step - _FIRST_STEPS, steps - _FIRST_STEPS, _SECOND_PEAK_RATE)


def hint_targets(rows: Rows) -> Tensor:
    """For each token whether it stands in both texts and whether it belongs to the second: (rows, length, 2)."""
    tokens, mask = rows.tokens, rows.mask
    ends = (tokens == SEPARATOR_ID).int()
    second = (ends.cumsum(1) - ends > 0) & mask
    same = (tokens[:, :, None] == tokens[:, None, :]) & mask[:, None, :] & mask[:, :, None]
    shared = (same & (second[:, :, None] != second[:, None, :])).any(2) & (ends == 0)
    return torch.stack((shared, second), dim=-1).float()


def scores_of(model: Encoder, rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """The rows' logits in their order, and the loss of the hints."""
    batches = padded_rows(rows, [0] * len(rows), model.shape.context, _ROW_TOKENS)
    scores, hint_loss = [], torch.zeros(())
    for batch in batches:
        logits, hints = model.scores_and_hints(batch.tokens, batch.mask, batch.positions)
        scores.append(logits)
        wanted = hint_targets(batch)[batch.mask]
        hint_loss = hint_loss + F.binary_cross_entropy_with_logits(hints[batch.mask], wanted) / len(batches)
    back = torch.empty(len(rows), dtype=torch.long)
    back[torch.cat([batch.order for batch in batches])] = torch.arange(len(rows))
    return torch.cat(scores)[back], hint_loss


def rank_loss(model: Encoder, batch: RankBatch) -> tuple[Tensor, tuple[float, float, float]]:
    """Each document judged alone, so that a sigmoid means something, against the others, and the hints.

    With the loss come what to show of it: the ranking's part, the hints' part, and the share of questions ranked right.
    """
    flat, hints = scores_of(model, batch.rows)
    scores = flat.view(batch.questions, 1 + WRONG)
    right = torch.zeros_like(scores)
    right[:, 0] = 1.0
    alone = F.binary_cross_entropy_with_logits(scores, right, pos_weight=torch.tensor(float(WRONG)))
    ranking = alone + _LIST_WEIGHT * F.cross_entropy(scores, torch.zeros(batch.questions, dtype=torch.long))
    share = float((scores.argmax(1) == 0).float().mean())
    return ranking + _HINT_WEIGHT * hints, (ranking.item(), hints.item(), share)


def _begin(model: Encoder) -> None:
    """The embedding model's weights, but for the head and for heads that begin by looking at like tokens.

    Half of the heads behind the first block get one orthogonal matrix as both query and key, so that a token sees where
    else it or its like stands. Without them it takes thousands of steps until words of the query are looked up in the
    document.
    """
    weights = torch.load(train_embedding.CHECKPOINTS / "last.pt")["model"]
    model.load_state_dict(weights, strict=False)
    width = model.shape.width
    with torch.no_grad():
        for block in model.blocks[1:]:
            shared = nn.init.orthogonal_(torch.empty(width // 2, width))
            for part in (block.q, block.k):
                part.weight[: width // 2] = shared
                part.bias[: width // 2] = 0.0


def train(steps: int, seed: int, threads: int) -> Path:
    """Trains until the step is reached and returns the checkpoint's path."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    tokenizer = load_or_train(TOKENIZER, seed)
    model = Encoder(EncoderShape(tokenizer.get_vocab_size()), head=True)
    optimizer = make_optimizer(model, _PEAK_RATE)
    path, start, before = CHECKPOINTS / "last.pt", 0, 0.0
    if path.exists():
        state = torch.load(path)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start, before = state["step"], state["seconds"]
    else:
        CHECKPOINTS.mkdir(parents=True, exist_ok=True)
        _begin(model)
    began, shown = time.monotonic(), {False: (0.0, 0.0, 0.0), True: (0.0, 0.0, 0.0)}
    for step in range(start, steps):
        long = step % _LONG_EVERY == _LONG_EVERY - 1
        batch = rank_batch(tokenizer, seed, step, model.shape.context, long)
        with torch.autocast("cpu", torch.bfloat16):
            loss, now = rank_loss(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = _rate(step, steps)
        optimizer.step()
        optimizer.zero_grad()
        before_now = shown[long] if shown[long][0] else now
        shown[long] = tuple(0.95 * old + 0.05 * new for old, new in zip(before_now, now, strict=True))
        done, seconds = step + 1, before + time.monotonic() - began
        if done % 25 == 0 or done == steps:
            losses = ", long ".join(
                "loss {:.4f} hints {:.4f} right {:.3f}".format(*shown[kind]) for kind in (False, True)
            )
            _log.info("step %d/%d %s, %.0f s", done, steps, losses, seconds)
        if done % _SAVE_EVERY == 0 or done == steps:
            save(path, model, optimizer, done, seconds)
    return path


def main() -> None:
    """Trains with the recipe's seed and steps unless told otherwise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=RERANKER_STEPS)
    parser.add_argument("--seed", type=int, default=ENCODER_SEED)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train(arguments.steps, arguments.seed, arguments.threads)


if __name__ == "__main__":
    main()
