"""One step of the engine: what the decoder is to evaluate, and for whom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from localllm.contract.decoder import Plan
from localllm.engine.saved import Save
from localllm.engine.sequence import Choice, Request


class Part(NamedTuple):
    """What one slice of a plan means: whose tokens it evaluates, and which siblings draw from its last row too."""

    choice: Choice
    n_tokens: int
    forks: tuple[Choice, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """A plan for the decoder, with what ``commit`` needs to book it. ``parts`` runs parallel to ``plan.slices``.

    ``saves`` come before the plan, whose operations change what they save.
    """

    plan: Plan
    parts: tuple[Part, ...]
    prefill_tokens: int  # tokens of prompts and of preempted answers, not those of running answers
    admitted: tuple[Request, ...]  # requests whose first choice begins with this step
    saves: tuple[Save, ...] = ()
