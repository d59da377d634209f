"""A whole server process around a scripted model whose configuration is read from a file, for tests of reloads.

Arguments: the state directory, the file. A stream holds until ``POST /release``.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from localllm.config.layers import read_layers
from localllm.config.load import check_config
from localllm.config.schema import Config
from localllm.server.log_setup import set_up_logging
from localllm.server.reload import ConfigSource, file_stamp
from localllm.server.run import serve_models
from tests.server.kit import FakeHost, FakePlugins


def main() -> int:
    state, path = Path(sys.argv[1]), Path(sys.argv[2])

    def read() -> Config:
        return check_config(read_layers(path, os.environ, [f"state_directory={state}"]), {})

    def build_catalog(config: Config) -> Any:
        return SimpleNamespace(problems=())

    stamp = file_stamp(path)
    host = FakeHost()
    plugins = FakePlugins(host)

    async def release(request: Request) -> Response:
        assert host.client.gate is not None
        host.client.gate.set()
        return Response("{}")

    plugins.add("/release", release)

    def make_host() -> Any:
        host.client.gate = asyncio.Event()
        return host

    config = read()
    set_up_logging(config.log)
    return serve_models(config, plugins, make_host, ConfigSource(read, build_catalog, path, stamp))  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.exit(main())
