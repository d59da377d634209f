"""A fresh configuration laid over a running one: what applies, what waits for a restart, what is refused."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from localllm.config.changes import compare, needs_restart
from localllm.config.convert import section_fields
from localllm.config.errors import ConfigError
from localllm.config.load import server_problems
from localllm.config.schema import SECTIONS, Config, ModelsSection, ServerSection, setting
from tests.config.strategies import CONFIGS

RESTART_KEYS = {
    "server": {"host", "port"},
    "log": set(),
    "plugins": {"enabled"},
    "models": {"preload"},
}
"""What a running server can't change. Whoever adds a key decides it here, and makes it true."""


@dataclass(frozen=True, slots=True)
class EngineSection:
    """An engine's keys."""

    threads: int = setting(0, "Threads.")
    seed: int = setting(0, "Seed.")


def changed(section: Any, **values: Any) -> Config:
    name = {kind: name for name, kind in SECTIONS.items()}[type(section)]
    return replace(Config(), **{name: replace(section, **values)})


@pytest.mark.parametrize("section", SECTIONS)
def test_keys_that_need_a_restart_are_these(section: str) -> None:
    kind = SECTIONS[section]
    assert {key for key in section_fields(kind) if needs_restart(kind, key)} == RESTART_KEYS[section]


def test_what_can_change_does_and_the_rest_is_named() -> None:
    fresh = replace(
        changed(ServerSection(), port=1, api_keys=["k"], ping_seconds=1.0), state_directory=Path("elsewhere")
    )
    changes = compare(Config(), fresh, ())
    assert changes.applied == ("server.api_keys", "server.ping_seconds")
    assert changes.needs_restart == ("state_directory", "server.port")
    assert changes.config == replace(fresh, server=replace(fresh.server, port=8000), state_directory=Path("state"))


def test_definitions_are_named_one_by_one() -> None:
    before = changed(ModelsSection(), define={"same": {"a": 1}, "other": {"a": 1}, "gone": {}})
    after = changed(ModelsSection(), define={"same": {"a": 1}, "other": {"a": 2}, "new": {}})
    applied = compare(before, after, ()).applied
    assert applied == ("models.define.other", "models.define.gone", "models.define.new")


def test_an_engines_settings_apply_and_other_plugins_wait() -> None:
    before = Config(plugin={"engine": EngineSection(), "endpoint": EngineSection()})
    after = Config(plugin={"engine": EngineSection(threads=2), "endpoint": EngineSection(threads=2, seed=1)})
    changes = compare(before, after, {"engine"})
    assert changes.applied == ("plugin.engine.threads",)
    assert changes.needs_restart == ("plugin.endpoint.threads", "plugin.endpoint.seed")
    assert changes.config.plugin == {"engine": EngineSection(threads=2), "endpoint": EngineSection()}


def test_keys_can_not_go_while_the_server_listens_for_others() -> None:
    """The file is fine for a server on loopback; the one that runs would stand open until its restart."""
    running = changed(ServerSection(), host="0.0.0.0", api_keys=["k"])
    with pytest.raises(ConfigError) as caught:
        compare(running, Config(), ())
    [problem] = caught.value.problems
    assert "0.0.0.0 is open to other machines" in problem
    assert "(server.host changes only by a restart)" in problem


def flat(config: Config) -> dict[str, Any]:
    return {
        "state_directory": config.state_directory,
        **{
            f"{name}.{key}": getattr(getattr(config, name), key)
            for name in SECTIONS
            for key in section_fields(SECTIONS[name])
        },
    }


@given(CONFIGS, CONFIGS)
def test_the_result_is_a_fresh_start_but_for_what_needs_a_restart(running: Config, fresh: Config) -> None:
    fixed = {"state_directory", *(f"{name}.{key}" for name, keys in RESTART_KEYS.items() for key in keys)}
    try:
        changes = compare(running, fresh, ())
    except ConfigError:
        mixed = replace(fresh.server, host=running.server.host, port=running.server.port)
        assert list(server_problems(mixed))
        return
    before, wanted, found = flat(running), flat(fresh), flat(changes.config)
    assert found == {path: before[path] if path in fixed else value for path, value in wanted.items()}
    differing = {path for path in wanted if wanted[path] != before[path]}
    assert set(changes.needs_restart) == differing & fixed
    applied = {"models.define" if path.startswith("models.define.") else path for path in changes.applied}
    assert applied == differing - fixed
    again = compare(changes.config, fresh, ())
    assert again.applied == ()
    assert again.needs_restart == changes.needs_restart
    assert dataclasses.replace(again.config) == changes.config
