"""One turn of a session: history in front of what is new, as much as fits, and the answer kept behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import orjson

from localllm import (
    Answered,
    Asked,
    ChatPrompt,
    ContextLengthExceededError,
    GenerateRequest,
    InvalidRequestError,
    ModelClient,
    Session,
    SessionStore,
    Turn,
    Usage,
)

from .history import (
    REPLACES,
    Message,
    link_results,
    same_instructions,
    says_anything,
    split_instructions,
    split_turns,
    without_marks,
)
from .log import Log, count_stored, read_log
from .settings import Overflow
from .summary import HEADING, count_tokens, sum_up
from .titles import title_of
from .window import (
    Round,
    count_dropped,
    count_unreachable,
    first_at_or_after,
    prompt_limit,
    read_bytes,
    rounds_of,
)

_MESSAGE_TOKENS: Final = 32
"""What a template writes around a message, at most, when tokens are only estimated."""


@dataclass(slots=True)
class _Plan:
    """What goes into one prompt, and what is to be remembered of that."""

    new: tuple[Message, ...]
    instructions: tuple[Message, ...]
    replaced: bool  # the instructions are new ones
    rounds: list[Round]  # those that are kept
    n_omitted: int = 0
    summary: str = ""
    tells_summary: bool = True  # False where there is no room for it in this prompt
    spent: Usage = field(default_factory=lambda: Usage(0, 0))  # for the summary


class Conversation:
    """The part that a session plays in one generation; see ``Interception``."""

    def __init__(
        self,
        store: SessionStore,
        asked: Asked,
        session: Session,
        *,
        is_new: bool,
        overflow: Overflow,
        release: Callable[[], None],
    ) -> None:
        self._store = store
        self._asked = asked
        self._session = session
        self._is_new = is_new
        self._overflow = overflow
        self._release = release
        self._fields: dict[str, Any] = {"session_id": session.id}
        self._plan: _Plan | None = None
        self._keeping: asyncio.Task[None] | None = None

    @property
    def fields(self) -> Mapping[str, Any]:
        """The session's id, and how much of it the prompt has."""
        return self._fields

    async def prepare(self, generate: GenerateRequest, client: ModelClient) -> GenerateRequest:
        """Put the session's history in front of what is new."""
        prompt = generate.prompt
        assert isinstance(prompt, ChatPrompt), "before() lets nothing else pass"
        log = await read_log(self._store, self._session, read_bytes(client.info.context_length))
        plan = await self._sort(log, prompt)
        await self._fit(log, plan, generate, client)
        plan.n_omitted = self._first_kept(plan) - log.n_leading
        self._plan = plan
        self._fields = self._describe(log, plan)
        return replace(generate, prompt=self._prompt(prompt, plan, plan.rounds), keep=True)

    async def after(self, answer: Answered) -> None:
        """Keep the turn. It is kept as a whole even if the client leaves in this very moment."""
        self._keeping = asyncio.create_task(self._keep(answer))
        await asyncio.shield(self._keeping)

    async def leave(self) -> None:
        """Let the next turn begin, once this one is kept or given up."""
        if self._keeping is None or self._keeping.done():
            self._release()
        else:
            self._keeping.add_done_callback(self._release_after)

    def _release_after(self, keeping: asyncio.Task[None]) -> None:
        if not keeping.cancelled():
            keeping.exception()  # nobody waits for it any more
        self._release()

    # --- what is new --------------------------------------------------------------------------------------------------

    async def _sort(self, log: Log, prompt: ChatPrompt) -> _Plan:
        """Tell what of the request is new."""
        head, sent = split_instructions(prompt.messages)
        if same_instructions(head, self._usual_instructions()):
            head = ()  # the endpoint put the model's own there
        n_known = await count_stored(self._store, log, sent)
        new = sent[n_known:]
        if not new:
            message = (
                "messages has nothing that the session doesn't have already: send at least one new message."
                if n_known
                else "messages needs more than instructions: send at least one message of role user or tool."
            )
            raise InvalidRequestError(message, param="messages")
        replaced = bool(head) and not same_instructions(head, log.instructions)
        rounds = rounds_of(log.messages)
        kept = rounds[first_at_or_after(rounds, self._start(log)) :]
        history = [one.message for part in kept for one in part.messages]
        new = link_results((*history, *new))[len(history) :]
        summary = str(log.session.state.get("summary", ""))
        return _Plan(new, head if replaced else log.instructions, replaced, kept, summary=summary)

    def _start(self, log: Log) -> int:
        """Return where the window began last time. Another model may see more, unless the rest was summed up."""
        state = log.session.state
        if log.session.model != self._asked.model.id and "summary" not in state:
            return 0
        return int(state.get("start", 0))

    def _usual_instructions(self) -> tuple[Message, ...]:
        text = self._asked.model.rules.system_prompt
        return ({"role": "system", "content": text},) if text else ()

    # --- what fits ----------------------------------------------------------------------------------------------------

    async def _fit(self, log: Log, plan: _Plan, generate: GenerateRequest, client: ModelClient) -> None:
        """Leave out the oldest rounds where the prompt would be too long."""
        prompt, rounds = generate.prompt, plan.rounds
        assert isinstance(prompt, ChatPrompt)
        length = client.info.context_length
        limit = prompt_limit(length, generate.sampling.max_tokens)
        n_far = count_unreachable(rounds, read_bytes(length))
        # Results answer calls of the last round, which can't go then.
        n_droppable = len(rounds) - (plan.new[0]["role"] == "tool")
        if n_far > max(0, n_droppable) or (self._overflow == "error" and (n_far or not log.complete)):
            raise ContextLengthExceededError(max(log.session.context_tokens, length), length, param="messages")
        if self._overflow == "error":
            return

        async def count(n_dropped: int) -> int:
            return await count_tokens(client, self._prompt(prompt, plan, rounds[n_far + n_dropped :]))

        if not n_far and not self._may_overflow(plan, prompt, limit):
            return
        n_dropped = n_far
        if rounds[n_far:]:
            n_dropped += await count_dropped(n_droppable - n_far, limit, count)
        plan.rounds = rounds[n_dropped:]
        gone = [one.message for part in rounds[:n_dropped] for one in part.messages]
        if gone and self._overflow == "summary":
            plan.tells_summary = False
            if await count(n_dropped - n_far) >= length:
                return  # what is new is too long by itself, and is refused
            summary = await sum_up(client, plan.summary, gone, generate.adapters)
            plan.summary, plan.spent = summary.text or plan.summary, summary.usage
        if plan.summary:
            plan.tells_summary = True
            plan.tells_summary = await count(n_dropped - n_far) <= limit

    def _may_overflow(self, plan: _Plan, prompt: ChatPrompt, limit: int) -> bool:
        """Say whether tokens have to be counted: not when even one token for each new byte would fit."""
        session = self._session
        if not session.context_tokens or plan.replaced or session.model != self._asked.model.id:
            return True
        n_bytes = sum(len(orjson.dumps(one)) + _MESSAGE_TOKENS for one in (*plan.new, *prompt.tools))
        return session.context_tokens + n_bytes > limit

    def _first_kept(self, plan: _Plan) -> int:
        return plan.rounds[0].start if plan.rounds else self._session.n_messages

    def _prompt(self, prompt: ChatPrompt, plan: _Plan, rounds: Sequence[Round]) -> ChatPrompt:
        instructions = plan.instructions if says_anything(plan.instructions) else self._usual_instructions()
        if plan.summary and plan.tells_summary:
            instructions = _with_summary(instructions, plan.summary)
        history = [without_marks(one.message) for part in rounds for one in part.messages]
        return replace(prompt, messages=(*instructions, *history, *plan.new))

    def _describe(self, log: Log, plan: _Plan) -> dict[str, Any]:
        kept = plan.rounds[0].messages[0].turn if plan.rounds else None
        last = log.messages[-1].turn + 1 if log.messages else 0
        told = {
            "id": self._session.id,
            "messages": self._session.n_messages,
            "new_messages": len(plan.new),
            "omitted_messages": plan.n_omitted,
            "omitted_turns": (last if kept is None else kept) if plan.n_omitted else 0,
            "summary": bool(plan.summary) and plan.tells_summary,
        }
        return {"session_id": self._session.id, "session": told}

    # --- what is kept -------------------------------------------------------------------------------------------------

    async def _keep(self, answer: Answered) -> None:
        plan, session, model = self._plan, self._session, self._asked.model.id
        assert plan is not None, "prepare() comes first"
        said = (*self._instructions_to_keep(plan), *plan.new, _stored_answer(answer))
        usage = answer.usage
        last = Turn(said, model, usage + plan.spent, usage.prompt_tokens + usage.completion_tokens, self._state(plan))
        title = title_of(plan.new)
        if self._is_new:
            *earlier, latest = split_turns(said)
            turns = (*(Turn(messages, model) for messages in earlier), replace(last, messages=latest))
            await self._store.create(session.owner, model=model, title=title, turns=turns, session_id=session.id)
            return
        named = last if session.n_messages else replace(last, title=title)
        await self._store.append(session.owner, session.id, named, after=session.n_messages)

    def _instructions_to_keep(self, plan: _Plan) -> tuple[Message, ...]:
        if not plan.replaced:
            return ()
        first = not self._session.n_messages
        return plan.instructions if first else tuple({**one, REPLACES: True} for one in plan.instructions)

    def _state(self, plan: _Plan) -> dict[str, Any] | None:
        """Return what the next turn must know, None where that is what it knows already."""
        before = dict(self._session.state)
        state = dict(before)
        if plan.replaced and self._session.n_messages:
            state["instructions"] = list(plan.instructions)
        state.pop("start", None)
        if plan.n_omitted:
            state["start"] = self._first_kept(plan)
        if plan.summary:
            state["summary"] = plan.summary
        return state if state != before else None


def _with_summary(instructions: tuple[Message, ...], summary: str) -> tuple[Message, ...]:
    """Return instructions that end with a summary: in one message, since many templates take no more."""
    text = f"{HEADING}\n{summary}"
    if not instructions:
        return ({"role": "system", "content": text},)
    *others, last = instructions
    return (*others, {**last, "content": f"{last['content']}\n\n{text}"})


def _stored_answer(answer: Answered) -> Message:
    """Return the answer as clients saw it: arguments of a call without any are an empty object there."""
    (choice,) = answer.choices
    if "tool_calls" not in choice.message:
        return choice.message
    calls = [
        {**call, "function": {**call["function"], "arguments": call["function"]["arguments"] or "{}"}}
        for call in choice.message["tool_calls"]
    ]
    return {**choice.message, "tool_calls": calls}
