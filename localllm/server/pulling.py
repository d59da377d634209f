"""What pulls take from the configuration, and who may start them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from localllm.config.convert import to_plain
from localllm.config.errors import ConfigError
from localllm.config.load import is_loopback
from localllm.config.schema import Config
from localllm.contract.errors import InvalidRequestError
from localllm.contract.model import ModelDefinition
from localllm.models.fetch.job import FetchPolicy
from localllm.models.known import KnownModels, KnownModelsError, read_known_models
from localllm.models.pull_options import PullOptions, make_job

if TYPE_CHECKING:
    from localllm.plugin_manager import PluginManager


def pull_options(config: Config, plugins: PluginManager, *, for_clients: bool) -> PullOptions:
    """Return how models are fetched; ``for_clients`` of a server, or for whoever sits at this machine.

    ``plugins`` have registered. Raises ``ConfigError`` for a catalogue that can't be read.
    """
    models = config.models
    sections = {scheme: config.plugin.get(owner) for scheme, owner in plugins.source_owners.items()}
    return PullOptions(
        directory=models.directory.absolute(),
        sources=plugins.sources,
        settings={scheme: to_plain(section, keep_none=True) for scheme, section in sections.items() if section},
        policy=FetchPolicy(
            private_hosts=models.pull_private_hosts,
            http_hosts=tuple(models.pull_http_hosts),
            stall_seconds=models.pull_stall_seconds,
            min_bytes_per_second=models.pull_min_bytes_per_second,
            reserve_bytes=models.pull_reserve_megabytes * 1_000_000,
        ),
        known=known_models(config),
        local_sources=not for_clients or _clients_may_name_files(config),
    )


def check_sources(
    config: Config, plugins: PluginManager, definitions: Mapping[str, ModelDefinition]
) -> Mapping[str, ModelDefinition]:
    """Return the definitions with their sources as pulls' records have them. Raises ``ConfigError`` with all faults."""
    if all(definition.source is None for definition in definitions.values()):
        return definitions
    options = pull_options(config, plugins, for_clients=False)
    label = f"{config.source.name}: " if config.source else ""
    problems: list[str] = []
    owners: dict[str, str] = {}
    checked = dict(definitions)
    for model_id, definition in definitions.items():
        if definition.source is None:
            continue
        path = f"{label}models.define.{model_id}"
        try:
            job = make_job(options, definition.source, kind=definition.kind, model_id=model_id)
        except InvalidRequestError as error:
            problems.append(f"{path}{'.source' if error.param == 'source' else ''}: {error.message}")
            continue
        owner = owners.setdefault(job.source, model_id)
        if owner != model_id:
            problems.append(
                f"{path}.source: {owner!r} is fetched from there already; give the path of its file instead"
            )
        checked[model_id] = replace(definition, source=job.source, kind=job.kind)
    if problems:
        raise ConfigError(problems)
    return checked


def known_models(config: Config) -> KnownModels:
    """Return the models that can be pulled by name. Raises ``ConfigError``."""
    try:
        return read_known_models(config.models.catalogue)
    except KnownModelsError as error:
        raise ConfigError([f"models.catalogue: {error}"]) from None


def clients_are_known(config: Config) -> bool:
    """Say whether all clients are on this machine, or have an API key."""
    return bool(config.server.api_keys) or is_loopback(config.server.host)


def _clients_may_name_files(config: Config) -> bool:
    allowed = config.models.pull_local_files
    return is_loopback(config.server.host) if allowed is None else allowed
