"""Checks ``[models.define.<id>]`` once the engines are known, and lays a model's own keys over its engine's."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from localllm.config.convert import Report, read_section, section_fields, to_plain
from localllm.config.errors import ConfigError, suggestion
from localllm.config.foreign_keys import in_own_words
from localllm.config.schema import Config, setting
from localllm.contract.backend import BackendSpec
from localllm.contract.generation import ChatPrompt
from localllm.contract.model import ModelDefinition, ModelKind, RequestRules

MAX_ID_CHARACTERS = 200
MAX_TAG_CHARACTERS = 64
MAX_INSTANCES = 64


@dataclasses.dataclass(frozen=True, slots=True)
class DefinitionSection:
    """``[models.define.<id>]``: one model by name. All other keys are its backend's own."""

    path: Path | None = setting(None, "The GGUF file. Absent: the found file of this name, or a backend without files.")
    source: str | None = setting(
        None,
        "Where a running server fetches the model from if it isn't there: hf:org/repo:Q4_K_M, https://host/file.gguf, "
        "file:/path, or a name of `localllm models list --available`. Not with path.",
    )
    backend: str | None = setting(None, "The engine. Absent: models.backend.")
    kind: ModelKind | None = setting(None, "What the model is for. Absent: what its folder or its header says.")
    aliases: list[str] = setting([], "Other names of the model.")
    tags: list[str] = setting([], "Words to file the model under; shown in GET /v1/models beside those of its header.")
    ttl_minutes: float | None = setting(
        None, "Unload it when it was not used for so long; 0 keeps it. Absent: models.idle_unload_minutes.", minimum=0
    )
    pinned: bool = setting(
        False, "Never unload it in favour of another model, nor for being idle unless it has a ttl_minutes."
    )
    min_instances: int = setting(
        0,
        "Keep so many workers of it loaded, from the start on: they go neither for being idle nor for another model, "
        "and one that dies is replaced.",
        minimum=0,
        maximum=MAX_INSTANCES,
    )
    max_instances: int | None = setting(
        None,
        "Load as many workers of it when all others are busy with as many answers as they write at the same time, and "
        "there is room. Absent: 1, or min_instances where that is more.",
        minimum=1,
        maximum=MAX_INSTANCES,
    )
    system_prompt: str | None = setting(
        None, "Instructions for chats whose messages hold none (of role system or developer)."
    )
    defaults: dict[str, Any] = setting(
        {}, "Fields of requests, such as temperature or max_tokens, that count where a request leaves them out."
    )
    strip: list[str] = setting([], "Fields that are dropped from requests before anything else is done.")
    force: dict[str, Any] = setting({}, "Fields that always count, whatever a request says.")
    preload: list[str | list[dict[str, Any]]] = setting(
        [],
        "Beginnings of conversations that are evaluated as soon as the model is loaded: each a system prompt, or a "
        "list of messages.",
    )


