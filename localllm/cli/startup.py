"""From the command line to a checked configuration, registered plugins and the catalogue of models."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from localllm.config.definitions import check_definitions, shared_settings
from localllm.config.errors import ConfigError, suggestion
from localllm.config.layers import find_file, read_layers
from localllm.config.load import check_config, enabled_plugins
from localllm.config.schema import Config, ModelsSection
from localllm.models.catalog import Catalog, CatalogOptions
from localllm.plugin_manager import PluginManager, load_plugins


@dataclass(frozen=True, slots=True)
class Startup:
    """All that the server needs: the configuration is frozen, plugins have registered, models are known."""

    config: Config
    plugins: PluginManager
    catalog: Catalog


def read_config(
    path: Path | None, overrides: Sequence[str], environ: Mapping[str, str] | None = None
) -> tuple[Config, PluginManager]:
    """Read the configuration and import the plugins that it enables; they have not registered yet.

    ``environ`` defaults to the process's. Raises ``ConfigError`` and ``PluginError``.
    """
    layers = read_layers(find_file(path), os.environ if environ is None else environ, overrides)
    plugins = load_plugins(enabled_plugins(layers))
    return check_config(layers, plugins.sections, installed=plugins.installed), plugins


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
    config, plugins = read_config(path, overrides, environ)
    plugins.register(config)
    return Startup(config, plugins, build_catalog(config, plugins, files))


def build_catalog(config: Config, plugins: PluginManager, files: Sequence[Path] = ()) -> Catalog:
    """Return the catalogue of the configuration's models. Raises ``ConfigError`` for wrong definitions."""
    backends, sections = plugins.backends, plugins.backend_sections
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
            definitions=check_definitions(config, backends, sections),
            registered=plugins.models,
            default=config.models.default,
            default_embedding=config.models.default_embedding,
            default_reranker=config.models.default_reranker,
            files=tuple(files),
        )
    )
