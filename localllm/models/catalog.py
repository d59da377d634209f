"""Which models there are: found files, the stores of other programs, the configuration's and the plugins' models."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from localllm.contract.errors import ModelFileError
from localllm.contract.model import ModelDefinition, ModelKind, ModelSpec
from localllm.models.discovery import Found, examine_file
from localllm.models.fetched import file_fetched_from, not_fetched, other_origin
from localllm.models.file_names import fold
from localllm.models.folders import FOLDERS, list_models_folder
from localllm.models.headers import Stamp, stamp
from localllm.models.listing import Candidate, Place
from localllm.models.naming import Names, choose_defaults, not_found
from localllm.models.stores import Store
from localllm.models.survey import Survey, Surveyor

_START_SECONDS = 2.0
"""How long the start may read headers in stores; the models' own folder is always read to the end."""

_LOOK_SECONDS = 0.05
"""How long one later look may read headers, beyond the first: requests wait for it."""


@dataclass(frozen=True, slots=True)
class CatalogOptions:
    """What the catalogue is made of.

    ``backend`` and ``settings`` (plain JSON) are for files that no definition names; None: no plugin can serve files.
    ``files`` are served from wherever they lie; the first of them is the default model, and the first of a kind that
    kind's. ``default``, and those for embeddings and reranking, may be an id, an alias or a file name. ``stores`` come
    after the folder, in their order. The disk is looked at ``look_seconds`` after the last time, at the earliest.
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
    stores: tuple[Store, ...] = ()
    look_seconds: float = 0.2


class Catalog:
    """The models by name. A file that comes, goes or changes is noticed by a later call, for the price of a few stats.

    All methods belong to one thread. What can't be served is a sentence in :attr:`problems` and stops nothing else.
    ``clock`` is monotonic, in seconds.
    """

    def __init__(self, options: CatalogOptions, clock: Callable[[], float] = time.monotonic) -> None:
        self.options = options
        self._clock = clock
        self._surveyor = Surveyor()
        self._headers = self._surveyor.headers
        stores = [Place(store.look, clock) for store in options.stores]
        self._places = [Place(partial(list_models_folder, options.directory), clock), *stores]
        self._build(self._reader(_START_SECONDS, lambda candidate: candidate.store is None))
        self._next_look = clock() + options.look_seconds

    def create_folders(self) -> None:
        """Make ``chat/``, ``embedding/`` and ``reranker/``, so that a user sees where models go. Raises ``OSError``."""
        for name in FOLDERS:
            (self.options.directory / name).mkdir(parents=True, exist_ok=True)

    def specs(self) -> Mapping[str, ModelSpec]:
        """Return all models by id, in the order of their ids."""
        self._look()
        return self._specs

    @property
    def problems(self) -> tuple[str, ...]:
        """What could not be served, one sentence each."""
        self._look()
        return tuple(self._problems)

    @property
    def default(self) -> str | None:
        """The id of the model that answers when a request names none."""
        self._look()
        return self._defaults[ModelKind.CHAT]

    def default_of(self, kind: ModelKind) -> str | None:
        """The id of the model that does what models of ``kind`` are for when a request names none."""
        self._look()
        return self._defaults[kind]

    @property
    def arriving(self) -> Mapping[str, ModelDefinition]:
        """The definitions, by id, whose file is not there and has a source to be fetched from."""
        self._look()
        return self._arriving

    @property
    def configured_defaults(self) -> Mapping[ModelKind, str | None]:
        """The names that are configured for requests without one, whether there are such models or not."""
        return self._configured

    def resolve(self, name: str | None, kind: ModelKind = ModelKind.CHAT) -> ModelSpec:
        """Return the model that ``name`` means: an id, an alias, a file's name with or without ".gguf".

        None is the default model for what models of ``kind`` are for. Raises :class:`ModelNotFoundError` with the known
        ids, and :class:`ModelFileError` for a file that is there but can't be read.
        """
        self._look()
        wanted = self._configured[kind] if name is None else name
        model_id = self._find(name, kind)
        if model_id is None:
            self._look(at_once=True, wanted=wanted)  # it may have come in this moment
            model_id = self._find(name, kind)
        if model_id is None:
            raise (
                self._broken_file(wanted)
                or not_fetched(wanted, self._arriving)
                or not_found(name, kind, list(self._specs), self.options.directory)
            )
        return self._specs[model_id]

    def look(self, wanted: str | None = None) -> None:
        """Notice now what changed on the disk: a file has just come, that of the model ``wanted``."""
        self._look(at_once=True, wanted=wanted)

    def refresh(self) -> None:
        """Look at everything on the disk again, to the end; files that did not change are not read again."""
        for place in self._places:
            place.look_again()
        self._build(lambda candidate: True)

    def _look(self, *, at_once: bool = False, wanted: str | None = None) -> None:
        """Notice what changed, ``at_once`` even within moments of another change.

        Of what is not read yet, read a little more, and what is ``wanted``.
        """
        now = self._clock()
        if now < self._next_look and not at_once:
            return
        self._next_look = now + self.options.look_seconds
        changed = [place for place in self._places if place.changed(hidden=at_once)]
        for place in changed:
            place.look_again()
        if changed or self._pending or any(stamp(path) != known for path, known in self._stamps.items()):
            self._build(self._reader(_LOOK_SECONDS, lambda one: wanted in (one.id, *one.aliases)))

    def _reader(self, seconds: float, always: Callable[[Candidate], bool]) -> Callable[[Candidate], bool]:
        """Return what allows headers to be read: one at least, more until the time is up, and some in any case."""
        deadline: float | None = None

        def may_read(candidate: Candidate) -> bool:
            nonlocal deadline
            now = self._clock()
            deadline = now + seconds if deadline is None else deadline
            return now <= deadline or always(candidate)

        return may_read

    def _build(self, may_read: Callable[[Candidate], bool]) -> None:
        """Make specs, names and defaults from what the places list."""
        options = self.options
        result = self._surveyor.survey([place.listing for place in self._places], may_read)
        problems, files = result.problems, result.files
        self._broken, self._pending = result.broken, result.pending
        self._arriving: dict[str, ModelDefinition] = {}
        found = result.found if options.backend else {}
        if result.found and not options.backend:
            problems.append(f"{options.directory}: no enabled plugin brings an engine for its files; enable llama_cpp")
        specs = {spec.id: spec for spec in options.registered}
        by_path = {model.path: model for model in result.found.values()}
        for definition in options.definitions.values():
            if definition.path:
                files.setdefault(Path(definition.path), stamp(Path(definition.path)))
            spec = self._from_definition(definition, found, by_path, problems)
            if spec is not None:
                specs[spec.id] = spec
        self._add_found(found, specs, problems)
        file_ids = self._add_files(specs, files, problems)
        if result.pending:
            problems.append(f"{len(result.pending)} models were not read yet; they appear one after the other")
        self._specs = dict(sorted(specs.items()))
        self._names = Names(self._specs, problems)
        self._configured = {
            ModelKind.CHAT: options.default,
            ModelKind.EMBEDDING: options.default_embedding,
            ModelKind.RERANKER: options.default_reranker,
        }
        arriving = {fold(name) for one in self._arriving.values() for name in (one.id, *one.aliases)}
        self._defaults = choose_defaults(self._specs, self._names, self._configured, file_ids, problems, arriving)
        self._finish(result)

    def _finish(self, result: Survey) -> None:
        self._problems = result.problems
        self._stamps: dict[Path, Stamp | None] = result.files
        self._headers.keep_only(result.files)

    def _spec(self, model: Found, model_id: str, backend: str) -> ModelSpec:
        return ModelSpec(
            id=model_id,
            backend=backend,
            kind=model.kind,
            path=str(model.path.absolute()),
            aliases=model.candidate.aliases if model_id == model.id else (),
            settings=self.options.settings,
            created=model.created,
            meta=model.meta,
            tags=model.tags,
        )

    def _from_definition(
        self,
        definition: ModelDefinition,
        found: Mapping[str, Found],
        by_path: Mapping[Path, Found],
        problems: list[str],
    ) -> ModelSpec | None:
        """Return the spec of one definition, or None after saying why not."""
        model = found.get(definition.id)
        if definition.source is not None:
            model = file_fetched_from(definition.source, self.options.directory, by_path) or model
            if model is None:
                if definition.id not in self._broken and definition.id not in self._pending:
                    self._arriving[definition.id] = definition
                return None
            problems += other_origin(definition, self.options.directory, model)
        if definition.path is not None:
            path = Path(definition.path)
            try:
                model = by_path.get(path) or examine_file(path, self._headers)
            except ModelFileError as error:
                problems.append(f"models.define.{definition.id}: {error.message}")
                self._broken |= dict.fromkeys((definition.id, *definition.aliases), error.message)
                return None
            if model is None:
                problems.append(f"models.define.{definition.id}: {path} is an adapter or a part of a model")
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
            aliases=tuple(dict.fromkeys((*definition.aliases, *spec.aliases))),
            settings=definition.settings,
            meta={**spec.meta, "kind": kind.value},
            tags=tuple(dict.fromkeys((*definition.tags, *spec.tags))),
            ttl_seconds=definition.ttl_seconds,
            pinned=definition.pinned,
            rules=definition.rules,
            preload=definition.preload,
            min_instances=definition.min_instances,
            max_instances=definition.max_instances,
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
                names = (*user.aliases, model_id, *model.candidate.aliases)
                specs[user.id] = replace(user, aliases=tuple(dict.fromkeys(names)))
            elif not users and model_id in specs:
                problems.append(f"{model.path}: another model is defined as {model_id!r}; rename the file to serve it")
            elif not users and self.options.backend:
                specs[model_id] = self._spec(model, model_id, self.options.backend)

    def _add_files(
        self, specs: dict[str, ModelSpec], files: dict[Path, Stamp | None], problems: list[str]
    ) -> list[str]:
        """Add the files named at the command line. Return their ids."""
        ids: list[str] = []
        backend = self.options.backend
        if backend is None:
            problems += [f"{path}: no enabled plugin brings an engine for files" for path in self.options.files]
            return ids
        for path in map(Path.absolute, self.options.files):
            files.setdefault(path, stamp(path))
            try:
                model = examine_file(path, self._headers)
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

    def _find(self, name: str | None, kind: ModelKind) -> str | None:
        return self._defaults[kind] if name is None else self._names.find(name)

    def _broken_file(self, name: str | None) -> ModelFileError | None:
        name = (name or "").removesuffix(".gguf")
        reason = self._broken.get(name)
        return ModelFileError(f"Model {name!r} can't be served. {reason}.", param="model") if reason else None
