"""``POST /v1/responses``: parse, put what went before in front, generate, keep, word the answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from localllm import (
    EventStream,
    GenerateEvent,
    GenerateRequest,
    LocalLLMError,
    Mode,
    ModelSpec,
    error_body,
    json_in_pieces,
    race_disconnect,
    read_model_body,
)
from localllm.openai import body_pieces
from localllm.openai.responses import (
    Body,
    InputItems,
    Item,
    ResponseHead,
    ResponseRequest,
    ResponseRun,
    is_reference,
    item_id,
    new_response_id,
    parse_response,
    with_ids,
)

from .book import response_record
from .desk import Desk, Shelf
from .fitting import generate_fitting

_MANY_ITEMS: Final = 256
_NOT_KEPT: Final = "The response is not kept, because no plugin brings a store: enable 'sessions'."


@dataclass(frozen=True, slots=True)
class Plan:
    """One checked request. ``own`` are its items, with ids; ``generate`` has those of the responses before it too.

    ``shelf`` is None where nothing is kept at all; ``keeps`` says whether the response is.
    """

    spec: ModelSpec
    asked: ResponseRequest
    response_id: str
    own: tuple[Item, ...]
    generate: GenerateRequest
    shelf: Shelf | None
    keeps: bool


class CreateEndpoint:
    """The endpoint with its view of the server."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def handle(self, request: Request) -> Response:
        """Answer with the response, with a stream of its events, or at once where it is written in the background."""
        spec, body = await read_model_body(request, self._desk.context, Mode.GENERATE)
        plan = await self._plan(request, spec, parse_response(body))
        head = ResponseHead(plan.response_id, int(time.time()), spec.id, plan.asked)
        run = ResponseRun(head, lambda done: self._keep(request, plan, done), warnings=_warnings(plan))
        generation = self._generation(request, plan)
        if plan.asked.background:
            return await self._in_background(request, plan, run, generation)
        if plan.asked.stream:
            events = self._stream(request, plan, run, generation)
            return EventStream(events, named=True, farewell=lambda error: run.farewell(error, error_body(error)))
        return json_in_pieces(body_pieces(await race_disconnect(request, _whole(run, generation))))

    async def _plan(self, request: Request, spec: ModelSpec, asked: ResponseRequest) -> Plan:
        asked.check()
        shelf = self._desk.find_shelf(request)
        wants = self._desk.settings.store_by_default or asked.background if asked.store is None else asked.store
        if asked.background:
            self._desk.shelf(request, param="background")
        before: tuple[Item, ...] = ()
        if asked.previous_response_id is not None:
            shelf = self._desk.shelf(request, param="previous_response_id")
            before = await shelf.responses.chain(asked.previous_response_id, may_cut=asked.truncation == "auto")
        if asked.conversation is not None:
            before = await self._peek(request, asked, asked.conversation)
        response_id = new_response_id()
        resolved = await self.resolve(request, asked.input)
        own = with_ids(resolved, lambda kind, index: item_id(kind, response_id, "input", index))
        if len(own) > _MANY_ITEMS:
            await asyncio.sleep(0)  # two short stops of the event loop instead of one
        keeps = wants and shelf is not None
        goes_on = keeps or asked.conversation is not None
        generate = asked.generate_request((*before, *own), spec.rules.system_prompt, keep=goes_on)
        return Plan(spec, asked, response_id, own, generate, shelf, keeps)

    async def _peek(self, request: Request, asked: ResponseRequest, conversation: str) -> tuple[Item, ...]:
        """Make sure that there is the conversation; where the request brings nothing, return what is to go on from.

        It is read anew when this request's turn has come.
        """
        conversations = self._desk.conversations(request, param="conversation")
        if asked.input.items:
            await conversations.get(conversation)
            return ()
        return await conversations.items(conversation, may_cut=True)

    async def resolve(self, request: Request, given: InputItems) -> Sequence[Item]:
        """Return the items with those in place that they refer to."""
        if not any(map(is_reference, given.items)):
            return given.items
        return await self._desk.shelf(request, param="input").responses.resolve(given.items)

    async def _generation(self, request: Request, plan: Plan) -> AsyncGenerator[GenerateEvent, None]:
        """Yield the generation's events. A conversation is held until all is kept, and the generation closed."""
        asked = plan.asked
        may_cut = asked.truncation == "auto"
        generate = plan.generate
        async with AsyncExitStack() as stack:
            if asked.conversation is not None and plan.shelf is not None:
                await stack.enter_async_context(self._desk.turns.of(plan.shelf.owner, asked.conversation))
                conversations = self._desk.conversations(request, param="conversation")
                before = await conversations.items(asked.conversation, may_cut=may_cut)
                generate = asked.generate_request((*before, *plan.own), plan.spec.rules.system_prompt, keep=True)
            events = generate_fitting(request, self._desk.context, plan.spec.id, generate, may_cut=may_cut)
            async with aclosing(events):
                async for event in events:
                    yield event

    async def _keep(self, request: Request, plan: Plan, body: Body) -> None:
        """Keep the finished response, and what it adds to its conversation: all of it or nothing."""
        if plan.shelf is None:
            return
        records = [response_record(body, plan.own)] if plan.keeps else []
        async with AsyncExitStack() as stack:
            conversation = plan.asked.conversation
            if conversation is not None:
                await stack.enter_async_context(self._desk.turns.adding(plan.shelf.owner, conversation))
                conversations = self._desk.conversations(request, param="conversation")
                records += await conversations.records_to_add(conversation, (*plan.own, *body["output"]))
            if records:
                await plan.shelf.store.put_records(plan.shelf.owner, records)

    async def _keep_alone(self, plan: Plan, body: Body) -> None:
        """Keep a response that did not come to its end; no conversation goes on with it."""
        if plan.shelf is not None and plan.keeps:
            await plan.shelf.responses.put(body, plan.own)

    async def _stream(
        self, request: Request, plan: Plan, run: ResponseRun, generation: AsyncGenerator[GenerateEvent, None]
    ) -> AsyncGenerator[Mapping[str, Any], None]:
        """Yield the events; what fails after the first of them is told by the last."""
        try:
            async with aclosing(run.events(generation)) as events:
                async for event in events:
                    yield event
        except LocalLLMError as error:
            if not run.has_started:
                raise
            last = run.failed(error)
            try:
                await self._keep_alone(plan, run.body)
            except LocalLLMError as fault:
                self._desk.context.logger.warning("response %s could not be kept: %s", run.head.id, fault.message)
            yield last

    async def _in_background(
        self, request: Request, plan: Plan, run: ResponseRun, generation: AsyncGenerator[GenerateEvent, None]
    ) -> Response:
        """Begin, and answer before anything is written; the client may leave."""
        shelf = self._desk.shelf(request, param="background")
        with self._desk.jobs.room():
            await self._keep_alone(plan, run.body)
            job = self._desk.jobs.start(
                shelf.owner, run, generation, lambda body: self._keep_alone(plan, body), has_stream=plan.asked.stream
            )
        return JSONResponse(run.body) if job.stream is None else job.stream.answer()


async def _whole(run: ResponseRun, generation: AsyncGenerator[GenerateEvent, None]) -> Body:
    async with aclosing(run.events(generation)) as events:
        async for _ in events:
            pass
    return run.body


def _warnings(plan: Plan) -> tuple[str, ...]:
    if plan.asked.store and not plan.keeps:
        return (*plan.asked.warnings(), _NOT_KEPT)
    return plan.asked.warnings()
