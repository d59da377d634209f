"""A whole server process around a scripted model, for tests that send signals: arguments are keys of [server]."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import orjson

from localllm.config.schema import Config, LogSection, ServerSection
from localllm.server.log_setup import set_up_logging
from localllm.server.run import serve_models
from tests.server.kit import FakeHost, FakePlugins


def main() -> int:
    state, settings = Path(sys.argv[1]), orjson.loads(sys.argv[2])
    host = FakeHost()
    plugins = FakePlugins(host)

    def make_host() -> Any:
        host.client.gate = asyncio.Event()  # never set: streams stay open
        return host

    config = Config(server=ServerSection(**settings), log=LogSection(level="info"), state_directory=state)
    set_up_logging(config.log)
    code = serve_models(config, plugins, make_host)  # type: ignore[arg-type]
    sys.stdout.write(f"running={host.running} closed={host.closed} open={host.acquired}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
