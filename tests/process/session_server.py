"""A whole server on a real port that keeps conversations, around a scripted model: ``session_server.py FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

from localllm.config.layers import DEFAULT_FILE, Layers
from localllm.config.load import check_config
from localllm.plugin_manager import load_plugins
from localllm.server.run import serve_models
from localllm.testing.app import ScriptedModels


def main() -> int:
    folder = Path(sys.argv[1])
    plugins = load_plugins(["chat", "sessions"])
    table = {"state_directory": str(folder / "state"), "server": {"port": 0}}
    config = check_config(Layers(table, folder / DEFAULT_FILE), plugins.sections)
    plugins.register(config)
    return serve_models(config, plugins, ScriptedModels)


if __name__ == "__main__":
    sys.exit(main())
