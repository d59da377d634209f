"""Decoders without a model: a strict one whose text depends on everything, one that echoes, and two with faults."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from localllm.contract.decoder import (
    Capabilities,
    Decoder,
    Plan,
    Sampled,
    SavingDecoder,
    Scored,
    ScoringDecoder,
    SequenceKey,
    Slice,
    State,
)
from localllm.contract.generation import SamplingParams
from localllm.testing.fake_memory import FakeMemory, mix, violated

END_TOKEN = 256
"""The token that ends an answer, above the 256 byte values."""

RECENT_PLANS = 10_000
"""So many plans a fake decoder remembers, for tests to look at."""

_LETTERS = b"abcdefghijklmnopqrstuvwxyz     "


@dataclass(slots=True)
class FakeSampler:
    """One choice's state: what it must be drawing from, and how much it drew."""

    sampling: SamplingParams
    choice: int
    prompt: tuple[int, ...]
    text_hash: int  # of the prompt and all that was drawn: what its sequence has to hold
    drawn: list[int] = field(default_factory=list)
    group: str = ""  # of the plan that it draws from


class FakeDecoder:
    """A decoder whose next token is a hash of everything that the sequence holds, so that any mistake changes the text.

    It is also one of the plan's group.

    At temperature 0 of nothing else; otherwise also of the choice's seed and of how many tokens it drew. It refuses
    (``ContractViolation``) whatever the contract forbids, above all a row that holds other tokens than the choice's own
    prompt and answer. ``alphabet`` are the bytes that it writes; one in ``end_one_in`` tokens ends the answer (0:
    none). ``tokens_per_draw`` above 1 behaves like speculation: several tokens from one row, the same text. One in
    ``fail_state_one_in`` states can't be saved, or can't be restored (0: none).
    """

    def __init__(
        self,
        capabilities: Capabilities,
        *,
        alphabet: bytes = _LETTERS,
        end_one_in: int = 0,
        tokens_per_draw: int = 1,
        fail_state_one_in: int = 0,
    ) -> None:
        self.memory = FakeMemory(capabilities)
        self.plans: deque[Plan] = deque(maxlen=RECENT_PLANS)
        self._capabilities = capabilities
        self._alphabet = alphabet
        self._end_one_in = end_one_in
        self._tokens_per_draw = tokens_per_draw
        self._fail_state_one_in = fail_state_one_in
        self.n_saves = self.n_restores = 0  # asked for, whether or not they came to something
        self._samplers: dict[str, list[FakeSampler]] = {}
        self._submitted: Plan | None = None
        self._collected: Plan | None = None

    @property
    def capabilities(self) -> Capabilities:
        """As given."""
        return self._capabilities

    @property
    def open_requests(self) -> frozenset[str]:
        """Requests that were opened and not closed."""
        return frozenset(self._samplers)

    def open(self, request_id: str, sampling: SamplingParams, prompt: Sequence[int]) -> None:
        """Create the state of each choice."""
        if request_id in self._samplers:
            violated(f"request {request_id!r} is open already")
        if not prompt:
            violated(f"request {request_id!r} has an empty prompt")
        state = 0
        for token in prompt:
            state = mix(state, token)
        self._samplers[request_id] = [
            FakeSampler(sampling, choice, tuple(prompt), state) for choice in range(sampling.n)
        ]

    def submit(self, plan: Plan) -> None:
        """Run the plan's operations and slices in the memory."""
        if self._submitted is not None:
            violated("a plan was submitted before the last one was collected")
        if not plan.slices and not plan.ops:
            violated("an empty plan")
        self.memory.run(plan)
        self.plans.append(plan)
        self._submitted, self._collected = plan, None

    def collect(self) -> Mapping[SequenceKey, Sequence[Sampled]]:
        """Draw for each key of the submitted plan."""
        plan, self._submitted = self._submitted, None
        if plan is None:
            violated("nothing was submitted")
        self._collected = plan
        drawn: dict[SequenceKey, Sequence[Sampled]] = {}
        for part in plan.slices:
            row_hash = self.memory.hash_after(part.seq, part.start + len(part.tokens))
            for key in part.sample:
                if key in drawn:
                    violated(f"{key} draws twice in one plan")
                sampler = self._sampler(key)
                sampler.group = plan.group
                drawn[key] = self._draw(sampler, row_hash)
        return drawn

    def scores(self) -> Mapping[int, Sequence[Scored]]:
        """Score the targets of the collected plan by hashes of all tokens up to them."""
        plan, self._collected = self._collected, None
        if plan is None or not any(part.targets for part in plan.slices):
            violated("scores of a plan that was not collected just now, or has no targets")
        return {part.seq: self._score(part) for part in plan.slices if part.targets}

    def save(self, seq: int) -> State | None:
        """Return the hashes of what a sequence holds."""
        self._check_may_move()
        self.n_saves += 1
        state = self.memory.save(seq)
        return None if self._fails() else state

    def restore(self, seq: int, state: State, n_tokens: int) -> bool:
        """Put the hashes of a sequence back."""
        self._check_may_move()
        self.n_restores += 1
        if self._fails():
            return False
        self.memory.restore(seq, state, n_tokens)
        return True

    def _check_may_move(self) -> None:
        if self._capabilities.saving is None:
            violated("this decoder can't save")
        if self._submitted is not None:
            violated("a state is moved while a plan is computed")

    def _fails(self) -> bool:
        return bool(self._fail_state_one_in) and (self.n_saves + self.n_restores) % self._fail_state_one_in == 0

    def force(self, key: SequenceKey, tokens: Sequence[int]) -> None:
        """Go on from tokens that the engine wrote."""
        sampler = self._sampler(key)
        for token in tokens:
            sampler.text_hash = mix(sampler.text_hash, token)
            sampler.drawn.append(token)

    def close(self, request_id: str) -> None:
        """Forget the state of each choice."""
        if self._samplers.pop(request_id, None) is None:
            violated(f"request {request_id!r} is not open")

    def next_token(self, sampler: FakeSampler) -> int:
        """Return the next token of a choice; subclasses answer otherwise here."""
        sampling = sampler.sampling
        state = mix(sampler.text_hash, 1)
        for byte in sampler.group.encode():
            state = mix(state, byte)
        if sampling.temperature != 0:
            state = mix(mix(state, (sampling.seed or 0) + sampler.choice), len(sampler.drawn))
        may_end = not sampling.ignore_eos and len(sampler.drawn) >= sampling.min_tokens
        if self._end_one_in and may_end and mix(state, 2) % self._end_one_in == 0:
            return END_TOKEN
        banned = {token for token, bias in sampling.logit_bias if bias <= -100}
        letters = [letter for letter in self._alphabet if letter not in banned]
        return letters[mix(state, 3) % len(letters)]

    def _score(self, part: Slice) -> list[Scored]:
        scored: list[Scored] = []
        for length, target in enumerate(part.targets, part.start + 1):
            state = mix(self.memory.hash_after(part.seq, length), 4)
            letters = list(dict.fromkeys(self._alphabet))[: part.n_top]
            top = tuple((letter, -0.5 - rank) for rank, letter in enumerate(letters))
            scored.append(Scored(-(mix(state, target) % 1000) / 100, top))
        return scored

    def _sampler(self, key: SequenceKey) -> FakeSampler:
        samplers = self._samplers.get(key.request_id)
        if samplers is None:
            violated(f"{key} draws, but its request is not open")
        if not 0 <= key.choice < len(samplers):
            violated(f"{key} draws, but its request has {len(samplers)} choices")
        return samplers[key.choice]

    def _draw(self, sampler: FakeSampler, row_hash: int) -> tuple[Sampled, ...]:
        if row_hash != sampler.text_hash:
            violated(f"choice {sampler.choice} draws from a row that does not hold its own prompt and answer")
        drawn: list[Sampled] = []
        for _ in range(self._tokens_per_draw):
            token = self.next_token(sampler)
            drawn.append(self._sampled(sampler, token))
            sampler.text_hash = mix(sampler.text_hash, token)
            sampler.drawn.append(token)
            if token == END_TOKEN:
                break
        return tuple(drawn)

    def _sampled(self, sampler: FakeSampler, token: int) -> Sampled:
        n_top = sampler.sampling.logprobs
        if n_top is None:
            return Sampled(token, is_end=token == END_TOKEN)
        others = [other for other in dict.fromkeys(self._alphabet) if other != token]
        top = tuple((other, -0.5 - rank) for rank, other in enumerate([token, *others][:n_top]))
        return Sampled(token, is_end=token == END_TOKEN, logprob=-0.5, top=top)


