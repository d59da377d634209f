"""The command line: what a user types, what is printed, and the exit code."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from localllm.cli import app, diagnosis
from localllm.config.load import load_config
from localllm.config.schema import Config
from localllm.host.safe_mode import SafeModeMemory
from localllm.plugin_manager import load_plugins
from tests.models.raw_gguf import RawGguf, architecture


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run every command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


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
    assert "chat, completions, embeddings, rerank, tokenize, llama_cpp" in output
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


def test_models_are_listed_with_what_counts(home: Path) -> None:
    RawGguf().write(home / "models" / "chat" / "tiny.gguf")
    architecture("bert").write(home / "models" / "embedding" / "encoder.gguf")
    lines = run("models", "list").output.splitlines()
    assert lines[0].split() == ["MODEL", "KIND", "QUANTISATION", "PARAMETERS", "SIZE", "CONTEXT"]
    assert lines[1].split() == ["encoder", "embedding", "F32", "128", "736", "B", "512"]
    assert lines[2].split()[:6] == ["tiny", "*", "chat", "Q8_0", "128", "1.1"]


def test_an_empty_list_says_where_models_go(home: Path) -> None:
    assert f"put a GGUF file into {home}/models/chat" in run("models", "list").stderr


def test_a_model_is_shown(home: Path) -> None:
    RawGguf().write(home / "models" / "chat" / "tiny.gguf")
    output = run("models", "show", "tiny.gguf", "--set", "plugin.llama_cpp.parallel=7").output
    facts = dict(line.split(maxsplit=1) for line in output.splitlines()[1:])
    assert facts["id"].strip() == "tiny"
    assert facts["arch"].strip() == "llama"
    assert facts["settings.parallel"].strip() == "7"


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
    RawGguf().write(home / "models" / "chat" / "tiny.gguf")
    output = run("doctor").output
    for subject in ("python", "packages", "machine", "llama.cpp", "build", "configuration", "state", "safe mode"):
        assert re.search(rf"^\[(ok|note) *\] {re.escape(subject)}: ", output, re.MULTILINE)
    assert "models: tiny; default: tiny" in output


@pytest.fixture
def quick_library(monkeypatch: pytest.MonkeyPatch, home: Path) -> Path:
    """Leave out the child process that loads llama.cpp."""
    library = home / "lib"
    library.mkdir()
    answer = {"system": "AVX = 1 | AMX_INT8 = 0", "gpu": True, "library": str(library)}
    monkeypatch.setattr(diagnosis, "_ask_library", lambda: answer)
    return library


def findings() -> dict[str, diagnosis.Finding]:
    return {finding.subject: finding for finding in diagnosis.examine(None, [])}


@pytest.mark.parametrize(
    ("compiler", "flags", "suspect"),
    [
        (b"GCC: (Debian 12.2.0-14) 12.2.0", "fpu amx_tile amx_int8", True),
        (b"GCC: (Debian 12.2.0-14) 12.2.0", "fpu avx512f", False),
        (b"GCC: (Ubuntu 13.3.0-6) 13.3.0", "fpu amx_tile", False),
        (b"clang version 17.0.6", "fpu amx_tile", False),
    ],
)
def test_doctor_suspects_builds_of_old_gcc_on_amx(
    quick_library: Path, monkeypatch: pytest.MonkeyPatch, compiler: bytes, flags: str, suspect: bool
) -> None:
    (quick_library / "libggml-cpu.so").write_bytes(b"\x7fELF" + compiler + b"\0")
    monkeypatch.setattr(diagnosis, "_cpu_flags", lambda: flags)
    found = findings()
    assert (found["build"].verdict is diagnosis.Verdict.NOTE) is suspect
    assert ("-fno-dse" in found["build"].text) is suspect
    assert found["llama.cpp"].text == "loads; GPU offload; AVX"


def test_doctor_tells_of_a_build_in_safe_mode(quick_library: Path, home: Path) -> None:
    plugins = load_plugins(["llama_cpp"])
    plugins.register(Config())
    backend = plugins.backends["llama_cpp"]
    assert backend.build_id is not None
    SafeModeMemory(home / "state" / "safe_mode.json").add("llama_cpp", backend.build_id())
    finding = findings()["safe mode"]
    assert finding.verdict is diagnosis.Verdict.NOTE
    assert "crashed in its self-test" in finding.text
    assert backend.rebuild_command is not None
    assert backend.rebuild_command in finding.advice


def test_doctor_without_models_says_where_they_go(quick_library: Path, home: Path) -> None:
    finding = findings()["models"]
    assert (finding.verdict, finding.advice) == (diagnosis.Verdict.BAD, f"put a GGUF file into {home}/models/chat")
    assert run("doctor", code=1).exit_code == 1


def test_doctor_goes_on_after_a_wrong_configuration(quick_library: Path, home: Path) -> None:
    (home / "localllm.toml").write_text("[server]\nprot = 1")
    assert "did you mean server.port?" in findings()["configuration"].text


def test_doctor_names_the_death_of_a_bad_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "_ASK_LIBRARY", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    finding = findings()["llama.cpp"]
    assert finding.verdict is diagnosis.Verdict.BAD
    assert "signal 11" in finding.text
    assert "-fno-dse" in finding.advice
