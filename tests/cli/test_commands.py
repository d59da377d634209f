"""The command line: what a user types, what is printed, and the exit code."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from localllm.cli import diagnosis, engines
from localllm.config.load import load_config
from localllm.config.schema import Config
from localllm.contract.backend import BackendSpec
from localllm.contract.diagnosis import Finding, Verdict
from localllm.contract.model import Mode
from localllm.host.safe_mode import SafeModeMemory
from localllm.plugin_discovery import BUILT_INS
from localllm.plugin_manager import load_plugins
from localllm.testing.tiny_model import write_tiny_llama
from tests.cli.kit import run
from tests.models.raw_gguf import RawGguf, architecture


def test_help_names_every_command() -> None:
    output = run("--help").output
    for command in ("serve", "check", "init", "plugins", "models", "doctor"):
        assert re.search(rf"\b{command}\b", output)


def test_the_command_line_imports_little() -> None:
    """`localllm --help` must be quick: everything heavy is imported by the command that needs it."""
    heavy = {"starlette", "hypercorn", "pydantic", "numpy", "jinja2", "llama_cpp", "orjson", "uvloop", "pluggy"}
    program = "import sys, localllm.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert heavy.isdisjoint(loaded)


def test_version() -> None:
    assert re.fullmatch(r"localllm \d+\.\d+\.\d+\n", run("--version").output)


def test_init_writes_a_file_that_loads_to_the_defaults(home: Path) -> None:
    run("init")
    sections = load_plugins().sections
    (home / "empty.toml").write_text("")
    written, default = load_config(sections=sections), load_config(home / "empty.toml", sections=sections)
    assert written.source == home / "localllm.toml"
    assert (written.server, written.models, written.plugin) == (default.server, default.models, default.plugin)
    run("check")


def test_every_commented_line_of_init_may_be_uncommented(home: Path) -> None:
    run("init")
    path = home / "localllm.toml"
    text, _, _ = path.read_text().partition("# [models.define.my-model]")
    path.write_text(re.sub(r"^# (\w+ = )(?!\.\.\.)", r"\1", text, flags=re.MULTILINE))
    assert path.read_text() != text
    assert load_config(path, sections=load_plugins().sections).server == Config().server


def test_init_leaves_an_existing_file_alone(home: Path) -> None:
    (home / "localllm.toml").write_text("# mine")
    assert "is there already" in run("init", code=2).output
    assert (home / "localllm.toml").read_text() == "# mine"


def test_check_of_a_sound_server(home: Path) -> None:
    RawGguf().write(home / "models" / "chat" / "tiny.gguf")
    output = run("check").output
    assert "configuration: defaults (no file)" in output
    assert ", ".join(BUILT_INS) in output
    assert "tiny (default)" in output
    assert "no problems found" in output


def test_check_tells_what_models_lack(home: Path) -> None:
    (home / "models" / "chat").mkdir(parents=True)
    (home / "models" / "chat" / "cut.gguf").write_bytes(RawGguf().bytes()[:-1])
    output = run("check", "--set", "models.default=other", code=1).output
    assert "problem: cut.gguf: tensor" in output
    assert "problem: models.default: there is no model 'other'" in output


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--set", "server.prot=1"], "--set server.prot: unknown key; did you mean server.port?"),
        (["--config", "none.toml"], "none.toml: there is no such file; `localllm init` writes one"),
        (["--set", "plugins.enabled=chatt"], "no installed plugin is called 'chatt'; did you mean 'chat'?"),
        (["--set", "models.backend=llama"], "models.backend: no enabled plugin brings a backend named 'llama'"),
        (["--set", "models.define.x.treads=1"], "models.define.x.treads: unknown key; did you mean threads?"),
    ],
)
@pytest.mark.parametrize("command", ["check", "serve", "models"])
def test_a_wrong_configuration_is_exit_code_2(command: str, arguments: list[str], sentence: str) -> None:
    result = run(*(["models", "list"] if command == "models" else [command]), *arguments, code=2)
    assert sentence in result.stderr
    assert "Traceback" not in result.output


def test_the_config_option_has_a_variable(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "other.toml").write_text("[server]\nport = 70000")
    monkeypatch.setenv("LOCALLLM_CONFIG", "other.toml")
    assert "other.toml: server.port: must be at most 65535" in run("check", code=2).stderr


def test_plugins_are_listed() -> None:
    lines = run("plugins", "--set", "plugins.enabled=completions,chat").output.splitlines()
    assert [line.split()[:2] for line in lines[:3]] == [["PLUGIN", "ENABLED"], ["completions", "yes"], ["chat", "yes"]]
    assert ["llama_cpp", "no"] in [line.split()[:2] for line in lines[3:]]


@pytest.mark.usefixtures("nobody_serves")
def test_models_are_listed_with_what_counts(home: Path) -> None:
    RawGguf().write(home / "models" / "chat" / "tiny.gguf")
    architecture("bert").write(home / "models" / "embedding" / "encoder.gguf")
    lines = run("models", "list").output.splitlines()
    assert lines[0].split() == ["MODEL", "KIND", "QUANTISATION", "PARAMETERS", "SIZE", "CONTEXT"]
    assert lines[1].split() == ["encoder", "embedding", "F32", "128", "736", "B", "512"]
    assert lines[2].split()[:6] == ["tiny", "*", "chat", "Q8_0", "128", "1.1"]


@pytest.mark.usefixtures("nobody_serves")
def test_an_empty_list_says_where_models_go(home: Path) -> None:
    assert f"put a GGUF file into {home}/models/chat" in run("models", "list").stderr


@pytest.mark.usefixtures("nobody_serves")
def test_a_model_is_shown(home: Path) -> None:
    RawGguf().write(home / "models" / "chat" / "tiny.gguf")
    output = run("models", "show", "tiny.gguf", "--set", "plugin.llama_cpp.parallel=7").output
    facts = {key: value.strip() for key, _, value in (line.partition(" ") for line in output.splitlines()[1:])}
    assert (facts["id"], facts["arch"], facts["settings.parallel"]) == ("tiny", "llama", "7")


@pytest.mark.usefixtures("nobody_serves")
def test_an_unknown_model_is_answered_with_the_known_ones(home: Path) -> None:
    RawGguf().write(home / "models" / "chat" / "tiny.gguf")
    assert "There is no model 'big'. Known models: tiny." in run("models", "show", "big", code=2).stderr


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"nonsense", "m.gguf: not a GGUF file"),
        (RawGguf().bytes()[:-1], "m.gguf: tensor"),
        (architecture("clip").bytes(), "m.gguf: it is no model by itself, but of type 'mmproj'"),
        (None, "m.gguf: can't be read"),
    ],
)
def test_serving_a_file_that_is_no_model(home: Path, content: bytes | None, sentence: str) -> None:
    if content is not None:
        (home / "m.gguf").write_bytes(content)
    assert sentence in run("serve", "m.gguf", code=2).stderr


@pytest.mark.process
def test_a_taken_port_is_one_sentence_and_exit_code_1(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "localllm", "serve", "--port", str(port)]
        done = subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"localllm: can't listen on 127.0.0.1:{port}: another program does")
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in (home / "models").iterdir()) == ["chat", "embedding", "reranker"]


# --- doctor ----------------------------------------------------------------------------------------------------------


@pytest.mark.process
def test_doctor_finds_a_sound_machine_sound(home: Path) -> None:
    write_tiny_llama(home / "models" / "chat" / "tiny.gguf")
    write_tiny_llama(home / "models" / "chat" / "other.gguf", seed=1)
    output = run("doctor", "--set", "models.default=tiny").output
    subjects = ("python", "packages", "machine", "llama.cpp", "build", "configuration", "state", "safe mode", "devices")
    for subject in subjects:
        assert re.search(rf"^\[(ok|note) *\] {re.escape(subject)}: ", output, re.MULTILINE)
    assert "models: other, tiny; default: tiny" in output
    assert "[ok  ] offload of tiny: all 3 layers on the CPU" in output
    assert "offload of other" not in output


@pytest.mark.process
def test_doctor_tells_of_all_models_when_asked_and_speaks_json(home: Path) -> None:
    write_tiny_llama(home / "models" / "chat" / "tiny.gguf")
    write_tiny_llama(home / "models" / "chat" / "other.gguf", seed=1)
    found = {finding["subject"]: finding for finding in json.loads(run("doctor", "--all", "--json").output)}
    assert "AVX2" not in found["llama.cpp"]["data"]["unused_cpu_features"]
    devices = found["devices"]["data"]
    assert [device["type"] for device in devices["devices"]].count("cpu") == 1
    assert set(devices["install_commands"]) == {"CUDA", "Vulkan", "Metal", "ROCm"}
    assert "-DGGML_CUDA=on" in devices["install_commands"]["CUDA"]
    for name in ("tiny", "other"):
        told = found[f"offload of {name}"]["data"]
        assert (told["layers"], told["layers_total"], told["n_gpu_layers"]) == (0, 3, 0)


@pytest.fixture
def quick_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the child process that loads llama.cpp."""
    monkeypatch.setattr(diagnosis, "ask_engine", lambda backend, models: ())