class EchoDecoder(FakeDecoder):
    """Answers with the tokens of the prompt, or with ``answer``, and ends."""

    def __init__(self, capabilities: Capabilities, *, answer: Sequence[int] | None = None) -> None:
        super().__init__(capabilities)
        self._answer = answer

    def next_token(self, sampler: FakeSampler) -> int:
        """Return the token that stands next in what is to be echoed."""
        answer = sampler.prompt if self._answer is None else self._answer
        position = len(sampler.drawn)
        return answer[position] if position < len(answer) else END_TOKEN


class WrappedDecoder:
    """Passes everything on to another decoder; :meth:`before_step` comes before each ``collect``."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self.n_steps = 0

    @property
    def capabilities(self) -> Capabilities:
        """Those of the wrapped decoder."""
        return self._decoder.capabilities

    def open(self, request_id: str, sampling: SamplingParams, prompt: Sequence[int]) -> None:
        """Pass on."""
        self._decoder.open(request_id, sampling, prompt)

    def submit(self, plan: Plan) -> None:
        """Pass on."""
        self._decoder.submit(plan)

    def collect(self) -> Mapping[SequenceKey, Sequence[Sampled]]:
        """Do what is special about this decoder, then pass on."""
        self.before_step()
        self.n_steps += 1
        return self._decoder.collect()

    def scores(self) -> Mapping[int, Sequence[Scored]]:
        """Pass on, where the wrapped decoder can score."""
        return cast(ScoringDecoder, self._decoder).scores()

    def save(self, seq: int) -> State | None:
        """Pass on, where the wrapped decoder can save."""
        return cast(SavingDecoder, self._decoder).save(seq)

    def restore(self, seq: int, state: State, n_tokens: int) -> bool:
        """Pass on, where the wrapped decoder can save."""
        return cast(SavingDecoder, self._decoder).restore(seq, state, n_tokens)

    def force(self, key: SequenceKey, tokens: Sequence[int]) -> None:
        """Pass on."""
        self._decoder.force(key, tokens)

    def close(self, request_id: str) -> None:
        """Pass on."""
        self._decoder.close(request_id)

    def before_step(self) -> None:
        """Do nothing; subclasses do."""


class SlowDecoder(WrappedDecoder):
    """Calls ``wait`` in each step: a sleep, or the ``wait`` of an event that a test sets."""

    def __init__(self, decoder: Decoder, wait: Callable[[], object]) -> None:
        super().__init__(decoder)
        self._wait = wait

    def before_step(self) -> None:
        """Wait."""
        self._wait()


class CrashingDecoder(WrappedDecoder):
    """Works for ``after_steps`` steps and then calls ``crash``, which raises, kills the process or never returns."""

    def __init__(self, decoder: Decoder, after_steps: int, crash: Callable[[], object]) -> None:
        super().__init__(decoder)
        self._after_steps = after_steps
        self._crash = crash

    def before_step(self) -> None:
        """Count, and crash when it is time."""
        if self.n_steps >= self._after_steps:
            self._crash()
