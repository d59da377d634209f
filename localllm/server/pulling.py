"""What pulls take from the configuration, and who may start them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from localllm.config.convert import to_plain
from localllm.config.errors import ConfigError
from localllm.config.load import is_loopback
from localllm.config.schema import Config
from localllm.models.fetch.job import FetchPolicy
from localllm.models.known import KnownModels, KnownModelsError, read_known_models
from localllm.models.pull_options import PullOptions

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
