"""Commands that plugins bring, as ``localllm PLUGIN COMMAND``; a plugin is imported only when it is named."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command, get_group

from localllm.cli.failure import explain_failures
from localllm.cli.options import ConfigOption, SetOption


class GroupWithPlugins(TyperGroup):
    """Our own commands, and below the name of each installed plugin those that it brings."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401 - what typer calls so depends on its version
        """Return a command of ours, or what stands for the plugin of that name; None for neither."""
        found = super().get_command(ctx, cmd_name)
        if found is not None:
            return found
        from localllm.plugin_discovery import find_plugins

        return _plugin_group(cmd_name) if any(source.name == cmd_name for source in find_plugins()) else None


class _PluginGroup(TyperGroup):
    """The commands of one plugin. Which these are is known once the configuration is read and plugins registered."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401
        super().__init__(**options)
        self._commands: dict[str, Any] | None = None

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401
        """Return their names."""
        return sorted(self._load(ctx))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401
        """Return one of them, or None."""
        return self._load(ctx).get(cmd_name)

    def _load(self, ctx: Any) -> dict[str, Any]:  # noqa: ANN401
        if self._commands is None:
            with explain_failures():
                self._commands = _load_commands(ctx, self.name or "")
        return self._commands


def _load_commands(ctx: Any, name: str) -> dict[str, Any]:  # noqa: ANN401
    """Return a plugin's commands, with its context as their ``ctx.obj``. Raises ``ConfigError``, ``PluginError``."""
    from localllm.cli.startup import read_config
    from localllm.plugin_discovery import PluginError

    path: Path | None = ctx.params.get("config")
    reading = read_config(path, ctx.params.get("settings") or [])
    reading.plugins.register(reading.config)
    found = reading.plugins.commands_of(name)
    if found is None:
        message = f"the plugin {name!r} is not enabled, or brings no commands; `localllm plugins` lists what is enabled"
        raise PluginError(message)
    target, ctx.obj = found
    module, _, attribute = target.partition(":")
    return dict(get_group(getattr(import_module(module), attribute)).commands)


def _plugin_group(name: str) -> Any:  # noqa: ANN401
    group = typer.Typer(
        name=name,
        cls=_PluginGroup,
        no_args_is_help=True,
        add_completion=False,
        help=f"What the plugin {name!r} brings to the command line.",
    )

    @group.callback()
    def _options(config: ConfigOption = None, settings: SetOption = None) -> None:
        """Take what says which plugins there are."""

    return get_command(group)
