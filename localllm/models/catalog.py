"""Which models there are, and which one a name stands for: found files, the configuration's and the plugins' models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from localllm.contract.errors import ModelFileError, ModelNotFoundError
from localllm.contract.model import ModelDefinition, ModelKind, ModelSpec
from localllm.models.discovery import FOLDERS, Found, HeaderCache, Stamp, examine, scan_folder, stamp

DEMO_MODELS = frozenset({"localllm-demo", "localllm-demo-embed", "localllm-demo-rerank"})
"""The bundled ones: whatever else there is of their kind comes before them."""

_LISTED_IN_ERRORS = 20
_DEFAULT_KEYS = {
    ModelKind.CHAT: "models.default",
    ModelKind.EMBEDDING: "models.default_embedding",
    ModelKind.RERANKER: "models.default_reranker",
}
_WORK = {ModelKind.EMBEDDING: "give embeddings", ModelKind.RERANKER: "rank documents"}


@dataclass(frozen=True, slots=True)
class CatalogOptions:
    """What the catalogue is made of.

    ``backend`` and ``settings`` (plain JSON) are for files that no definition names; None: no plugin can serve files.
    ``files`` are served from wherever they lie; the first of them is the default model, and the first of a kind that
    kind's. ``default``, and those for embeddings and reranking, may be an id, an alias or a file name.
    """

    directory: Path
    backend: str | None
    settings: Mapping[str, Any] = field(default_factory=dict)
    definitions: Mapping[str, ModelDefinition] = field(default_factory=dict)
    registered: tuple[ModelSpec, ...] = ()
    default: str | None = None
    default_embedding: str | None = None
    default_reranker: str | None = None
    files: tuple[Path, ...] = ()


class Catalog:
    """The models by name. A file that comes, goes or changes is noticed at the next call, for the price of a few stats.

    All methods belong to one thread. What can't be served is a sentence in :attr:`problems` and stops nothing else.
    """

    def __init__(self, options: CatalogOptions) -> None:
        self.options = options
        self._headers = HeaderCache()
        self._stamps: dict[Path, Stamp | None] = {}
        self._specs: dict[str, ModelSpec] = {}
        self._names: dict[str, str] = {}
        self._problems: list[str] = []
        self._broken: dict[str, str] = {}
        self._defaults: dict[ModelKind, str | None] = {}
        self.refresh()

    def create_folders(self) -> None:
        """Make ``chat/``, ``embedding/`` and ``reranker/``, so that a user sees where models go. Raises ``OSError``."""
        for name in FOLDERS:
            (self.options.directory / name).mkdir(parents=True, exist_ok=True)

    def specs(self) -> Mapping[str, ModelSpec]:
        """Return all models by id, in the order of their ids."""
        self._refresh_if_changed()
        return self._specs

    @property
    def problems(self) -> tuple[str, ...]:
        """What could not be served, one sentence each."""
        self._refresh_if_changed()
        return tuple(self._problems)

    @property
    def default(self) -> str | None:
        """The id of the model that answers when a request names none."""
        self._refresh_if_changed()
        return self._defaults[ModelKind.CHAT]

    def resolve(self, name: str | None, kind: ModelKind = ModelKind.CHAT) -> ModelSpec:
        """Return the model that ``name`` means: an id, an alias, a file's name with or without ".gguf".

        None is the default model for what models of ``kind`` are for. Raises :class:`ModelNotFoundError` with the known
        ids, and :class:`ModelFileError` for a file that is there but can't be read.
        """
        self._refresh_if_changed()
        model_id = self._defaults[kind] if name is None else self._lookup(name)
        if model_id is None:
            wanted = self._configured_default(kind) if name is None else name
            raise self._broken_file(wanted) or self._not_found(name, kind)
        return self._specs[model_id]

    def refresh(self) -> None:
        """Look at the disk again; files that did not change are not read again."""
        scan = scan_folder(self.options.directory, self._headers)
        problems = list(scan.problems)
        files = dict.fromkeys(scan.files)
        self._broken = dict(scan.broken)
        found = _by_id(scan.found, problems) if self.options.backend else {}
        if scan.found and not self.options.backend:
            problems.append(
                f"{self.options.directory}: no enabled plugin brings an engine for its files; enable llama_cpp"
            )
        specs = {spec.id: spec for spec in self.options.registered}
        for definition in self.options.definitions.values():
            if definition.path:
                files[Path(definition.path)] = None
            spec = self._from_definition(definition, found, problems)
            if spec is not None:
                specs[spec.id] = spec
        self._add_found(found, specs, problems)
        file_ids = self._add_files(specs, files, problems)
        self._specs = dict(sorted(specs.items()))
        self._names = _collect_names(self._specs, problems)
        self._defaults = self._choose_defaults(file_ids, problems)
        self._problems = problems
        self._headers.keep_only(files)
        self._stamps = {path: stamp(path) for path in (*self._folders(), *files)}

    def _refresh_if_changed(self) -> None:
        if any(stamp(path) != known for path, known in self._stamps.items()):
            self.refresh()

    def _folders(self) -> list[Path]:
        return [self.options.directory, *(self.options.directory / name for name in FOLDERS)]

    def _spec(self, model: Found, model_id: str, backend: str) -> ModelSpec:
        return ModelSpec(
            id=model_id,
            backend=backend,
            kind=model.kind,
            path=str(model.path.absolute()),
            settings=self.options.settings,
            created=model.created,
            meta=model.meta,
        )

    def _from_definition(
        self, definition: ModelDefinition, found: dict[str, Found], problems: list[str]
    ) -> ModelSpec | None:
        """Return the spec of one definition, or None after saying why not."""
        model = found.get(definition.id)
        if definition.path is not None:
            try:
                model = examine(Path(definition.path), self._headers)
            except ModelFileError as error:
                problems.append(f"models.define.{definition.id}: {error.message}")
                self._broken |= dict.fromkeys((definition.id, *definition.aliases), error.message)
                return None
            if model is None:
                problems.append(f"models.define.{definition.id}: {definition.path} is an adapter or a part of a model")
                return None
        if model is None and definition.backend == self.options.backend:
            problems.append(
                f"models.define.{definition.id}: it has no path, and no file of this name is in "
                f"{self.options.directory}"
            )
            return None
        spec = (
            self._spec(model, definition.id, definition.backend)
            if model
            else ModelSpec(definition.id, definition.backend)
        )
        kind = definition.kind or spec.kind
        return replace(
            spec,
            kind=kind,
            aliases=definition.aliases,
            settings=definition.settings,
            meta={**spec.meta, "kind": kind.value},
        )

    def _add_found(self, found: Mapping[str, Found], specs: dict[str, ModelSpec], problems: list[str]) -> None:
        """Add the files that no definition serves; those that one does keep their file's name as an alias."""
        by_path: dict[str | None, list[ModelSpec]] = {}
        for spec in specs.values():
            by_path.setdefault(spec.path, []).append(spec)
        for model_id, model in found.items():
            users = by_path.get(str(model.path.absolute()), [])
            if len(users) == 1 and users[0].id != model_id and model_id not in specs:
                user = users[0]
                specs[user.id] = replace(user, aliases=tuple(dict.fromkeys((*user.aliases, model_id))))
            elif not users and model_id in specs:
                problems.append(f"{model.path}: another model is defined as {model_id!r}; rename the file to serve it")
            elif not users and self.options.backend:
                specs[model_id] = self._spec(model, model_id, self.options.backend)

    def _add_files(self, specs: dict[str, ModelSpec], files: dict[Path, None], problems: list[str]) -> list[str]:
        """Add the files named at the command line. Return their ids."""
        ids: list[str] = []
        backend = self.options.backend
        if backend is None:
            problems += [f"{path}: no enabled plugin brings an engine for files" for path in self.options.files]
            return ids
        for path in map(Path.absolute, self.options.files):
            files[path] = None
            try:
                model = examine(path, self._headers)
            except ModelFileError as error:
                problems.append(error.message)
                continue
            if model is None:
                problems.append(f"{path}: it is an adapter or a part of a model")
                continue
            same = next((spec.id for spec in specs.values() if spec.path == str(model.path.absolute())), None)
            model_id = same or model.id
            if same is None:
                if model_id in specs:
                    problems.append(f"{specs[model_id].path}: {path} is served as {model_id!r} instead")
                specs[model_id] = self._spec(model, model_id, backend)
            ids.append(model_id)
        return ids

    def _choose_defaults(self, file_ids: list[str], problems: list[str]) -> dict[ModelKind, str | None]:
        first_file = file_ids[0] if file_ids else None
        chat = first_file or self._choose_default(ModelKind.CHAT, file_ids, problems)
        embedding = self._choose_default(ModelKind.EMBEDDING, file_ids, problems)
        reranker = self._choose_default(ModelKind.RERANKER, file_ids, problems)
        if reranker is None and self.options.default_reranker is None:
            reranker = embedding  # an embedding model ranks too, by the distance of its vectors
        return {ModelKind.CHAT: chat, ModelKind.EMBEDDING: embedding, ModelKind.RERANKER: reranker}

    def _choose_default(self, kind: ModelKind, file_ids: list[str], problems: list[str]) -> str | None:
        for model_id in file_ids:
            if self._specs[model_id].kind is kind:
                return model_id
        configured = self._configured_default(kind)
        if configured is not None:
            chosen = self._lookup(configured)
            if chosen is None:
                problems.append(f"{_DEFAULT_KEYS[kind]}: there is no model {configured!r}")
            return chosen
        fitting = [spec.id for spec in self._specs.values() if spec.kind is kind]
        return min(fitting, key=lambda model_id: (model_id in DEMO_MODELS, model_id), default=None)

    def _configured_default(self, kind: ModelKind) -> str | None:
        options = self.options
        return {
            ModelKind.CHAT: options.default,
            ModelKind.EMBEDDING: options.default_embedding,
            ModelKind.RERANKER: options.default_reranker,
        }[kind]

    def _lookup(self, name: str) -> str | None:
        for candidate in (name, name.removesuffix(".gguf")):
            if candidate in self._specs:
                return candidate
            if candidate in self._names:
                return self._names[candidate]
        return None

    def _broken_file(self, name: str | None) -> ModelFileError | None:
        name = (name or "").removesuffix(".gguf")
        reason = self._broken.get(name)
        return ModelFileError(f"Model {name!r} can't be served. {reason}.", param="model") if reason else None

    def _not_found(self, name: str | None, kind: ModelKind) -> ModelNotFoundError:
        known = list(self._specs)
        place = self.options.directory / kind.value
        if not known:
            message = f"This server has no models yet: put a GGUF file into {place}."
        elif name is None and kind is not ModelKind.CHAT:
            message = (
                f"The request names no model, and there is no default one to {_WORK[kind]}: put a GGUF file into "
                f"{place}, or set {_DEFAULT_KEYS[kind]}. Known models: {_list_ids(known)}."
            )
        elif name is None:
            message = f"The request names no model, and there is no default one. Known models: {_list_ids(known)}."
        else:
            message = f"There is no model {name[:100]!r}. Known models: {_list_ids(known)}."
        return ModelNotFoundError(message, param="model", detail={"models": known})


def _list_ids(known: list[str]) -> str:
    more = f" and {len(known) - _LISTED_IN_ERRORS} more" if len(known) > _LISTED_IN_ERRORS else ""
    return ", ".join(known[:_LISTED_IN_ERRORS]) + more


def _by_id(models: list[Found], problems: list[str]) -> dict[str, Found]:
    found: dict[str, Found] = {}
    for model in models:
        first = found.setdefault(model.id, model)
        if first is not model:
            problems.append(f"{model.path}: {first.path} is already served as {model.id!r}; rename one of the files")
    return found


def _collect_names(specs: Mapping[str, ModelSpec], problems: list[str]) -> dict[str, str]:
    """Return id by alias; an alias that is taken is a problem, and the first owner keeps it."""
    names: dict[str, str] = {}
    for spec in specs.values():
        for alias in spec.aliases:
            owner = alias if alias in specs else names.setdefault(alias, spec.id)
            if owner != spec.id:
                problems.append(f"alias {alias!r} of {spec.id!r} already names {owner!r}")
    return names
