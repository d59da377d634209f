"""``check``, ``init``, ``plugins``, ``doctor`` for programs and for people: documents, origins, and completion."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from localllm.cli import diagnosis
from localllm.cli.startup import live_plugins
from localllm.config.load import load_config
from localllm.plugin_manager import load_plugins
from tests.cli.kit import run
from tests.models.raw_gguf import RawGguf


def test_check_prints_every_key_with_its_origin(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "localllm.toml").write_text('[server]\nport = 9000\napi_keys = ["sk-secret"]\n')
    monkeypatch.setenv("LLAMA_N_CTX", "512")
    output = run("check", "--set", "log.level=debug").output
    rows = {line.split()[0]: line for line in output.splitlines() if line}
    assert re.search(r"9000 +localllm\.toml:2 *$", rows["server.port"])
    assert re.search(r"512 +environment LLAMA_N_CTX *$", rows["plugin.llama_cpp.context_length"])
    assert re.search(r'"debug" +--set *$', rows["log.level"])
    assert re.search(r"30\.0 +default *$", rows["server.shutdown_seconds"])
    assert "***" in rows["server.api_keys"]
    assert "sk-secret" not in output


def test_check_for_programs(home: Path) -> None:
    RawGguf().write(home / "models" / "chat" / "tiny.gguf")
    (home / "localllm.toml").write_text('[models.define.tiny]\nparallel = 2\n[server]\napi_keys = ["sk-secret"]')
    output = run("check", "--json").stdout
    found = json.loads(output)
    assert (found["valid"], found["problems"], found["default_model"]) == (True, [], "tiny")
    assert found["configuration"]["models.define.tiny.parallel"] == {
        "value": 2,
        "origin": {"kind": "file", "name": "localllm.toml", "line": 2},
    }
    assert found["configuration"]["server.api_keys"]["value"] == ["***"]
    assert "sk-secret" not in output


def test_check_for_programs_tells_what_is_wrong(home: Path) -> None:
    (home / "localllm.toml").write_text("[server]\nprot = 1\nhost = 1")
    found = json.loads(run("check", "--json", code=2).stdout)
    assert found["valid"] is False
    assert len(found["problems"]) == 2
    (home / "localllm.toml").write_text("")
    (home / "models" / "chat").mkdir(parents=True)
    (home / "models" / "chat" / "cut.gguf").write_bytes(RawGguf().bytes()[:-1])
    found = json.loads(run("check", "--json", code=1).stdout)
    assert found["valid"] is True
    assert "cut.gguf" in found["problems"][0]


def test_check_refuses_what_serve_would(home: Path) -> None:
    (home / "known.toml").write_text("[broken")
    assert "models.catalogue: " in run("check", "--set", "models.catalogue=known.toml", code=2).stderr


def test_init_takes_a_path_or_a_folder(home: Path) -> None:
    (home / "etc").mkdir()
    run("init", "etc")
    run("init", "other.toml")
    assert (home / "etc" / "localllm.toml").read_text() == (home / "other.toml").read_text()
    assert "can't be written" in run("init", "missing/x.toml", code=1).stderr


def test_init_writes_over_a_file_only_by_force(home: Path) -> None:
    path = home / "localllm.toml"
    path.write_text("# mine")
    path.chmod(0o600)
    assert "--force writes over it" in run("init", code=2).stderr
    assert path.read_text() == "# mine"
    run("init", "--force")
    sections = load_plugins().sections
    (home / "empty.toml").write_text("")
    written, default = load_config(path, sections=sections), load_config(home / "empty.toml", sections=sections)
    assert (written.server, written.models, written.plugin) == (default.server, default.models, default.plugin)
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(found.name for found in home.iterdir()) == ["empty.toml", "localllm.toml"]


def test_only_sections_that_nobody_keeps_apply_without_a_restart() -> None:
    """A route and a middleware have their settings from the start; loads and pulls look at them anew."""

    def manager(**readers: Any) -> Any:
        kept = {"routes": [], "middleware": [], **readers}
        backends = {"one": SimpleNamespace(settings=int), "two": SimpleNamespace(settings=str)}
        owners = {"one": "engine", "two": "mixed"}
        sections = {"engine": int, "mixed": float, "sources": str, "endpoint": str}
        return SimpleNamespace(
            backends=backends, backend_owners=owners, source_owners={"hf": "sources"}, sections=sections, **kept
        )

    plugins = load_plugins()
    plugins.register(load_config(sections=plugins.sections))
    assert live_plugins(plugins) == {"llama_cpp", "sources"}
    assert live_plugins(manager()) == {"engine", "sources"}
    assert live_plugins(manager(middleware=[SimpleNamespace(plugin="engine")])) == {"sources"}
    assert live_plugins(manager(routes=[SimpleNamespace(plugin=SimpleNamespace(name="sources"))])) == {"engine"}


def test_plugins_for_programs() -> None:
    found = json.loads(run("plugins", "--json", "--set", "plugins.enabled=chat").stdout)
    assert found[0]["name"] == "chat"
    assert [one["enabled"] for one in found] == [True] + [False] * (len(found) - 1)


def test_doctor_for_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    findings = [
        diagnosis.Finding(diagnosis.Verdict.GOOD, "a", "b"),
        diagnosis.Finding(diagnosis.Verdict.BAD, "c", "d", "e"),
    ]
    monkeypatch.setattr(diagnosis, "examine", lambda path, overrides, *, all_models: iter(findings))
    assert json.loads(run("doctor", "--json", code=1).stdout) == [
        {"verdict": "ok", "subject": "a", "text": "b", "advice": "", "data": {}},
        {"verdict": "bad", "subject": "c", "text": "d", "advice": "e", "data": {}},
    ]


@pytest.mark.parametrize("arguments", [["nonsense"], ["serve", "--prot", "1"], ["models", "load"], ["chat", "x"]])
def test_a_wrong_command_line_is_exit_code_2(arguments: list[str]) -> None:
    run(*arguments, code=2)


@pytest.mark.process
@pytest.mark.parametrize(
    ("words", "completed"),
    [("localllm mod", {"models"}), ("localllm models un", {"unload"}), ("localllm serve --relo", {"--reload"})],
)
def test_a_shell_completes_commands_and_options(words: str, completed: set[str]) -> None:
    environment = {
        **os.environ,
        "_LOCALLLM_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    program = "import sys; sys.argv[0] = 'localllm'; from localllm.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=50, check=False
    )
    assert set(done.stdout.split()) == completed
