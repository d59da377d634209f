"""Makes a checked :class:`Config` of the layers: what is wrong is reported with the key's path, all faults at once."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from localllm.config.convert import Text, UnfitError, fit, read_section, section_fields
from localllm.config.errors import ConfigError, suggestion
from localllm.config.layers import Layers, find_file, put_plugin_variables, read_layers
from localllm.config.schema import OBSOLETE_KEYS, SECTIONS, Config, ServerSection


def load_config(
    path: Path | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    overrides: Sequence[str] = (),
    sections: Mapping[str, type] | None = None,
) -> Config:
    """Read and check a configuration whose plugins' ``sections`` are known.

    None as path means ``./localllm.toml`` if there is one, else the defaults. Raises :class:`ConfigError`. The server
    goes in steps, for the file says which plugins, and so which sections, there are: :func:`read_layers`, then
    :func:`enabled_plugins`, then :func:`check_config`.
    """
    layers = read_layers(find_file(path), environ or {}, overrides)
    return check_config(layers, sections or {})


def enabled_plugins(layers: Layers) -> list[str] | None:
    """Return ``plugins.enabled``, or None when all built-in plugins are meant. Raises :class:`ConfigError`."""
    table = layers.table.get("plugins")
    value = table.get("enabled") if isinstance(table, dict) else None
    try:
        names: list[str] | None = fit(value, list[str] | None, layers.base)
    except UnfitError as error:
        raise ConfigError([f"{layers.label('plugins.enabled')}: {error}"]) from None
    for name in names or ():
        if names and names.count(name) > 1:
            raise ConfigError([f"{layers.label('plugins.enabled')}: {name!r} is named twice"])
    return names


def read_server_section(layers: Layers) -> ServerSection:
    """Return ``[server]`` alone, for whoever only wants to know where the server is. Raises :class:`ConfigError`."""
    problems = list(layers.problems)

    def report(path: str, sentence: str) -> None:
        problems.append(f"{layers.label(path)}: {sentence}")

    table = layers.table.get("server", {})
    if not isinstance(table, dict):
        report("server", "must be a table: write [server]")
    section = read_section(ServerSection, table, "server", base=layers.base, report=report) if not problems else None
    if section is None:
        raise ConfigError(problems)
    return section


def check_config(
    layers: Layers,
    sections: Mapping[str, type],
    *,
    installed: Iterable[str] = (),
    obsolete: Mapping[str, str] = OBSOLETE_KEYS,
) -> Config:
    """Return the checked configuration. ``sections`` are those of the enabled plugins.

    ``installed`` names plugins that may have a table although they are not enabled. Raises :class:`ConfigError`.
    """
    return _Check(layers, sections, tuple(installed), obsolete).run()


class _Check:
    """One pass over the merged tables, collecting problems."""

    def __init__(
        self, layers: Layers, sections: Mapping[str, type], installed: tuple[str, ...], obsolete: Mapping[str, str]
    ) -> None:
        self.layers = layers
        self.sections = sections
        self.installed = installed
        self.obsolete = obsolete
        self.problems = list(layers.problems)

    def run(self) -> Config:
        self.problems += put_plugin_variables(self.layers, self.sections, self.installed)
        self._take_out_obsolete(self.layers.table, "")
        table = dict(self.layers.table)
        values: dict[str, Any] = {
            name: self._section(name, kind, table.pop(name, {})) for name, kind in SECTIONS.items()
        }
        values["plugin"] = self._plugins(table.pop("plugin", {}))
        top = {name: table.pop(name) for name in ("state_directory",) if name in table}
        self._refuse_unknown(table)
        values["state_directory"] = self._path(top.get("state_directory", Text("state")), "state_directory")
        if values["server"] is not None:
            for path, sentence in server_problems(values["server"]):
                self._report(path, sentence)
        if self.problems:
            raise ConfigError(self.problems)
        return Config(**values, source=self.layers.source)

    def _report(self, path: str, sentence: str) -> None:
        self.problems.append(f"{self.layers.label(path)}: {sentence}")

    def _section(self, path: str, kind: type, table: Any) -> Any:  # noqa: ANN401
        if not isinstance(table, dict):
            self._report(path, f"must be a table: write [{path}]")
            return None
        return read_section(kind, table, path, base=self.layers.base, report=self._report)

    def _path(self, value: Any, path: str) -> Path | None:  # noqa: ANN401
        try:
            found: Path = fit(value, Path, self.layers.base)
        except UnfitError as error:
            self._report(path, str(error))
            return None
        return found

    def _plugins(self, tables: Any) -> dict[str, Any]:  # noqa: ANN401
        if not isinstance(tables, dict):
            self._report("plugin", "must be a table: write [plugin.<name>]")
            return {}
        for name, table in tables.items():
            if name in self.sections or name in self.installed:
                continue
            known = [f"plugin.{other}" for other in (*self.sections, *self.installed)]
            path = f"plugin.{name}"
            self._report(path, "no installed plugin of this name has settings" + suggestion(path, known))
            if not isinstance(table, dict):
                self._report(path, f"must be a table: write [{path}]")
        return {
            name: self._section(f"plugin.{name}", kind, tables.get(name, {})) for name, kind in self.sections.items()
        }

    def _take_out_obsolete(self, table: dict[str, Any], prefix: str) -> None:
        for key in list(table):
            path = prefix + key
            if path in self.obsolete:
                self._report(path, self.obsolete[path])
                del table[key]
            elif isinstance(table[key], dict):
                self._take_out_obsolete(table[key], f"{path}.")

    def _refuse_unknown(self, table: Mapping[str, Any]) -> None:
        known = ["state_directory", "plugin", *SECTIONS]
        known += [f"{section}.{key}" for section, kind in SECTIONS.items() for key in section_fields(kind)]
        for key in table:
            self._report(key, "unknown key" + suggestion(key, known))


def server_problems(server: ServerSection) -> Iterator[tuple[str, str]]:
    """Yield what bounds and types can't say of ``[server]``: each key, and the sentence that says what is wrong."""
    for number, key in enumerate(server.api_keys, start=1):
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            yield "server.api_keys", f"key {number} is empty or has characters that no HTTP header can carry"
    if not server.host:
        yield "server.host", "is empty; write 127.0.0.1, or 0.0.0.0 to listen on all addresses"
    elif not (is_loopback(server.host) or server.api_keys or server.allow_public_without_key):
        sentence = (
            f"{server.host} is open to other machines, and no API key is set: set server.api_keys (or "
            f"LOCALLLM_API_KEYS), or server.allow_public_without_key = true if that is really meant"
        )
        yield "server.host", sentence


def is_loopback(host: str) -> bool:
    """Say whether only programs of this machine can reach a server that listens on ``host``."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
