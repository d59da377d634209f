"""From the command line to a checked configuration, registered plugins and the catalogue of models."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from localllm.config.definitions import check_definitions, shared_settings
from localllm.config.errors import ConfigError, suggestion
from localllm.config.layers import Layers, find_file, read_layers
from localllm.config.load import check_config, enabled_plugins
from localllm.config.schema import Config, ModelsSection
from localllm.contract.model import ModelDefinition, RequestRules
from localllm.models.catalog import Catalog, CatalogOptions
from localllm.models.stores import find_stores
from localllm.plugin_discovery import PluginError, find_plugins, select_plugins
from localllm.plugin_manager import PluginManager, load_plugins
from localllm.server.pulling import check_sources


@dataclass(frozen=True, slots=True)
class Reading:
    """A checked configuration, the layers that it was made from, and the plugins that it enables, imported."""

    config: Config
    layers: Layers
    plugins: PluginManager


@dataclass(frozen=True, slots=True)
class Startup:
    """All that the server needs: the configuration is frozen, plugins have registered, models are known."""

    config: Config
    layers: Layers
    plugins: PluginManager
    catalog: Catalog


def read_config(path: Path | None, overrides: Sequence[str], environ: Mapping[str, str] | None = None) -> Reading:
    """Read the configuration and import the plugins that it enables; they have not registered yet.

    ``environ`` defaults to the process's. Raises ``ConfigError`` and ``PluginError``.
    """
    layers = read_layers(find_file(path), os.environ if environ is None else environ, overrides)
    plugins = load_plugins(enabled_plugins(layers))
    return Reading(check_config(layers, plugins.sections, installed=plugins.installed), layers, plugins)


def read_again(path: Path | None, overrides: Sequence[str], plugins: PluginManager) -> Config:
    """Read the configuration of a server that runs with ``plugins``, which stay as they are.

    A plugin that is to be enabled must be installed; its settings are checked when it is imported, at the restart.
    Raises ``ConfigError``.
    """
    layers = read_layers(find_file(path), os.environ, overrides)
    installed = find_plugins()
    try:
        select_plugins(enabled_plugins(layers), installed)
    except PluginError as error:
        raise ConfigError([str(error)]) from None
    return check_config(layers, plugins.sections, installed=[source.name for source in installed])


def prepare(
    path: Path | None,
    overrides: Sequence[str],
    *,
    files: Sequence[Path] = (),
    environ: Mapping[str, str] | None = None,
) -> Startup:
    """Do everything that comes before listening. ``files`` are models named at the command line.

    Raises ``ConfigError`` and ``PluginError``.
    """
    reading = read_config(path, overrides, environ)
    reading.plugins.register(reading.config)
    catalog = build_catalog(reading.config, reading.plugins, files)
    return Startup(reading.config, reading.layers, reading.plugins, catalog)


def build_catalog(config: Config, plugins: PluginManager, files: Sequence[Path] = ()) -> Catalog:
    """Return the catalogue of the configuration's models. Raises ``ConfigError`` for wrong definitions."""
    backends, sections = plugins.backends, _backend_sections(config, plugins)
    name = config.models.backend
    backend = backends.get(name)
    if backend is None and name != ModelsSection().backend:
        sentence = f"models.backend: no enabled plugin brings a backend named {name!r}" + suggestion(name, backends)
        raise ConfigError([sentence])
    return Catalog(
        CatalogOptions(
            directory=config.models.directory,
            backend=name if backend is not None else None,
            settings=shared_settings(backend, sections.get(name)) if backend else {},
            definitions=check_sources(
                config, plugins, _check_requests(config, check_definitions(config, backends, sections))
            ),
            registered=plugins.models,
            default=config.models.default,
            default_embedding=config.models.default_embedding,
            default_reranker=config.models.default_reranker,
            files=tuple(files),
            stores=find_stores(config.models.stores, os.environ, config.source.parent if config.source else Path.cwd()),
        )
    )


def _check_requests(config: Config, definitions: Mapping[str, ModelDefinition]) -> Mapping[str, ModelDefinition]:
    """Return the definitions with what they make of requests checked. Raises ``ConfigError`` with all faults."""
    if all(one.rules == RequestRules() and not one.preload for one in definitions.values()):
        return definitions
    from localllm.openai.rule_checks import preload_prompts, rule_faults  # pydantic: most commands do without it

    label = f"{config.source.name}: " if config.source else ""
    problems: list[str] = []
    checked: dict[str, ModelDefinition] = {}
    for model_id, definition in definitions.items():
        faults = rule_faults(definition.rules)
        if not faults:
            prompts, faults = preload_prompts(definition)
            checked[model_id] = replace(definition, preload=prompts)
        problems += [
            f"{label}models.define.{model_id}.{fault.key}: {fault.sentence}{suggestion(fault.name, fault.known)}"
            for fault in faults
        ]
    if problems:
        raise ConfigError(problems)
    return checked


def live_plugins(plugins: PluginManager) -> frozenset[str]:
    """Return the plugins whose section only engines and sources look at: it applies to the next load, the next pull.

    Others have read theirs when they registered routes or middleware, and keep it until the server starts again.
    """
    backends, sections = plugins.backends, plugins.sections
    owners = {owner for name, owner in plugins.backend_owners.items() if backends[name].settings is sections.get(owner)}
    readers = {one.plugin.name for one in plugins.routes} | {one.plugin for one in plugins.middleware}
    return frozenset({*owners, *plugins.source_owners.values()} & set(sections) - readers)


def _backend_sections(config: Config, plugins: PluginManager) -> dict[str, Any]:
    """Return for each engine the ``[plugin.<name>]`` of the plugin that brought it, where that has one."""
    owners = plugins.backend_owners
    return {engine: config.plugin[owner] for engine, owner in owners.items() if owner in config.plugin}
