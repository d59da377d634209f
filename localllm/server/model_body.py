"""A request's body as its model's configuration leaves it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from starlette.requests import Request

from localllm.contract.model import Mode, ModelKind, ModelSpec
from localllm.openai.model_rules import apply_rules, named_model, same_wish
from localllm.server.blame import note_brought_fields
from localllm.server.json_body import read_json
from localllm.server.model_options import note_body

if TYPE_CHECKING:
    from localllm.context import PluginContext


class ModelBody(NamedTuple):
    """The model that a request names, and its body with the model's rules applied; nothing else of it is checked."""

    spec: ModelSpec
    fields: dict[str, Any]


async def read_model_body(
    request: Request,
    context: PluginContext,
    mode: Mode,
    purpose: ModelKind | None = None,
    *,
    reshape: Callable[[dict[str, Any]], Mapping[str, Any]] | None = None,
) -> ModelBody:
    """Read the JSON body of a request to the model that its ``model`` names, and apply what is configured for that.

    The model's ``strip``, ``defaults`` and ``force`` are; its ``system_prompt`` is for those who know what messages
    are. An error whose ``param`` is a field that the configuration brought becomes the server's own
    (``ModelMisconfiguredError``), whenever it is raised. ``reshape`` makes bodies of an endpoint whose fields have
    other names, or stand elsewhere, into ones with the names that rules go by; it may refuse them.

    Raises what ``read_json`` and ``ModelAccess.resolve`` raise, and ``InvalidRequestError`` for a name that is none.
    """
    body: Mapping[str, Any] = await read_json(request)
    if reshape is not None:
        body = reshape(dict(body))
    spec = context.models.resolve(named_model(body), mode, purpose)
    ruled = apply_rules(body, spec.rules)
    if spec.rules.strip:
        note_body(request, ruled.fields)
    if ruled.brought:
        names = frozenset[str]().union(*map(same_wish, ruled.brought))
        note_brought_fields(request.scope, spec.id, names)
    return ModelBody(spec, ruled.fields)
