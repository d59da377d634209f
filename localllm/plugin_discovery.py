"""Finds installed plugins by their entry points and imports those that are enabled, one at a time, by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from localllm.config.errors import nearest

GROUP = "localllm"
BUILT_INS = (
    "chat",
    "completions",
    "embeddings",
    "rerank",
    "tokenize",
    "sessions",
    "responses",
    "myllm",
    "llama_cpp",
    "sources",
)
"""Our own plugins in the order in which they run when no ``[plugins] enabled`` says otherwise."""


class PluginError(Exception):
    """A plugin keeps the server from starting. The message names the plugin, its distribution and its version."""


@dataclass(frozen=True, slots=True)
class PluginSource:
    """Where a plugin comes from."""

    name: str
    distribution: str
    version: str
    entry_point: EntryPoint

    def __str__(self) -> str:
        return f"plugin {self.name!r} ({self.distribution} {self.version})"

    def error(self, sentence: str) -> PluginError:
        """Return the error to raise about this plugin."""
        return PluginError(f"{self}: {sentence}")


def find_plugins(found: Iterable[EntryPoint] | None = None) -> list[PluginSource]:
    """Return all installed plugins without importing one: the built-in ones first, then by name.

    ``found`` replaces what is installed, for tests.
    """
    sources = []
    for entry_point in entry_points(group=GROUP) if found is None else found:
        distribution = entry_point.dist
        name, version = (distribution.name, distribution.version) if distribution else ("no distribution", "?")
        sources.append(PluginSource(entry_point.name, name, version, entry_point))
    return sorted(sources, key=lambda source: (_built_in_rank(source), source.name, source.distribution))


def select_plugins(enabled: Sequence[str] | None, available: Sequence[PluginSource]) -> list[PluginSource]:
    """Return the plugins of the allow-list in its order; None stands for all built-in ones.

    Raises :class:`PluginError` for a name that nothing installed provides, or that two distributions provide.
    """
    if enabled is None:
        return [source for source in available if _built_in_rank(source) < len(BUILT_INS)]
    selected = []
    for name in enabled:
        sources = [source for source in available if source.name == name]
        if not sources:
            raise PluginError(_not_installed(name, available))
        if len(sources) > 1:
            owners = " and ".join(f"{source.distribution} {source.version}" for source in sources)
            message = f"plugins.enabled: {owners} both provide a plugin {name!r}; uninstall one of them"
            raise PluginError(message)
        selected += sources
    return selected


def import_plugin(source: PluginSource) -> Any:  # noqa: ANN401
    """Import what the entry point names: a module, or an object that holds the hooks. Raises :class:`PluginError`."""
    try:
        plugin = source.entry_point.load()
    except Exception as error:
        sentence = f"importing {source.entry_point.value} failed: {type(error).__name__}: {error}"
        raise source.error(sentence) from error
    if isinstance(plugin, type):
        sentence = f"{source.entry_point.value} is a class; let the entry point name a module or an instance"
        raise source.error(sentence)
    return plugin


def _built_in_rank(source: PluginSource) -> int:
    if source.distribution == GROUP and source.name in BUILT_INS:
        return BUILT_INS.index(source.name)
    return len(BUILT_INS)


def _not_installed(name: str, available: Sequence[PluginSource]) -> str:
    names = sorted({source.name for source in available})
    match = nearest(name, names)
    advice = (
        f"did you mean {match!r}?"
        if match
        else f"install the distribution that provides it with pip (its entry point in group {GROUP!r} has this name)"
    )
    installed = ", ".join(names) or "none"
    return f"plugins.enabled: no installed plugin is called {name!r}; {advice} (installed are: {installed})"
