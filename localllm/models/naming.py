"""Finds what a name stands for, chooses the models that answer when none is named, and says what there is instead."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from pathlib import Path

from localllm.contract.errors import ModelNotFoundError
from localllm.contract.model import ModelKind, ModelSpec
from localllm.models.file_names import MAX_NAME_CHARACTERS, fold

DEMO_MODELS = frozenset({"localllm-demo", "localllm-demo-embed", "localllm-demo-rerank"})
"""The bundled ones: whatever else there is of their kind comes before them."""

DEFAULT_KEYS: Mapping[ModelKind, str] = {
    ModelKind.CHAT: "models.default",
    ModelKind.EMBEDDING: "models.default_embedding",
    ModelKind.RERANKER: "models.default_reranker",
}

_LISTED_IN_ERRORS = 20
_LISTED_IN_DETAIL = 200
_WORK = {ModelKind.EMBEDDING: "give embeddings", ModelKind.RERANKER: "rank documents"}


class Names:
    """The ids and aliases of all models. A name that is exactly one of them counts more than one that nearly is.

    Names are only ever looked up here: none of them becomes part of a path.
    """

    def __init__(self, specs: Mapping[str, ModelSpec], problems: list[str]) -> None:
        self._exact = dict.fromkeys(specs, "") | {model_id: model_id for model_id in specs}
        for spec in specs.values():
            for alias in spec.aliases:
                owner = self._exact.setdefault(alias, spec.id)
                if owner != spec.id:
                    problems.append(f"alias {alias!r} of {spec.id!r} already names {owner!r}")
        self._folded: dict[str, str | None] = {}  # None: of several models
        for name, model_id in self._exact.items():
            if self._folded.setdefault(fold(name), model_id) != model_id:
                self._folded[fold(name)] = None

    def find(self, name: str) -> str | None:
        """Return the id that ``name`` stands for: an id, an alias, either with ".gguf", or spelled in other case."""
        if len(name) > MAX_NAME_CHARACTERS:
            return None
        for exact in (name, name.removesuffix(".gguf")):
            if exact in self._exact:
                return self._exact[exact]
        folded = fold(name)
        return self._folded.get(folded) or self._folded.get(folded.removesuffix(".gguf"))


def choose_defaults(
    specs: Mapping[str, ModelSpec],
    names: Names,
    configured: Mapping[ModelKind, str | None],
    file_ids: Sequence[str],
    problems: list[str],
    arriving: Container[str] = (),
) -> dict[ModelKind, str | None]:
    """Return the default model for each kind of work.

    Files of the command line (``file_ids``) count first, then what is configured, then the first model of a kind: one
    of our own folder before those of other programs' stores, the bundled one last. One that is configured and has a
    name in ``arriving`` (folded) will be the default when it is there.
    """

    def choose(kind: ModelKind) -> str | None:
        for model_id in file_ids:
            if specs[model_id].kind is kind:
                return model_id
        wanted = configured[kind]
        if wanted is not None:
            chosen = names.find(wanted)
            if chosen is None and fold(wanted.removesuffix(".gguf")) not in arriving:
                problems.append(f"{DEFAULT_KEYS[kind]}: there is no model {wanted!r}")
            return chosen
        fitting = [spec for spec in specs.values() if spec.kind is kind]
        return min(fitting, key=_rank).id if fitting else None

    chat = file_ids[0] if file_ids else choose(ModelKind.CHAT)
    embedding, reranker = choose(ModelKind.EMBEDDING), choose(ModelKind.RERANKER)
    if reranker is None and configured[ModelKind.RERANKER] is None:
        reranker = embedding  # an embedding model ranks too, by the distance of its vectors
    return {ModelKind.CHAT: chat, ModelKind.EMBEDDING: embedding, ModelKind.RERANKER: reranker}


def _rank(spec: ModelSpec) -> tuple[bool, bool, str]:
    return spec.id in DEMO_MODELS, "store" in spec.meta, spec.id


def not_found(name: str | None, kind: ModelKind, known: Sequence[str], directory: Path) -> ModelNotFoundError:
    """Return the error for a name that no model has, or for a request without one when there is no default."""
    place = directory / kind.value
    if not known:
        message = f"This server has no models yet: put a GGUF file into {place}."
    elif name is None and kind is not ModelKind.CHAT:
        message = (
            f"The request names no model, and there is no default one to {_WORK[kind]}: put a GGUF file into "
            f"{place}, or set {DEFAULT_KEYS[kind]}. Known models: {_list_ids(known)}."
        )
    elif name is None:
        message = f"The request names no model, and there is no default one. Known models: {_list_ids(known)}."
    else:
        message = f"There is no model {name[:100]!r}. Known models: {_list_ids(known)}."
    return ModelNotFoundError(message, param="model", detail={"models": list(known[:_LISTED_IN_DETAIL])})


def _list_ids(known: Sequence[str]) -> str:
    more = f" and {len(known) - _LISTED_IN_ERRORS} more" if len(known) > _LISTED_IN_ERRORS else ""
    return ", ".join(known[:_LISTED_IN_ERRORS]) + more
