"""Which running server a command talks to: the one that ``--url`` names, or else the configuration's."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from localllm.cli.api import ServerApi, check_url
from localllm.config.errors import ConfigError
from localllm.config.layers import find_file, read_layers
from localllm.config.load import is_loopback, read_server_section
from localllm.config.schema import ServerSection

CLIENT_KEY = "LOCALLLM_CLIENT_KEY"
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where to call what listens everywhere


def find_server(
    url: str | None, config: Path | None, overrides: Sequence[str], environ: Mapping[str, str] | None = None
) -> ServerApi:
    """Return the server to talk to, with the key to send. ``environ`` defaults to the process's.

    Only ``[server]`` is read, and no plugin imported. Raises ``ConfigError``.
    """
    environ = os.environ if environ is None else environ
    server = read_server(config, overrides, environ)
    if url is None:
        address = own_address(server)
    else:
        try:
            address = check_url(url)
        except ValueError as error:
            raise ConfigError([f"--url: {error}"]) from None
    return ServerApi(address, choose_key(address, server, environ))


def read_server(
    config: Path | None, overrides: Sequence[str], environ: Mapping[str, str] | None = None
) -> ServerSection:
    """Return ``[server]`` of the configuration. Raises ``ConfigError``."""
    environ = os.environ if environ is None else environ
    return read_server_section(read_layers(find_file(config), environ, overrides))


def own_address(server: ServerSection) -> str:
    """Return the address of the server that this configuration makes. Raises ``ConfigError`` where it has none yet."""
    if server.port == 0:
        raise ConfigError(["server.port is 0, so that the port is known to the server only; name it with --url"])
    host = _ANY_ADDRESS.get(server.host, server.host).strip("[]")
    return f"http://[{host}]:{server.port}" if ":" in host else f"http://{host}:{server.port}"


def choose_key(address: str, server: ServerSection, environ: Mapping[str, str]) -> str | None:
    """Return the key to send to ``address``. The configuration's own are for this machine and its own host only."""
    if environ.get(CLIENT_KEY):
        return environ[CLIENT_KEY]
    host = urlsplit(address).hostname or ""
    ours = is_loopback(host) or host == server.host.strip("[]").lower()
    return server.api_keys[0] if ours and server.api_keys else None
