"""``localllm models list`` and ``show``: what is told of each model, to people and to programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from localllm.cli import app
from tests.cli.kit import run
from tests.models.raw_gguf import ARRAY, STRING, RawGguf, architecture

pytestmark = pytest.mark.usefixtures("nobody_serves")


def document(*arguments: str) -> Any:
    return json.loads(run("models", *arguments, "--json").stdout)


def write_models(home: Path) -> None:
    own = home / "models" / "chat" / "vision"
    RawGguf().with_pairs(general__tags=(ARRAY, (STRING, ["see"]))).write(own / "vision-Q8_0.gguf")
    architecture("clip").write(own / "mmproj-F16.gguf")
    for name in ("a", "b"):
        RawGguf().with_pairs(general__type=(STRING, "adapter")).write(own / f"{name}.gguf")
    RawGguf().write(home / "studio" / "org" / "repo" / "m-Q4_0.gguf")
    (home / "localllm.toml").write_text('[models]\nstores = ["studio"]\n')


def test_companions_tags_and_stores_have_columns_when_there_are_any(home: Path) -> None:
    write_models(home)
    lines = run("models", "list").stdout.splitlines()
    assert lines[0].split()[-3:] == ["WITH", "TAGS", "STORE"]
    first, second = lines[1:]
    assert first.split()[0] == "org/repo:Q4_0"
    assert first.split()[-3:] == ["-", "-", str(home / "studio")]
    assert "projector, 2 adapters" in second
    assert second.split()[-2:] == ["see", "-"]


def test_a_list_without_them_is_narrow(home: Path) -> None:
    RawGguf().write(home / "models" / "chat" / "m.gguf")
    assert run("models", "list").stdout.splitlines()[0].split()[-1] == "CONTEXT"


def test_the_list_for_programs(home: Path) -> None:
    write_models(home)
    (home / "models" / "chat" / "bad.gguf").write_text("x")
    listed = document("list")
    assert [model["id"] for model in listed["data"]] == ["org/repo:Q4_0", "vision-Q8_0"]
    (problem,) = listed["problems"]
    assert problem.startswith("bad.gguf: ")
    assert {"loaded", "state"}.isdisjoint(listed["data"][0]), "only a server knows"


def test_a_list_for_programs_of_nothing() -> None:
    assert document("list") == {"object": "list", "data": [], "problems": []}


def test_one_model_for_programs(home: Path) -> None:
    write_models(home)
    shown = document("show", "vision-q8_0.gguf", "--set", "plugin.llama_cpp.parallel=7")
    assert shown["default"] is True
    assert shown["path"] == str(home / "models" / "chat" / "vision" / "vision-Q8_0.gguf")
    assert shown["settings"]["parallel"] == 7
    assert shown["meta"]["projector"] == "mmproj-F16.gguf"
    assert shown["meta"]["adapters"] == ["a.gguf", "b.gguf"]
    assert shown["capabilities"] == ["completion", "chat"]


def test_one_model_for_people(home: Path) -> None:
    write_models(home)
    with (home / "localllm.toml").open("a") as file:
        file.write('[models.define."org/repo:Q4_0"]\ntags = ["fast"]\nttl_minutes = 2\npinned = true\n')
    lines = run("models", "show", "org/repo").stdout.splitlines()[1:]
    facts = {key: value.strip() for key, _, value in (line.partition(" ") for line in lines)}
    assert facts["id"] == "org/repo:Q4_0"
    assert (facts["tags"], facts["ttl"], facts["pinned"]) == ("fast", "120 s", "yes")
    assert (facts["quantisation"], facts["n_params"]) == ("Q8_0", "128"), "the file's own word counts, not its name's"
    assert facts["store"] == str(home / "studio")
    assert "hyperparameters" not in facts


def test_the_command_line_reads_all_of_a_store(home: Path) -> None:
    for number in range(60):
        RawGguf().write(home / "studio" / "org" / f"r{number}" / "m-Q4_0.gguf")
    listed = document("list", "--set", f"models.stores={home / 'studio'}")
    assert (len(listed["data"]), listed["problems"]) == (60, [])


def test_a_store_that_is_not_there_is_a_problem(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_MODELS", str(home / "none"))
    problem = f"models.stores: {home / 'none'} is no folder; set OLLAMA_MODELS if it is elsewhere"
    assert document("list", "--set", "models.stores=ollama")["problems"] == [problem]


SOURCES = """[models]
catalogue = "more.toml"
[models.define.far]
source = "hf:org/repo:Q4_0"
tags = ["big"]
[models.define.known]
source = "Tiny-Thing"
"""


def test_models_that_a_server_is_still_to_fetch(home: Path) -> None:
    (home / "localllm.toml").write_text(SOURCES)
    (home / "more.toml").write_text('[tiny-thing]\nsource = "file:/tiny.gguf"\nkind = "embedding"\n')
    listed = run("models", "list")
    assert listed.stdout.splitlines() == [
        "not fetched yet: far (a server fetches it from hf:org/repo:Q4_0)",
        "not fetched yet: known (a server fetches it from file:/tiny.gguf)",
    ]
    assert listed.stderr == ""
    far, known = document("list")["data"]
    assert (far["id"], far["tags"], far["not_fetched_yet"]) == ("far", ["big"], "hf:org/repo:Q4_0")
    assert known["not_fetched_yet"] == "file:/tiny.gguf"
    checked = CliRunner().invoke(app, ["check"])
    assert checked.exit_code == 0
    assert "to fetch:      far from hf:org/repo:Q4_0" in checked.output
    assert "no problems found" in checked.output
    told = json.loads(CliRunner().invoke(app, ["check", "--json"]).stdout)
    assert told["to_fetch"] == {"far": "hf:org/repo:Q4_0", "known": "file:/tiny.gguf"}
    assert "far is not fetched yet" in CliRunner().invoke(app, ["doctor"]).output


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('[models.define.a]\nsource = "hg:org/repo"', "models.define.a.source: 'hg:org/repo' can't be fetched"),
        (
            '[models.define."a/b"]\nsource = "hf:org/repo"',
            "models.define.a/b: 'a/b' can't be the id of a fetched model",
        ),
        (
            '[models.define.a]\nsource = "hf:o/r"\n[models.define.b]\nsource = "HF:o/r"',
            "models.define.b.source: 'a' is fetched from there already",
        ),
    ],
    ids=["unknown scheme", "no file name", "twice"],
)
def test_sources_that_can_never_be_fetched(home: Path, text: str, sentence: str) -> None:
    (home / "localllm.toml").write_text(text)
    told = json.loads(CliRunner().invoke(app, ["check", "--json"]).stdout)
    assert told["valid"] is False
    assert sentence in told["problems"][0]
