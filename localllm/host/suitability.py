"""Which model a name means, and whether it is fit for what is to be done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from localllm.contract.backend import BackendSpec
from localllm.contract.errors import ModelUnsupportedError
from localllm.contract.model import FITTING_KINDS, Mode, ModelKind, ModelSpec

_LISTED_IN_ERRORS = 20

_WORK: Mapping[ModelKind, str] = {
    ModelKind.CHAT: "write text",
    ModelKind.EMBEDDING: "give embeddings",
    ModelKind.RERANKER: "rank documents",
}


class Catalogue(Protocol):
    """The models that there are."""

    @property
    def default(self) -> str | None:
        """Id of the model that answers when a request names none."""
        ...

    def specs(self) -> Mapping[str, ModelSpec]:
        """Return all models by id."""
        ...

    def resolve(self, name: str | None, kind: ModelKind) -> ModelSpec:
        """Return the model that a name means; None is the default for what models of ``kind`` are for.

        Raises ``ModelNotFoundError`` with the known ids.
        """
        ...


def find_fitting(
    name: str | None,
    mode: Mode,
    purpose: ModelKind | None,
    catalogue: Catalogue,
    backends: Mapping[str, BackendSpec],
) -> ModelSpec:
    """Return the model that ``name`` means and that is fit for ``purpose``, as ``ModelAccess`` says.

    Raises ``ModelNotFoundError`` or ``ModelUnsupportedError``, which names models that are fit.
    """
    if purpose is None and mode is Mode.GENERATE:
        purpose = ModelKind.CHAT
    spec = catalogue.resolve(name, purpose or ModelKind.EMBEDDING)
    if spec.backend not in backends:
        enabled = ", ".join(sorted(backends)) or "none"
        message = (
            f"Model {spec.id!r} needs the engine {spec.backend!r}, which no enabled plugin brings. "
            f"Enabled engines: {enabled}."
        )
        raise ModelUnsupportedError(message, param="model")
    if purpose is not None and spec.kind not in FITTING_KINDS[purpose]:
        reason = f"is of kind {spec.kind.value!r} and can't {_WORK[purpose]}."
    elif (why := _why_not(spec, mode, backends)) is not None:
        reason = f"can't be loaded to {mode.value}: {why}."
    else:
        return spec
    message = f"Model {spec.id!r} {reason} {_alternatives(mode, purpose, catalogue, backends)}"
    raise ModelUnsupportedError(message, param="model")


def _why_not(spec: ModelSpec, mode: Mode, backends: Mapping[str, BackendSpec]) -> str | None:
    """Return why the model's engine can't load it so; None where it can, as far as is known without loading."""
    backend = backends[spec.backend]
    if mode not in backend.modes:
        return f"its engine {backend.name!r} does not do that"
    return None if backend.refuses is None else backend.refuses(spec, mode)


def _alternatives(
    mode: Mode, purpose: ModelKind | None, catalogue: Catalogue, backends: Mapping[str, BackendSpec]
) -> str:
    """Return a sentence that names the models which can; those made for it come first."""
    kinds = list(ModelKind) if purpose is None else FITTING_KINDS[purpose]
    able = [
        spec.id
        for kind in kinds
        for spec in catalogue.specs().values()
        if spec.kind is kind and spec.backend in backends and _why_not(spec, mode, backends) is None
    ]
    if not able:
        return f"No model here can; put one into the models' folder {kinds[0].value}/."
    more = f" and {len(able) - _LISTED_IN_ERRORS} more" if len(able) > _LISTED_IN_ERRORS else ""
    return f"Models that can: {', '.join(able[:_LISTED_IN_ERRORS])}{more}."