def shared_settings(backend: BackendSpec, section: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return the engine's keys for models that set none of their own, as plain JSON.

    ``section`` is ``[plugin.<name>]`` of the plugin that brought the engine; another type than ``backend.settings``
    means that the plugin's own settings are something else, and the engine's defaults count.
    """
    settings = _settings_object(backend, section)
    return to_plain(settings, keep_none=True) if settings is not None else {}


def check_definitions(
    config: Config, backends: Mapping[str, BackendSpec], sections: Mapping[str, Any]
) -> dict[str, ModelDefinition]:
    """Return the checked definitions by id. ``sections`` holds each backend's plugin section.

    Raises :class:`ConfigError` with all faults: unknown keys and backends, values of a wrong type, names used twice.
    """
    problems: list[str] = []
    definitions: dict[str, ModelDefinition] = {}
    for model_id, table in config.models.define.items():
        found = _definition(config, model_id, table, backends, sections, problems)
        if found is not None:
            definitions[model_id] = found
    _refuse_double_names(config, definitions, problems)
    if problems:
        raise ConfigError(problems)
    return definitions


def _definition(
    config: Config,
    model_id: str,
    table: Mapping[str, Any],
    backends: Mapping[str, BackendSpec],
    sections: Mapping[str, Any],
    problems: list[str],
) -> ModelDefinition | None:
    label = f"{config.source.name}: " if config.source else ""
    base = config.source.parent if config.source else Path.cwd()
    path = f"models.define.{model_id}"

    def report(where: str, sentence: str) -> None:
        problems.append(f"{label}{written.get(where, where)}: {sentence}")

    written: Mapping[str, str] = {}
    if fault := _fault_of_name(model_id):
        report(path, fault)
        return None
    table, written = in_own_words(table, path, report)
    common = {key: value for key, value in table.items() if key in DefinitionSection.__dataclass_fields__}
    own = {key: value for key, value in table.items() if key not in common}
    section = read_section(DefinitionSection, common, path, base=base, report=report)
    if section is None:
        return None
    if section.path is not None and section.source is not None:
        report(f"{path}.source", "a fetched model lies in models.directory; remove either path or source")
    name = section.backend or config.models.backend
    backend = backends.get(name)
    if backend is None:
        report(f"{path}.backend", f"no enabled plugin brings a backend named {name!r}" + suggestion(name, backends))
        return None
    settings = _own_settings(backend, sections.get(name), own, path, base, report)
    if settings is None:
        return None
    _check_words(section, path, report)
    return ModelDefinition(
        id=model_id,
        backend=name,
        path=str(section.path) if section.path else None,
        kind=section.kind,
        aliases=tuple(section.aliases),
        settings=settings,
        tags=tuple(dict.fromkeys(section.tags)),
        ttl_seconds=None if section.ttl_minutes is None else section.ttl_minutes * 60,
        pinned=section.pinned,
        rules=RequestRules(
            section.system_prompt or None,
            to_plain(section.defaults),
            tuple(dict.fromkeys(section.strip)),
            to_plain(section.force),
        ),
        preload=tuple(ChatPrompt(_messages(beginning)) for beginning in section.preload),
        source=section.source,
        min_instances=section.min_instances,
        max_instances=_max_instances(section, path, report),
    )


def _check_words(section: DefinitionSection, path: str, report: Report) -> None:
    for alias in section.aliases:
        if fault := _fault_of_name(alias):
            report(f"{path}.aliases", f"{alias!r}: {fault}")
    for tag in section.tags:
        if len(tag) > MAX_TAG_CHARACTERS or _fault_of_name(tag):
            report(f"{path}.tags", f"{tag[:100]!r}: a tag has 1 to {MAX_TAG_CHARACTERS} printable characters")


def _max_instances(section: DefinitionSection, path: str, report: Report) -> int:
    wanted = section.max_instances or max(1, section.min_instances)
    if section.min_instances > wanted:
        report(f"{path}.max_instances", f"must be at least min_instances ({section.min_instances}), not {wanted}")
    return wanted


def _messages(beginning: str | list[dict[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    """Return what is to be preloaded as messages; nobody has looked into them."""
    if isinstance(beginning, str):
        return ({"role": "system", "content": str(beginning)},)
    messages: list[Mapping[str, Any]] = to_plain(beginning)
    return tuple(messages)


def _own_settings(
    backend: BackendSpec,
    section: Any,  # noqa: ANN401
    own: Mapping[str, Any],
    path: str,
    base: Path,
    report: Any,  # noqa: ANN401
) -> dict[str, Any] | None:
    """Lay a model's own keys over the engine's; None after a fault was reported."""
    shared = _settings_object(backend, section)
    if shared is None or backend.settings is None:
        for key in own:
            known = [f"{path}.{name}" for name in DefinitionSection.__dataclass_fields__]
            report(f"{path}.{key}", "unknown key" + suggestion(f"{path}.{key}", known))
        return None if own else {}
    known = [*section_fields(backend.settings), *DefinitionSection.__dataclass_fields__]
    unknown = [key for key in own if key not in known]
    for key in unknown:
        report(f"{path}.{key}", "unknown key" + suggestion(key, known))
    read = read_section(backend.settings, own, path, base=base, report=report) if not unknown else None
    if read is None:
        return None
    try:
        merged = dataclasses.replace(shared, **{key: getattr(read, key) for key in own})
    except ValueError as error:
        report(path, str(error))
        return None
    plain: dict[str, Any] = to_plain(merged, keep_none=True)
    return plain


def _settings_object(backend: BackendSpec, section: Any) -> Any:  # noqa: ANN401
    if backend.settings is None:
        return None
    return section if isinstance(section, backend.settings) else backend.settings()


def _fault_of_name(name: str) -> str | None:
    if not name or len(name) > MAX_ID_CHARACTERS or not name.isprintable() or name != name.strip():
        return f"a model's name has 1 to {MAX_ID_CHARACTERS} printable characters and no spaces around it"
    return None


def _refuse_double_names(config: Config, definitions: Mapping[str, ModelDefinition], problems: list[str]) -> None:
    label = f"{config.source.name}: " if config.source else ""
    owners = {model_id: model_id for model_id in definitions}
    for model_id, definition in definitions.items():
        for alias in definition.aliases:
            owner = owners.setdefault(alias, model_id)
            if owner != model_id or alias == model_id:
                problems.append(f"{label}models.define.{model_id}.aliases: {alias!r} already names {owner!r}")
