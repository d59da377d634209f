"""Trains the demo chat model on the CPU, from its last checkpoint on: `python -m models.training.train_chat`."""

from __future__ import annotations

import argparse
import logging
import math
import time
from dataclasses import asdict
from pathlib import Path

import torch

from .batches import make_batch
from .model import DemoModel, Shape
from .recipe import CHAT_SEED, CHAT_STEPS
from .tokenizer import load_or_train

CHECKPOINTS = Path(__file__).parent / "checkpoints" / "chat"

_log = logging.getLogger("train_chat")
_PEAK_RATE, _SECOND_PEAK_RATE, _THIRD_PEAK_RATE, _FOURTH_PEAK_RATE = 3e-3, 1.2e-3, 8e-4, 1.6e-3
_FIFTH_PEAK_RATE, _SIXTH_PEAK_RATE, _SEVENTH_PEAK_RATE = 1.2e-3, 1.5e-3, 1.5e-3
_EIGHTH_PEAK_RATE = 1.5e-3
_LAST_RATE, _WARM_UP = 3e-5, 200
_SHORT_ROWS, _SHORT_LENGTH = 8, 512
_LONG_ROWS, _LONG_LENGTH = 2, 2048
# Phase 0: copying is learned, on short rows. 1: sums are drilled, and every fifth step reaches far back.
# 2: lists are drilled, every fourth step reaches far back, and the rate starts once more. 3: the rate goes down fast.
# 4: the common mixture again, in which copying and recall weigh most, from a high rate once more.
# 5: the same for longer, with every third step reaching far back. 6: copying is drilled.
# 7: tools and thoughts are learned. 8: they weigh more, from a high rate once more.
# 9: so do they, and copying is drilled beside them. 10: the same, while the rate goes down fast.
_PHASES = (1400, 2400, 2800, 3120, 3500, 5300, 6500, 8700, 10900, 11600)
_LONG_EVERY = (0, 5, 4, 4, 8, 3, 4, 4, 5, 6, 6)
# Length in steps of a whole cosine that begins with the phase; these phases end before theirs does.
_DECAY_STEPS = {1: 1400, 2: 900, 9: 2000}
_SAVE_EVERY = 200


def phase_of(step: int) -> int:
    """The phase of the training that a step belongs to."""
    return sum(step >= start for start in _PHASES)


def _cosine(start: float, progress: float) -> float:
    return _LAST_RATE + (start - _LAST_RATE) * (1 + math.cos(math.pi * progress)) / 2


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, constant until copying is learned, then parts of two cosines and a last one to the end."""
    phase = phase_of(step)
    if phase == 0:
        return _PEAK_RATE * min(1.0, (step + 1) / _WARM_UP)
    if phase == 1:
        return _cosine(_PEAK_RATE, (step - _PHASES[0]) / _DECAY_STEPS[1])
    if phase == 2:
        return _cosine(_SECOND_PEAK_RATE, (step - _PHASES[1]) / _DECAY_STEPS[2])
    if phase == 4:
        return _cosine(_THIRD_PEAK_RATE, (step - _PHASES[3]) / (_PHASES[4] - _PHASES[3]))
    if phase == 5:
        return _cosine(_FOURTH_PEAK_RATE, (step - _PHASES[4]) / (_PHASES[5] - _PHASES[4]))
    if phase == 6:
        return _cosine(_FIFTH_PEAK_RATE, (step - _PHASES[5]) / (_PHASES[6] - _PHASES[5]))
    if phase == 7:
        return _cosine(_SIXTH_PEAK_RATE, (step - _PHASES[6]) / (_PHASES[7] - _PHASES[6]))
    if phase == 8:
        return _cosine(_SEVENTH_PEAK_RATE, (step - _PHASES[7]) / (_PHASES[8] - _PHASES[7]))
    if phase == 9:
        return _cosine(_EIGHTH_PEAK_RATE, (step - _PHASES[8]) / _DECAY_STEPS[9])
    if phase == 10:
        start = _cosine(_EIGHTH_PEAK_RATE, (_PHASES[9] - _PHASES[8]) / _DECAY_STEPS[9])
        return _cosine(start, (step - _PHASES[9]) / (steps - _PHASES[9]))
    start = _cosine(_SECOND_PEAK_RATE, (_PHASES[2] - _PHASES[1]) / _DECAY_STEPS[2])
    return _cosine(start, (step - _PHASES[2]) / (_PHASES[3] - _PHASES[2]))


def is_long(step: int) -> bool:
    """Whether this step trains on dialogues of up to the whole context."""
    every = _LONG_EVERY[phase_of(step)]
    return every > 0 and step % every == 0


def _optimizer(model: DemoModel) -> torch.optim.AdamW:
    matrices = [parameter for parameter in model.parameters() if parameter.dim() == 2]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() != 2]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=_PEAK_RATE, betas=(0.9, 0.97), fused=True)


def _save(path: Path, model: DemoModel, optimizer: torch.optim.AdamW, step: int, seconds: float) -> None:
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


def train(steps: int, seed: int, threads: int) -> Path:
    """Trains until the step is reached and returns the checkpoint's path."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    tokenizer = load_or_train(CHECKPOINTS / "tokenizer.json", seed)
    model = DemoModel(Shape(tokenizer.get_vocab_size()))
    optimizer = _optimizer(model)
    path, start, before = CHECKPOINTS / "last.pt", 0, 0.0
    if path.exists():
        state = torch.load(path)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start, before = state["step"], state["seconds"]
    _log.info(
        "%d parameters, %d tokens, from step %d",
        sum(p.numel() for p in model.parameters()),
        tokenizer.get_vocab_size(),
        start,
    )
    began, losses = time.monotonic(), {False: 0.0, True: 0.0}
    for step in range(start, steps):
        long = is_long(step)
        rows, length = (_LONG_ROWS, _LONG_LENGTH) if long else (_SHORT_ROWS, _SHORT_LENGTH)
        batch = make_batch(tokenizer, seed, step, rows, length, long, phase_of(step))
        arrays = (torch.from_numpy(array) for array in (batch.tokens, batch.documents, batch.targets))
        with torch.autocast("cpu", torch.bfloat16):
            loss = model.loss(*arrays)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        optimizer.step()
        optimizer.zero_grad()
        losses[long] = 0.95 * losses[long] + 0.05 * loss.item() if losses[long] else loss.item()
        done, seconds = step + 1, before + time.monotonic() - began
        if done % 50 == 0 or done == steps:
            _log.info("step %d/%d loss %.4f long %.4f, %.0f s", done, steps, losses[False], losses[True], seconds)
        if done % _SAVE_EVERY == 0 or done == steps:
            _save(path, model, optimizer, done, seconds)
    return path


def main() -> None:
    """Trains with the recipe's seed and steps unless told otherwise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=CHAT_STEPS)
    parser.add_argument("--seed", type=int, default=CHAT_SEED)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train(arguments.steps, arguments.seed, arguments.threads)


if __name__ == "__main__":
    main()
