"""Requests, their choices, and the sequences that hold what was evaluated of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from localllm.contract.decoder import SequenceKey


class Scope(NamedTuple):
    """Who may reuse a sequence: its "owner", the "request" of this id alone, or everybody, where it is "public".

    In any case only requests of the same ``group``, which are computed in the same way.
    """

    kind: Literal["owner", "request", "public"]
    name: str = ""
    group: str = ""

    @property
    def public(self) -> Scope:
        """What everybody of the group may reuse."""
        return Scope("public", group=self.group)


@dataclass(slots=True, eq=False)
class Resident:
    """One sequence id in use. It holds the first ``evaluated`` of ``tokens`` (between ``commit`` and ``schedule``).

    A busy one belongs to a running choice, whose token list this is; an idle one is a cached prefix. Where the
    conversation ``goes_on``, what it holds is saved before it goes.
    """

    seq: int
    scope: Scope
    tokens: list[int]
    prompt_length: int
    evaluated: int
    idle: bool = False
    goes_on: bool = False


@dataclass(slots=True, eq=False)
class Choice:
    """One answer to a request. Waiting while ``resident`` is None, then running, until it is ``done``.

    ``tokens`` is the prompt and the answer so far. It is the request's own list until the choice first runs.
    ``serial`` orders by arrival: the highest is the youngest.
    """

    key: SequenceKey
    request: Request
    serial: int
    tokens: list[int]
    resident: Resident | None = None
    caught_up: bool = False  # all tokens but the newly drawn ones are evaluated: it is decoding
    done: bool = False

    @property
    def sequence(self) -> Resident:
        """The resident of a running choice."""
        assert self.resident is not None, f"{self.key} is not running"
        return self.resident

    @property
    def scores(self) -> bool:
        """It is the one whose evaluation of the prompt gives the scores that are still wanted."""
        return self.request.is_scoring and self is self.request.choices[0]

    @property
    def is_fresh(self) -> bool:
        """Nothing was drawn yet: the first token can come from a row that a sibling evaluates."""
        return len(self.tokens) == len(self.request.prompt)


@dataclass(slots=True, eq=False)
class Request:
    """A prompt and its choices. ``cached_tokens`` is set when the first choice is admitted, and stays.

    Where the prompt is scored, its first choice does that before any draws. ``n_top`` is how many alternatives are
    wanted then (None: it is not), ``n_scored`` how many positions have given the probability of the token after them.
    ``goes_on`` says that the conversation does, ``was_restored`` that something was put back into the cache for it.
    """

    request_id: str
    prompt: list[int]
    scope: Scope
    choices: list[Choice] = field(default_factory=list)
    cached_tokens: int | None = None
    n_top: int | None = None
    n_scored: int = 0
    goes_on: bool = False
    was_restored: bool = False

    @property
    def is_scoring(self) -> bool:
        """Whether positions are still to be scored; the last one has no token after it."""
        return self.n_top is not None and self.n_scored < len(self.prompt) - 1

    @property
    def is_kept(self) -> bool:
        """Whether its sequences stay as cached prefixes after it."""
        return self.scope.kind != "request"

    @property
    def is_done(self) -> bool:
        """Whether all choices are complete."""
        return all(choice.done for choice in self.choices)
