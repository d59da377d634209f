"""Whose fault a wrong field of a request is: its caller's, or that of the model's configuration, which brought it."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.types import Scope

from localllm.contract.errors import (
    InvalidRequestError,
    LocalLLMError,
    ModelMisconfiguredError,
    UnsupportedFeatureError,
)

_KEY = "localllm.brought_fields"


def note_brought_fields(scope: Scope, model_id: str, names: Iterable[str]) -> None:
    """Remember that the value of these fields, by whatever name, is what the model's configuration says."""
    scope[_KEY] = (model_id, frozenset(names))


def blame(error: LocalLLMError, scope: Scope) -> LocalLLMError:
    """Return the error as its caller is to see it: a field that the configuration brought is not theirs to mend."""
    model_id, brought = scope.get(_KEY, ("", frozenset()))
    if not brought or error.param is None or not isinstance(error, InvalidRequestError | UnsupportedFeatureError):
        return error
    field = error.param.partition("[")[0].partition(".")[0]
    if field not in brought:
        return error
    message = (
        f"The configuration of model {model_id!r} sets {field} to what can't be used here: {error.message} "
        f"Mend models.define.{model_id}, or name another model."
    )
    return ModelMisconfiguredError(message, detail={"field": field})
