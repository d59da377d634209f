"""A configuration file becomes checked sections, or sentences that say where and what is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from localllm.config.errors import ConfigError
from localllm.config.layers import read_layers
from localllm.config.load import check_config, enabled_plugins, load_config
from localllm.config.schema import Config, setting


@dataclass(frozen=True, slots=True)
class NotesSection:
    """What a plugin might declare."""

    path: Path = setting(Path("notes.db"), "A file.")
    limit: int | None = setting(None, "A bound.", minimum=1, maximum=10)
    mode: Literal["fast", "safe"] = setting("safe", "A choice.")
    ratios: list[float] = setting([], "Numbers.")
    flag: str | bool = setting("auto", "A word or a switch.")
    token: str = setting("", "A secret.", secret=True)

    def __post_init__(self) -> None:
        if self.limit == 7:
            message = "limit may not be 7"
            raise ValueError(message)


def write(folder: Path, text: str) -> Path:
    path = folder / "localllm.toml"
    path.write_text(text, encoding="utf-8")
    return path


def load(folder: Path, text: str = "", *overrides: str, **environ: str) -> Config:
    return load_config(write(folder, text), environ=environ, overrides=overrides, sections={"notes": NotesSection})


def problems(folder: Path, text: str = "", *overrides: str, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(folder, text, *overrides, **environ)
    return list(caught.value.problems)


def test_without_a_file_everything_has_its_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config()
    assert config.server == Config().server
    assert config.source is None
    assert config.models.directory == tmp_path / "models"
    assert config.state_directory == tmp_path / "state"


def test_a_file_in_the_working_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "[server]\nport = 9001")
    monkeypatch.chdir(tmp_path)
    assert load_config().server.port == 9001


def test_relative_paths_count_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "etc"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    config = load(folder, 'state_directory = "s"\n[models]\ndirectory = "/m"\n[plugin.notes]\npath = "n.db"')
    assert (config.state_directory, config.models.directory) == (folder / "s", Path("/m"))
    assert config.plugin["notes"].path == folder / "n.db"
    assert load(folder).plugin["notes"].path == folder / "notes.db"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[server]\nprot = 1", "server.prot: unknown key; did you mean server.port?"),
        ("prot = 1", "prot: unknown key; did you mean server.port?"),
        ("[sever]\nport = 1", "sever: unknown key; did you mean server?"),
        ("zzzzzz = 1", "zzzzzz: unknown key"),
        ('[server]\nport = "9000"', "server.port: must be an integer, not '9000'"),
        ("[server]\nport = true", "server.port: must be an integer, not true"),
        ("[server]\nport = 9000.0", "server.port: must be an integer, not 9000.0"),
        ("[server]\nport = 65536", "server.port: must be at most 65535, not 65536"),
        ("[server]\nport = -1", "server.port: must be at least 0, not -1"),
        ("[server]\nping_seconds = inf", "server.ping_seconds: must be a finite number, not inf"),
        ("[server]\nping_seconds = nan", "server.ping_seconds: must be a finite number, not nan"),
        ("[server]\nallow_public_without_key = 1", "server.allow_public_without_key: must be true or false, not 1"),
        ('[server]\ncors_origins = "*"', "server.cors_origins: must be a list of strings, not '*'"),
        ("[server]\ncors_origins = [1]", "server.cors_origins: must be a string, not 1"),
        ("server = 1", "server: must be a table: write [server]"),
        ('[log]\nlevel = "loud"', "log.level: must be one of debug, info, warning, error, not 'loud'"),
        ('[plugins]\nenabled = "chat"', "plugins.enabled: must be a list of strings, not 'chat'"),
        ("[models]\ndirectory = 1", "models.directory: must be a path, not 1"),
        ('[models]\ndirectory = ""', "models.directory: must be a path, not ''"),
        ('[models.define]\nqwen = "x"', "models.define: must be a table, not 'x'"),
        ("[plugin]\nnotes = 1", "plugin.notes: must be a table: write [plugin.notes]"),
        ("plugin = 1", "plugin: must be a table: write [plugin.<name>]"),
        ("[plugin.note]\n", "plugin.note: no installed plugin of this name has settings; did you mean plugin.notes?"),
        ("[plugin.notes]\nlimits = 1", "plugin.notes.limits: unknown key; did you mean plugin.notes.limit?"),
        ("[plugin.notes]\nlimit = 11", "plugin.notes.limit: must be at most 10, not 11"),
        ("[plugin.notes]\nlimit = 7", "plugin.notes: limit may not be 7"),
        ('[plugin.notes]\nmode = "slow"', "plugin.notes.mode: must be one of fast, safe, not 'slow'"),
        ('[plugin.notes]\nratios = ["1"]', "plugin.notes.ratios: must be a number, not '1'"),
        (
            '[plugin.notes]\nratios = [1, "${env:NO_SUCH}"]',
            "plugin.notes.ratios: the environment variable NO_SUCH is not set",
        ),
        ('[server]\nhost = "${env:}"', "server.host: '${env:' is not followed by a variable's name and '}'"),
        ('[server]\nhost = ""', "server.host: is empty; write 127.0.0.1, or 0.0.0.0 to listen on all addresses"),
    ],
)
def test_each_fault_names_file_key_and_fix(tmp_path: Path, text: str, problem: str) -> None:
    assert problems(tmp_path, text)[0] == f"localllm.toml: {problem}"


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    found = problems(
        tmp_path, '[server]\nport = "x"\nhots = ""\n[log]\nlevel = 1\n[nonsense]\n', LOCALLLM_LOG_FROMAT="json"
    )
    assert len(found) == 5


def test_a_secret_is_never_shown(tmp_path: Path) -> None:
    text = '[server]\napi_keys = "sk-1234"\n[plugin.notes]\ntoken = 1234'
    assert "1234" not in "".join(problems(tmp_path, text))


@pytest.mark.parametrize("text", ["[server", "a = 1\na = 2", "x = " + "[" * 5000, "x = " + "1" * 5000])
def test_what_is_no_toml_is_told_with_its_place(tmp_path: Path, text: str) -> None:
    assert problems(tmp_path, text)[0].startswith("localllm.toml: ")


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "localllm.toml"
    path.write_bytes(b"a = '\xff'")
    with pytest.raises(ConfigError, match=r"localllm\.toml: not UTF-8 text"):
        load_config(path)


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file"):
        load_config(tmp_path / "other.toml")


def test_a_whole_reference_is_read_by_the_keys_type(tmp_path: Path) -> None:
    config = load(tmp_path, '[server]\nport = "${env:PORT}"\napi_keys = ["${env:KEY}"]', PORT="81", KEY="sk")
    assert (config.server.port, config.server.api_keys) == (81, ["sk"])


def test_references_inside_text_defaults_and_escapes(tmp_path: Path) -> None:
    text = '[models]\ndefault = "a-${env:A}-${env:B:-b}-$${env:C}"'
    assert load(tmp_path, text, A="1").models.default == "a-1-b-${env:C}"


def test_environment_counts_over_the_file_and_flags_over_both(tmp_path: Path) -> None:
    text = "[server]\nport = 1\nping_seconds = 1\nshutdown_seconds = 1"
    environ = {"LOCALLLM_SERVER_PORT": "2", "LOCALLLM_SERVER_PING_SECONDS": "2"}
    config = load(tmp_path, text, "server.port=3", **environ)
    assert (config.server.port, config.server.ping_seconds, config.server.shutdown_seconds) == (3, 2.0, 1.0)


@pytest.mark.parametrize(
    ("name", "value", "key", "expected"),
    [
        ("SERVER_API_KEYS", "a, b", "server.api_keys", ["a", "b"]),
        ("API_KEYS", '["a,b"]', "server.api_keys", ["a,b"]),
        ("API_KEYS", "", "server.api_keys", []),
        ("SERVER_ALLOW_PUBLIC_WITHOUT_KEY", "Yes", "server.allow_public_without_key", True),
        ("LOG_LEVEL", "debug", "log.level", "debug"),
        ("MODELS_DEFAULT", "x:y/z", "models.default", "x:y/z"),
        ("MODELS_DEFAULT", "", "models.default", None),
        ("MODELS_IDLE_UNLOAD_MINUTES", "0", "models.idle_unload_minutes", 0.0),
        ("STATE_DIRECTORY", "/var/x", "state_directory", Path("/var/x")),
        ("PLUGIN_NOTES_LIMIT", "3", "plugin.notes.limit", 3),
        ("PLUGIN_NOTES_RATIOS", "1,2.5", "plugin.notes.ratios", [1.0, 2.5]),
        ("PLUGIN_NOTES_FLAG", "true", "plugin.notes.flag", True),
        ("PLUGIN_NOTES_FLAG", "auto", "plugin.notes.flag", "auto"),
    ],
)
def test_every_key_can_be_set_by_a_variable(tmp_path: Path, name: str, value: str, key: str, expected: object) -> None:
    found: object = load(tmp_path, "", **{f"LOCALLLM_{name}": value})
    for part in key.split("."):
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    assert found == expected
    assert type(found) is type(expected)


def test_a_flag_counts_over_a_plugins_variable(tmp_path: Path) -> None:
    config = load(tmp_path, "[plugin.notes]\nlimit = 1", "plugin.notes.limit=3", LOCALLLM_PLUGIN_NOTES_LIMIT="2")
    assert config.plugin["notes"].limit == 3


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        (
            "LOCALLLM_SERVER_PROT",
            "LOCALLLM_SERVER_PROT: no key of the configuration has this name; did you mean LOCALLLM_SERVER_PORT?",
        ),
        (
            "LOCALLLM_PLUGIN_NOTES_LIMITS",
            "LOCALLLM_PLUGIN_NOTES_LIMITS: no enabled plugin has such a key; did you mean LOCALLLM_PLUGIN_NOTES_LIMIT?",
        ),
        ("LOCALLLM_SERVER_PORT", "LOCALLLM_SERVER_PORT (server.port): must be an integer, not 'many'"),
    ],
)
def test_faults_of_variables_name_the_variable(tmp_path: Path, name: str, problem: str) -> None:
    assert problems(tmp_path, "", **{name: "many"}) == [problem]


def test_variables_of_the_tests_and_of_others_are_left_alone(tmp_path: Path) -> None:
    assert load(tmp_path, "", LOCALLLM_TEST_FULL="1", LOCALLLM_CONFIG="x", LOCALLLAMA="1", HOME="/") == load(tmp_path)


@pytest.mark.parametrize("value", ["[" * 3000, f"[{'1' * 5000}]", "[1"])
def test_a_list_that_is_none_is_a_fault_of_the_variable(tmp_path: Path, value: str) -> None:
    [problem] = problems(tmp_path, "", LOCALLLM_API_KEYS=value)
    assert problem.startswith("LOCALLLM_API_KEYS (server.api_keys): must be a list of strings")


@pytest.mark.parametrize(
    "flag", ["server.port", "=1", "server..port=1", "a b=1", "x\ny=1", "#=1", "[a]#=1", "[[a]]#=1", "[a]\tb=1"]
)
def test_a_flag_without_key_or_value_is_refused(tmp_path: Path, flag: str) -> None:
    assert "give it as section.key=value" in problems(tmp_path, "", flag)[0]


def test_a_flag_reaches_into_definitions_with_dots_in_their_names(tmp_path: Path) -> None:
    config = load(tmp_path, "", 'models.define."qwen-0.6b".path=q.gguf')
    assert config.models.define == {"qwen-0.6b": {"path": "q.gguf"}}


def test_a_table_of_an_installed_plugin_that_is_not_enabled_is_left_alone(tmp_path: Path) -> None:
    path = write(tmp_path, "[plugin.other]\nx = 1")
    layers = read_layers(path, {"LOCALLLM_PLUGIN_OTHER_X": "1"}, [])
    config = check_config(layers, {"notes": NotesSection}, installed=["notes", "other"])
    assert set(config.plugin) == {"notes"}


def test_an_obsolete_key_says_what_became_of_it(tmp_path: Path) -> None:
    layers = read_layers(write(tmp_path, "[server]\nthreads = 4"), {}, [])
    with pytest.raises(ConfigError) as caught:
        check_config(layers, {}, obsolete={"server.threads": "moved to plugin.llama_cpp.threads"})
    assert caught.value.problems == ("localllm.toml: server.threads: moved to plugin.llama_cpp.threads",)


def test_enabled_plugins_are_known_before_anything_else_is_checked(tmp_path: Path) -> None:
    text = '[plugins]\nenabled = ["b", "a"]\n[server]\nport = "wrong"'
    assert enabled_plugins(read_layers(write(tmp_path, text), {}, [])) == ["b", "a"]
    assert enabled_plugins(read_layers(None, {"LOCALLLM_PLUGINS_ENABLED": "c"}, [])) == ["c"]
    assert enabled_plugins(read_layers(None, {}, [])) is None


def test_a_plugin_named_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="'a' is named twice"):
        enabled_plugins(read_layers(None, {}, ["plugins.enabled=a,b,a"]))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org", "127.0.0.1.evil.org"])
def test_listening_beyond_loopback_needs_a_key_or_a_word(tmp_path: Path, host: str) -> None:
    text = f'[server]\nhost = "{host}"\n'
    assert "open to other machines" in problems(tmp_path, text)[0]
    assert load(tmp_path, text + 'api_keys = ["k"]').server.host == host
    assert load(tmp_path, text + "allow_public_without_key = true").server.host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost", "LocalHost"])
def test_loopback_needs_no_key(tmp_path: Path, host: str) -> None:
    assert load(tmp_path, f'[server]\nhost = "{host}"').server.host == host


@pytest.mark.parametrize("key", ["", " ", "a b", "a\\nb", "schlüssel"])
def test_keys_that_no_header_can_carry_are_refused(tmp_path: Path, key: str) -> None:
    assert "key 2 is empty or has characters" in problems(tmp_path, f'[server]\napi_keys = ["ok", "{key}"]')[0]