def findings() -> dict[str, Finding]:
    return {finding.subject: finding for finding in diagnosis.examine(None, [])}


def test_doctor_tells_of_a_build_in_safe_mode(quick_engine: None, home: Path) -> None:
    plugins = load_plugins(["llama_cpp"])
    plugins.register(Config())
    backend = plugins.backends["llama_cpp"]
    assert backend.build_id is not None
    SafeModeMemory(home / "state" / "safe_mode.json").add("llama_cpp", backend.build_id())
    finding = findings()["safe mode"]
    assert finding.verdict is Verdict.NOTE
    assert "crashed in its self-test" in finding.text
    assert backend.rebuild_command is not None
    assert backend.rebuild_command in finding.advice


def test_doctor_without_models_says_where_they_go(quick_engine: None, home: Path) -> None:
    finding = findings()["models"]
    assert (finding.verdict, finding.advice) == (Verdict.BAD, f"put a GGUF file into {home}/models/chat")
    assert run("doctor", code=1).exit_code == 1


def test_doctor_goes_on_after_a_wrong_configuration(quick_engine: None, home: Path) -> None:
    (home / "localllm.toml").write_text("[server]\nprot = 1")
    assert "did you mean server.port?" in findings()["configuration"].text


@pytest.mark.process
def test_doctor_names_the_death_of_a_bad_library(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "dies.py").write_text("import os, signal\ndef now(_): os.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.setenv("PYTHONPATH", str(home))
    backend = BackendSpec(
        "bad", frozenset({Mode.GENERATE}), factory="none:none", examine="signal:raise_signal", rebuild_command="make it"
    )
    (finding,) = engines.ask_engine(backend, [])
    assert (finding.verdict, finding.subject) == (Verdict.BAD, "bad")
    assert finding.text.startswith("it can't be loaded (exit code 1): TypeError")
    assert finding.advice == "build it again: make it"
    killed = replace(backend, examine="dies:now")
    assert "signal 11" in engines.ask_engine(killed, [])[0].text


def test_doctor_waits_for_no_engine_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(*_: object, timeout: float, **__: object) -> None:
        raise subprocess.TimeoutExpired("child", timeout)

    monkeypatch.setattr(engines.subprocess, "run", late)
    backend = BackendSpec("slow", frozenset({Mode.GENERATE}), factory="none:none", examine="none:none")
    (finding,) = engines.ask_engine(backend, [])
    assert (finding.verdict, finding.text) == (Verdict.BAD, "it did not answer within 120 s")
