"""One engine step from end to end: schedule, evaluate, turn tokens into text, and say what happened to each request."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from localllm.contract.chat_format import ReplyRules
from localllm.contract.decoder import Decoder, Scored, ScoringDecoder, SequenceKey, Tokenizer
from localllm.contract.errors import ContextLengthExceededError, InvalidRequestError, UnsupportedFeatureError
from localllm.contract.generation import ChoiceFinished, Finished, SamplingParams, Started, Timings, Usage
from localllm.contract.wire import WorkerEvent
from localllm.engine.answer import Answer, AnswerRules
from localllm.engine.keeping import StateFiles, StateKeeper
from localllm.engine.pacing import PrefillPacer
from localllm.engine.prompt_scores import first_prompt_token, scored_prompt_tokens
from localllm.engine.read_answer import ReadAnswer
from localllm.engine.reply_reader import needs_reading
from localllm.engine.scheduler import Scheduler
from localllm.engine.step import Step
from localllm.engine.stopping import StopStrings

_PLAIN = ReplyRules()


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """A request whose prompt is tokens already. ``queued_at`` is in seconds of the step loop's clock.

    ``owner`` names who shares cached prefixes with whom; with ``cache_prompt`` unset none are used and none are left.
    With ``prompt_logprobs`` given the whole prompt is evaluated, and only that where ``sampling.max_tokens`` is 0.
    ``reply`` says what its answers may hold beside content; they are told apart then. Where the conversation
    ``goes_on``, what was evaluated is saved when it has to leave the KV cache.
    """

    request_id: str
    prompt: tuple[int, ...]
    sampling: SamplingParams
    owner: str
    cache_prompt: bool
    queued_at: float
    prompt_logprobs: int | None = None
    warnings: tuple[str, ...] = ()  # for ``Started``
    group: str = ""  # of the adapters that it is computed with
    reply: ReplyRules = _PLAIN
    goes_on: bool = False


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step brought: (request id, event) in order, and how many prompt tokens were evaluated."""

    events: tuple[tuple[str, WorkerEvent], ...]
    prefilled_tokens: int


@dataclass(slots=True)
class _Generation:
    """A request in the loop: its answers, and the moments of its life in seconds of the clock."""

    request: PreparedRequest
    answers: list[Answer]
    n_open: int
    cached_tokens: int = 0
    admitted_at: float | None = None
    first_token_at: float | None = None
    is_scored_only: bool = False  # what it draws is not wanted

    def finished(self, now: float) -> Finished:
        admitted_at = now if self.admitted_at is None else self.admitted_at
        first_token_at = now if self.first_token_at is None else self.first_token_at
        return Finished(
            Usage(
                len(self.request.prompt),
                sum(answer.n_tokens for answer in self.answers),
                self.cached_tokens,
                sum(answer.n_reasoning_tokens for answer in self.answers),
            ),
            Timings(
                queue_ms=1000 * (admitted_at - self.request.queued_at),
                prompt_ms=1000 * (first_token_at - admitted_at),
                predicted_ms=1000 * (now - first_token_at),
            ),
        )


