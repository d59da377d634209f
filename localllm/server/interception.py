"""The parts that plugins play in one generation, and the answer that is collected for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from localllm.contract.backend import ModelClient
from localllm.contract.errors import UnsupportedFeatureError
from localllm.contract.generation import (
    CallDelta,
    ChoiceFinished,
    Chunk,
    Finished,
    GenerateEvent,
    GenerateRequest,
    Started,
)
from localllm.contract.interception import Answered, AnswerMessage, Asked, Interception, SessionWish
from localllm.openai.answers import Answer, new_call_id

if TYPE_CHECKING:
    from localllm.context import PluginContext


class Interceptions:
    """All parts of one generation. Use :meth:`begin`, then the others in their order, and :meth:`leave` in the end."""

    def __init__(self) -> None:
        self._parts: list[Interception] = []
        self._answers: dict[int, Answer] = {}
        self._named: SessionWish | None = None  # the conversation that the request names

    async def begin(self, context: PluginContext, asked: Asked) -> None:
        """Ask every interceptor for its part. Raises what one of them refuses with.

        A request that names a conversation is refused where nobody knows of any.
        """
        for interceptor in context.interceptors():
            part = await interceptor.before(asked)
            if part is not None:
                self._parts.append(part)
        if asked.session is not None and asked.session.id is not None:
            self._named = asked.session
            if not self._parts:
                raise _nobody_keeps(self._named)

    @property
    def session_id(self) -> str | None:
        """The conversation that the generation belongs to, as far as a part tells by now."""
        told = self._fields().get("session_id")
        return told if isinstance(told, str) else None

    async def prepare(self, generate: GenerateRequest, client: ModelClient) -> GenerateRequest:
        """Return what is to be generated, after all parts had their say."""
        for part in self._parts:
            generate = await part.prepare(generate, client)
        if self._named is not None and "session_id" not in self._fields():
            raise _nobody_keeps(self._named)
        return generate

    async def pass_on(self, event: GenerateEvent) -> GenerateEvent:
        """Return the event as the endpoint gets it; the last one only once every part has taken note of the answer."""
        match event:
            case Started() if self._parts:
                return replace(event, fields=self._fields())
            case CallDelta(id="", name=name) if name is not None:
                event = replace(event, id=new_call_id())
                self._collect(event)
            case Chunk() | CallDelta() | ChoiceFinished():
                self._collect(event)
            case Finished():
                await self._after(event)
        return event

    async def leave(self) -> None:
        """Let every part go, in the reverse order; raises the first error once all are gone."""
        failed: BaseException | None = None
        while self._parts:
            try:
                await self._parts.pop().leave()
            except BaseException as error:  # noqa: BLE001 - raised below, also a cancellation; the others hold things too
                failed = failed or error
        if failed is not None:
            raise failed

    def _fields(self) -> Mapping[str, Any]:
        return {name: value for part in self._parts for name, value in part.fields.items()}

    def _collect(self, event: Chunk | CallDelta | ChoiceFinished) -> None:
        if self._parts:
            self._answers.setdefault(event.choice, Answer()).add(event)

    async def _after(self, finished: Finished) -> None:
        if not self._parts:
            return
        choices = tuple(_message(self._answers[choice]) for choice in sorted(self._answers))
        for part in self._parts:
            await part.after(Answered(choices, finished.usage))


def _nobody_keeps(wish: SessionWish) -> UnsupportedFeatureError:
    message = (
        f"{wish.param} needs a plugin that keeps conversations: enable the plugin 'sessions', "
        "or send the whole conversation as messages."
    )
    return UnsupportedFeatureError(message, param=wish.param)


def _message(answer: Answer) -> AnswerMessage:
    message: dict[str, Any] = {"role": "assistant", "content": "".join(answer.text)}
    if answer.reasoning:
        message["reasoning_content"] = "".join(answer.reasoning)
    if answer.calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.argument_text}}
            for call in answer.calls
        ]
    assert answer.reason is not None, "a finished generation has finished choices"
    return AnswerMessage(message, answer.reason)
