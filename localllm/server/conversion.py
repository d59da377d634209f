"""What a model makes of texts, for endpoints: acquire it, ask, and note in the request's record what happened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.requests import Request

from localllm.contract.model import Mode
from localllm.contract.texts import TextRequest, TextResult
from localllm.server.model_options import model_options
from localllm.server.record import request_record

if TYPE_CHECKING:
    from localllm.context import PluginContext


@dataclass(frozen=True, slots=True)
class Conversion:
    """The answer, and of which model it is. ``context_length`` is what one of its requests may use, in tokens."""

    model_id: str
    context_length: int
    result: TextResult


async def convert_texts(request: Request, context: PluginContext, model: str | None, asked: TextRequest) -> Conversion:
    """Return what ``model`` (id, alias, None for the default) makes of texts: tokens, their text, rendered messages.

    It is loaded if need be. Cancelling the task cancels the request in the worker. The request's log line gets model
    and finish from here. Raises what ``ModelAccess.acquire`` and ``ModelClient.convert`` raise.
    """
    record = request_record(request.scope)
    with record.noting_failure():
        spec = context.models.resolve(model, Mode.GENERATE)
        record.model = spec.id
        options = model_options(request)
        async with context.models.acquire(
            spec.id, Mode.GENERATE, autoload=options.autoload, ttl_seconds=options.ttl_seconds
        ) as client:
            return Conversion(spec.id, client.info.context_length, await client.convert(asked))