class StepLoop:
    """Runs a decoder for many requests at once. All methods are called from one thread, the worker's step thread.

    ``clock`` gives seconds that never go backwards. An exception out of the decoder goes through: what the memory
    then holds is unknown, so that the worker must end.

    Events of a request, in this order: ``Started``; ``PromptLogprobs``, where wanted; ``Chunk`` and ``CallDelta``, for
    each choice in the order of its reply, and behind them, once per choice, ``ChoiceFinished``; ``Finished``. Only
    where the request's ``reply`` has markers to look for are there chunks of thoughts, and calls.
    ``Usage.completion_tokens`` counts the tokens of the answers, those that close a thought which has spent its budget
    included, without those that mean "end" and those behind a stop string.

    ``files`` are where a decoder that can save (``Capabilities.saving``) keeps conversations beyond the process.
    """

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: Tokenizer,
        clock: Callable[[], float],
        files: StateFiles | None = None,
    ) -> None:
        capabilities = decoder.capabilities
        self._decoder = decoder
        self._tokenizer = tokenizer
        self._clock = clock
        self._context_length = capabilities.context_length
        self._scheduler = Scheduler(capabilities)
        self._keeper = StateKeeper(decoder, self._scheduler, files) if capabilities.saving is not None else None
        self._pacer = PrefillPacer(capabilities.n_batch, capabilities.step_seconds)
        self._generations: dict[str, _Generation] = {}
        self._outbox: list[tuple[str, WorkerEvent]] = []

    @property
    def has_work(self) -> bool:
        """Whether ``step`` has something to do."""
        return self._scheduler.has_work or bool(self._outbox)

    def submit(self, request: PreparedRequest) -> None:
        """Queue a request. Its events come out of the following steps, beginning with ``Started``.

        Raises ``ContextLengthExceededError``, ``InvalidRequestError`` (empty prompt, no choice, id in use),
        ``UnsupportedFeatureError`` (log-probabilities of a prompt from a decoder that has none), or what the decoder
        finds wrong with the sampling parameters; the request is not queued then.
        """
        self._check(request)
        sampling, n_prompt = request.sampling, len(request.prompt)
        max_tokens = self._context_length - n_prompt
        if sampling.max_tokens is not None:
            max_tokens = min(max_tokens, sampling.max_tokens)
        rules = AnswerRules(
            max_tokens, StopStrings.prepare(sampling.stop), sampling.include_stop, sampling.logprobs is not None
        )
        answers = [self._answer(index, rules, request.reply) for index in range(sampling.n)]
        generation = _Generation(request, answers, sampling.n)
        n_top = request.prompt_logprobs
        if max_tokens <= 0 and n_top is None:
            self._answer_nothing(generation)
            return
        generation.is_scored_only = max_tokens <= 0
        self._decoder.open(request.request_id, sampling, request.prompt)
        self._generations[request.request_id] = generation
        self._scheduler.add(
            request.request_id,
            request.prompt,
            1 if generation.is_scored_only else sampling.n,
            owner=request.owner,
            keep=request.cache_prompt,
            n_top=n_top,
            group=request.group,
            goes_on=request.goes_on,
        )
        self._outbox.append((request.request_id, Started(n_prompt, request.warnings)))
        if n_top is not None:
            self._outbox.append((request.request_id, first_prompt_token(request.prompt[0], self._tokenizer)))

    def preload(self, request_id: str, prompt: tuple[int, ...]) -> None:
        """Queue a prompt that is evaluated for whoever will begin with it, all owners alike. No event tells of it.

        It stays cached as long as any prompt does. Raises ``ContextLengthExceededError``, ``InvalidRequestError``.
        """
        sampling = SamplingParams(temperature=0.0)
        request = PreparedRequest(request_id, prompt, sampling, "", True, queued_at=self._clock())
        self._check(request)
        self._decoder.open(request_id, sampling, prompt)
        self._generations[request_id] = _Generation(request, [], 1, is_scored_only=True)
        self._scheduler.add(request_id, prompt, is_public=True)

    def _answer(self, index: int, rules: AnswerRules, reply: ReplyRules) -> Answer:
        if needs_reading(reply):
            return ReadAnswer(index, rules, self._tokenizer, reply)
        return Answer(index, rules, self._tokenizer)

    def _check(self, request: PreparedRequest) -> None:
        n_prompt = len(request.prompt)
        if not n_prompt:
            raise InvalidRequestError("The prompt has no tokens; give at least one.")
        if n_prompt >= self._context_length:
            raise ContextLengthExceededError(n_prompt, self._context_length)
        if request.sampling.n < 1:
            raise InvalidRequestError(f"n is {request.sampling.n}; ask for at least one choice.", param="n")
        if request.request_id in self._generations:
            raise InvalidRequestError(f"Request id {request.request_id!r} is in use; ids must not repeat.")
        if request.prompt_logprobs is not None and not self._decoder.capabilities.can_score:
            message = "This model's engine has no log-probabilities of prompts. Ask for those of the answer only."
            raise UnsupportedFeatureError(message, param="logprobs")

    def cancel(self, request_id: str) -> None:
        """Forget a request in whatever state it is; no event of it comes out after this. Unknown ids are ignored."""
        self._outbox = [event for event in self._outbox if event[0] != request_id]
        if request_id in self._generations:
            self._scheduler.cancel(request_id)
            self._close(request_id)

    def step(self) -> StepResult:
        """Evaluate one plan and return what it brought. Blocks as long as the decoder works; does nothing when idle."""
        if not self._scheduler.has_work:
            return StepResult(self.take_events(), 0)
        began_at = self._clock()
        if self._keeper is not None:
            self._keeper.restore()
        step = self._scheduler.schedule(self._pacer.budget(decoding=self._scheduler.is_decoding))
        for admitted in step.admitted:
            generation = self._generations[admitted.request_id]
            generation.admitted_at = began_at
            generation.cached_tokens = admitted.cached_tokens or 0
        if self._keeper is not None:
            self._keeper.save(step.saves)
        self._decoder.submit(step.plan)
        continuing = self._collect(step, began_at)
        self._scheduler.commit(step, continuing)
        return StepResult(self.take_events(), step.prefill_tokens)

    def leave(self, is_late: Callable[[], bool]) -> None:
        """Give up all requests, and file what is worth keeping of their conversations until ``is_late`` says so."""
        for request_id in list(self._generations):
            self.cancel(request_id)
        if self._keeper is not None:
            self._keeper.file(is_late)

    def take_events(self) -> tuple[tuple[str, WorkerEvent], ...]:
        """Return what happened since the last call or step: a worker may send ``Started`` before a step blocks."""
        events, self._outbox = tuple(self._outbox), []
        return events

    def check(self) -> None:
        """Assert the invariants, between steps; for tests, and for an idle engine."""
        self._scheduler.check()
        assert all(generation.n_open for generation in self._generations.values())

    def _collect(self, step: Step, began_at: float) -> dict[SequenceKey, list[int]]:
        """Wait for the step's tokens, put out their text, and return the tokens of the choices that go on."""
        sampled = self._decoder.collect()
        now = self._clock()
        self._pacer.observe(step.prefill_tokens, now - began_at)
        self._tell_scores(step)
        continuing: dict[SequenceKey, list[int]] = {}
        for piece in step.plan.slices:
            for key in piece.sample:
                generation = self._generations[key.request_id]
                if generation.first_token_at is None:
                    generation.first_token_at = now
                if generation.is_scored_only:
                    self._finish_unwritten(generation, now)
                    continue
                answer = generation.answers[key.choice]
                tokens = answer.take(sampled[key])
                for event in answer.release():
                    self._outbox.append((key.request_id, event))
                if answer.finished is None:
                    continuing[key] = tokens
                    if answer.forced:
                        self._decoder.force(key, answer.forced)
                else:
                    self._finish(generation, answer.finished, now)
        return continuing

    def _tell_scores(self, step: Step) -> None:
        """Put out how likely the targets of the step's slices were."""
        scores: Mapping[int, Sequence[Scored]] | None = None
        for part, piece in zip(step.parts, step.plan.slices, strict=True):
            if piece.targets:
                scores = cast(ScoringDecoder, self._decoder).scores() if scores is None else scores
                told = scored_prompt_tokens(piece.targets, scores[piece.seq], self._tokenizer)
                self._outbox.append((part.choice.key.request_id, told))

    def _finish_unwritten(self, generation: _Generation, now: float) -> None:
        """Report the choices of a request of which only the prompt was to be evaluated."""
        if not generation.answers:  # it was preloaded, and nobody waits for it
            self._close(generation.request.request_id)
        for index in range(len(generation.answers)):
            self._finish(generation, ChoiceFinished(index, "length"), now)

    def _finish(self, generation: _Generation, finished: ChoiceFinished, now: float) -> None:
        """Report a complete choice, and its request when it was the last one."""
        request_id = generation.request.request_id
        self._outbox.append((request_id, finished))
        generation.n_open -= 1
        if generation.n_open == 0:
            self._outbox.append((request_id, generation.finished(now)))
            self._close(request_id)

    def _close(self, request_id: str) -> None:
        del self._generations[request_id]
        self._decoder.close(request_id)

    def _answer_nothing(self, generation: _Generation) -> None:
        """Answer a request for no tokens: nothing is evaluated, each choice ends by its length."""
        request = generation.request
        request_id = request.request_id
        self._outbox.append((request_id, Started(len(request.prompt), request.warnings)))
        for index in range(len(generation.answers)):
            self._outbox.append((request_id, ChoiceFinished(index, "length")))
        self._outbox.append((request_id, generation.finished(self._clock())))
