"""The service's unit and the container's file: well-formed, hardened, and with the flags that the Makefile has."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from localllm.config.layers import read_layers
from localllm.config.load import check_config

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "localllm.service"
CONTAINER = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
ANALYZE = shutil.which("systemd-analyze")


@pytest.fixture
def unit() -> configparser.ConfigParser:
    class Repeated(dict):  # type: ignore[type-arg]
        """Keep all values of a key, one a line."""

        def __setitem__(self, key: str, value: object) -> None:
            if isinstance(value, list) and key in self:
                self[key].extend(value)
            else:
                super().__setitem__(key, value)

    parser = configparser.ConfigParser(strict=False, interpolation=None, dict_type=Repeated, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(UNIT.read_text(encoding="utf-8"))
    return parser


def test_the_unit_says_what_the_server_can_do(unit: configparser.ConfigParser) -> None:
    service = unit["Service"]
    assert (service["Type"], service["NotifyAccess"], service["KillMode"]) == ("notify", "main", "mixed")
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert service["OOMPolicy"] == "continue"
    assert service["RestartPreventExitStatus"] == "2"
    assert float(service["TimeoutStopSec"]) > 30 + 10  # server.shutdown_seconds, and the workers' end
    assert unit["Install"]["WantedBy"] == "multi-user.target"


@pytest.mark.parametrize(
    "setting",
    [
        *("NoNewPrivileges=yes", "ProtectSystem=strict", "ProtectHome=yes", "PrivateTmp=yes", "PrivateDevices=yes"),
        *("CapabilityBoundingSet=", "RestrictNamespaces=yes", "ProtectKernelModules=yes", "ProtectControlGroups=yes"),
        *("SystemCallFilter=@system-service", "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX", "DynamicUser=yes"),
    ],
)
def test_the_unit_is_hardened(unit: configparser.ConfigParser, setting: str) -> None:
    name, _, value = setting.partition("=")
    assert unit["Service"][name] == value


def test_the_units_environment_and_command_are_ours(unit: configparser.ConfigParser) -> None:
    environ = dict(line.split("=", 1) for line in unit["Service"]["Environment"].splitlines())
    config = check_config(read_layers(None, environ, []), {})
    for path in (config.state_directory, config.models.directory):
        assert path.is_relative_to("/var/lib/" + unit["Service"]["StateDirectory"])
    _, command, *options = shlex.split(unit["Service"]["ExecStart"])
    assert (command, options[0]) == ("serve", "--config")
    for name in re.findall(r"^#?([A-Z_]+)=", (DEPLOY / "localllm.env").read_text(encoding="utf-8"), re.MULTILINE):
        check_config(read_layers(None, {name: "8000" if "PORT" in name else "127.0.0.1"}, []), {})


@pytest.mark.process
@pytest.mark.skipif(ANALYZE is None, reason="there is no systemd here")
def test_systemd_reads_the_unit_without_a_word_and_rates_it_well(tmp_path: Path) -> None:
    text = UNIT.read_text(encoding="utf-8")
    path = tmp_path / "localllm.service"
    path.write_text(re.sub(r"^ExecStart=\S+", f"ExecStart={sys.executable}", text, flags=re.MULTILINE))
    assert ANALYZE is not None
    verified = subprocess.run([ANALYZE, "verify", str(path)], capture_output=True, text=True, timeout=50, check=False)
    assert (verified.returncode, verified.stderr) == (0, "")
    rating = [ANALYZE, "security", "--offline=yes", "--threshold=20", str(path)]  # tenths; 100 is a service without any
    rated = subprocess.run(rating, capture_output=True, text=True, timeout=50, check=False)
    assert rated.returncode == 0, rated.stdout


def test_all_builds_have_the_same_compiler_flags() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    [flags] = re.findall(r"^override CXXFLAGS := .*\) (-\S+)\)$", makefile, re.MULTILINE)
    assert re.findall(r'^ENV CXXFLAGS="(.*)"$', CONTAINER, re.MULTILINE) == [flags]
    assert project["tool"]["uv"]["extra-build-variables"]["llama-cpp-python"] == {"CXXFLAGS": flags}
    [pip_flags] = re.findall(r"^PIP_FLAGS \?= (.*)$", makefile, re.MULTILINE)
    installs = [line for line in CONTAINER.splitlines() if "pip install" in line]
    assert len(installs) == 2
    assert all(pip_flags in line for line in installs)


def test_flags_are_set_before_the_first_build() -> None:
    _, build, _ = CONTAINER.split("\nFROM ")
    assert build.index("ENV CXXFLAGS") < build.index("CMAKE_ARGS=") < build.index("pip install")


def test_llama_cpp_is_picked_out_of_the_dependencies_as_the_makefile_does() -> None:
    [program] = re.findall(r"\$\(python -c '(.*)'\)", CONTAINER)
    assert program in (ROOT / "Makefile").read_text(encoding="utf-8")
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("llama-cpp-python>=")


def test_the_image_is_no_root_and_needs_a_key() -> None:
    final = CONTAINER.split("\nFROM ")[-1]
    assert "USER 10001:10001" in final
    assert final.index("USER") < final.index("ENTRYPOINT")
    assert 'ENTRYPOINT ["localllm"]' in final
    environ = dict(re.findall(r"(LOCALLLM_\w+)=(\S+)", final))
    assert environ["LOCALLLM_SERVER_HOST"] == "0.0.0.0"
    environ["LOCALLLM_API_KEYS"] = "k"  # without one it does not start: config/test_load.py
    assert check_config(read_layers(None, environ, []), {}).models.directory == Path("/models")
    assert all("://" not in line for line in CONTAINER.splitlines() if line.startswith("FROM"))


def test_what_the_image_copies_is_there_and_is_sent_to_the_builder() -> None:
    ignored = (DEPLOY / "Containerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    for line in re.findall(r"^COPY (?!--from)(\S+)", CONTAINER, re.MULTILINE):
        assert (ROOT / line).exists()
        assert f"!{line}" in ignored


def test_the_health_check_is_a_program_that_works() -> None:
    [program] = re.findall(r'CMD \["python", "-c", "(.*)"\]', CONTAINER)
    compile(program, "healthcheck", "exec")
    assert "'/health'" in program
