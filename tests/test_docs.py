"""The documents are true: every key, hook and error code is described, and what looks like code runs."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from struct import pack
from types import ModuleType

import pytest

from localllm.config.describe import Key, list_keys
from localllm.config.load import load_config
from localllm.contract import errors
from localllm.contract.backend import BackendSpec
from localllm.contract.generation import TextPrompt
from localllm.contract.model import Mode, ModelKind, ModelSpec
from localllm.contract.pooling import Pooled, PoolRequest
from localllm.host.registry import ModelRegistry, RegistrySettings
from localllm.models.catalog import Catalog, CatalogOptions
from localllm.plugin_manager import load_plugins
from localllm.testing.app import ScriptedModels, serve_in_process
from localllm.testing.description import Description

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
KEYS = list_keys(load_plugins().sections)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.path)
def test_every_key_is_in_the_manual_with_its_meaning(key: Key) -> None:
    [line] = [
        line
        for line in section((DOCS / "configuration.md").read_text(encoding="utf-8"), key.section)
        if line.startswith(f"| `{key.name}` |")
    ]
    assert key.help in line
    assert len(key.help) > 5


def section(page: str, name: str) -> list[str]:
    heading = f"### `[{name}]`" if name else "### Top level"
    return page.partition(heading + "\n")[2].partition("\n### ")[0].splitlines()


def test_generated_files_are_what_the_code_writes() -> None:
    specification = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert specification is not None
    assert specification.loader is not None
    generate = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(generate)
    page = generate.PAGE.read_text(encoding="utf-8")
    assert generate.page(page) == page, "run `make docs`"
    assert generate.default_file() == generate.DEFAULT_FILE.read_text(encoding="utf-8"), "run `make docs`"


def test_the_default_file_names_every_key_and_loads() -> None:
    text = (ROOT / "localllm.toml").read_text(encoding="utf-8")
    for key in KEYS:
        if key.path != "models.define":
            assert re.search(rf"^(# )?{key.name} = ", text, re.MULTILINE), f"localllm.toml lacks {key.path}"
    config = load_config(ROOT / "localllm.toml", sections=load_plugins().sections)
    assert config.models.default == "localllm-demo"
    assert config.models.directory == ROOT / "models"


def hooks() -> list[str]:
    from localllm import hookspecs

    return [name for name in vars(hookspecs) if name.startswith("localllm_")]


@pytest.mark.parametrize("hook", hooks())
def test_every_hook_is_described(hook: str) -> None:
    assert f"### `{hook}(" in (DOCS / "writing_plugins.md").read_text(encoding="utf-8")


def error_codes() -> set[str]:
    """Return the codes of all error classes, those of the server included."""
    import localllm.server.app  # noqa: F401  # defines the server's own

    def below(kind: type[errors.LocalLLMError]) -> Iterator[str]:
        yield kind.code
        for child in kind.__subclasses__():
            yield from below(child)

    return set(below(errors.LocalLLMError))


@pytest.mark.parametrize("code", sorted(error_codes()))
def test_every_error_code_is_described(code: str) -> None:
    assert re.search(rf"^\| `{code}` \|", (DOCS / "errors.md").read_text(encoding="utf-8"), re.MULTILINE)


def test_the_codes_of_failed_responses_are_described() -> None:
    from localllm.openai.responses.body import error_fields

    text = (DOCS / "errors.md").read_text(encoding="utf-8")
    kinds = (errors.InvalidRequestError, errors.OverloadedError, errors.WorkerCrashedError)
    for code in {error_fields(kind("No."))["code"] for kind in kinds}:
        assert f"`{code}`" in text.partition("\n## Codes")[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_toml_in_the_documents_loads(page: Path, tmp_path: Path) -> None:
    sections = load_plugins().sections
    for block in blocks(page, "toml"):
        table = tomllib.loads(block)
        if "project" not in table:  # a pyproject.toml
            path = tmp_path / "localllm.toml"
            path.write_text(block, encoding="utf-8")
            load_config(path, sections=sections)


def links(page: Path) -> list[tuple[Path, str]]:
    """Return the file, and the place in it, of each link that stays within the checkout."""
    found = re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", page.read_text(encoding="utf-8"))
    return [
        ((page.parent / target if target else page).resolve(), place) for target, place in found if "://" not in target
    ]


def places(page: Path) -> set[str]:
    """Return the names by which a page's headings are linked to."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_the_documents_lead_somewhere(page: Path) -> None:
    for target, place in links(page):
        assert target.exists(), f"{page.name} links to {target}"
        assert not place or place in places(target), f"{page.name} links to {place} in {target.name}"


def test_readers_of_the_readme_find_every_page() -> None:
    found, ahead = {PAGES[0].resolve()}, [PAGES[0]]
    while ahead:
        new = {target for target, _ in links(ahead.pop()) if target.suffix == ".md"} - found
        found |= new
        ahead += new
    assert {page.resolve() for page in PAGES} <= found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_documents_exist(page: Path) -> None:
    """Every `make` target and `localllm` command that is shown is one that there is."""
    import typer
    from typer.main import get_command

    from localllm.cli import app

    text = page.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"(?:^|[`\s])make ([a-z][a-z-]*)", "\n".join(re.findall(r"`[^`]+`", text)))) <= targets
    shown = set(re.findall(r"[`/]localllm ([a-z]+)\b", text))
    group = get_command(app)  # which knows the plugins' names too
    unknown = {name for name in shown if group.get_command(typer.Context(group), name) is None}  # type: ignore[attr-defined]
    assert not unknown


def test_the_plugin_in_15_lines_works_as_documented(tmp_path: Path) -> None:
    """Run the documented plugin under the documented test, by a pytest of its own."""
    python = blocks(DOCS / "writing_plugins.md", "python")
    plugin, scenario = python[0], python[-1]
    assert len([line for line in plugin.splitlines() if line.strip()]) <= 15
    (tmp_path / "localllm_shout.py").write_text(plugin, encoding="utf-8")
    (tmp_path / "test_shout.py").write_text(scenario, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


def test_the_documented_settings_are_a_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    [source] = [block for block in blocks(DOCS / "writing_plugins.md", "python") if "ShoutSettings" in block]
    (tmp_path / "shout.py").write_text(source, encoding="utf-8")
    specification = importlib.util.spec_from_file_location("documented_shout", tmp_path / "shout.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["documented_shout"] = module
    try:
        specification.loader.exec_module(module)
        sections = {"shout": module.localllm_config_section()}
        config = load_config(environ={"LOCALLLM_PLUGIN_SHOUT_MARKS": "3"}, sections=sections)
    finally:
        del sys.modules["documented_shout"]
    assert config.plugin["shout"].marks == 3


@pytest.fixture
def documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], ModuleType]]:
    """Return a function that makes a module, by name, of the documented block that holds some words."""
    monkeypatch.syspath_prepend(tmp_path)
    made: list[str] = []

    def make(name: str, words: str) -> ModuleType:
        [source] = [block for block in blocks(DOCS / "writing_plugins.md", "python") if words in block]
        (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
        made.append(name)
        return importlib.import_module(name)

    yield make
    for name in made:
        sys.modules.pop(name, None)


def test_the_documented_description_is_true(documented: Callable[[str, str], ModuleType], tmp_path: Path) -> None:
    plugin = documented("localllm_shout", "EndpointDoc(")

    async def scenario() -> None:
        async with serve_in_process({"shout": plugin}, tmp_path) as server:
            description = Description((await server.client.get("/openapi.json")).json())
            description.check()
            [example] = [one for one in description.examples() if one.template == "/v1/shout"]
            response = await server.client.post(example.path, json=example.body)
            assert response.json() == {"text": "HELLO"}
            description.check_answer("post", example.template, response)

    asyncio.run(scenario())


def test_the_documented_interceptor_works(documented: Callable[[str, str], ModuleType], tmp_path: Path) -> None:
    plugin = documented("localllm_calendar", "class Calendar")

    async def scenario() -> None:
        async with serve_in_process({"chat": "localllm_chat", "calendar": plugin.__name__}, tmp_path) as server:
            body = {"messages": [{"role": "user", "content": "Hi"}]}
            today = (await server.client.post("/v1/chat/completions", json=body)).json()["today"]
            (request,) = server.model.requests
            assert request.prompt.messages[0]["content"] == f"Today is {today}."  # type: ignore[union-attr]
            (calendar,) = server.plugins.interceptors
            assert calendar.n_words == 2  # type: ignore[attr-defined]

    asyncio.run(scenario())


def test_the_documented_pooling_endpoint_works(documented: Callable[[str, str], ModuleType], tmp_path: Path) -> None:
    plugin = documented("localllm_nearest", "/v1/nearest")
    models = ScriptedModels([ModelSpec("scripted", "scripted", kind=ModelKind.EMBEDDING)])

    async def scenario() -> None:
        async with serve_in_process({"nearest": plugin}, tmp_path, models=models) as server:
            texts = ["a small fox", "one bear", "one fox", "blue"]
            response = await server.client.post("/v1/nearest", json={"texts": texts})
            assert response.json() == {"nearest": "one fox"}
            error = (await server.client.post("/v1/nearest", json={"texts": ["a"]})).json()["error"]
            assert error["param"] == "texts"

    asyncio.run(scenario())


@pytest.mark.process
def test_the_documented_pooling_engine_works_in_a_worker(
    documented: Callable[[str, str], ModuleType], tmp_path: Path
) -> None:
    documented("localllm_letters", "class Letters")
    spec = ModelSpec("letters", "letters", kind=ModelKind.EMBEDDING)
    backend = BackendSpec("letters", frozenset({Mode.POOL}), factory="localllm_letters:load")
    catalog = Catalog(CatalogOptions(tmp_path / "models", backend=None, registered=(spec,)))
    settings = RegistrySettings(tmp_path, extra_environment={"PYTHONPATH": str(tmp_path)})

    async def scenario() -> None:
        registry = ModelRegistry(catalog, {"letters": backend}, settings, lambda event: None, time.monotonic)
        try:
            request = PoolRequest((TextPrompt("aab"), TextPrompt("b")), dimensions=2, normalize=False)
            async with registry.acquire("letters", Mode.POOL) as client:
                events = [event async for event in client.pool(request)]
        finally:
            await registry.close()
        vectors = dict(vector for event in events if isinstance(event, Pooled) for vector in event.vectors())
        assert vectors == {0: pack("<2f", 2, 1), 1: pack("<2f", 0, 1)}

    asyncio.run(scenario())


def test_rooms_in_the_architecture_exist_and_the_other_way_round() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    rooms = {path.name for path in (ROOT / "localllm").iterdir() if path.is_dir() and any(path.glob("*.py"))}
    plugins = {path.name for path in (ROOT / "plugins").iterdir() if any(path.glob("*.py"))}
    named = set(re.findall(r"^\| `localllm\.(\w+)`", text, re.MULTILINE))
    assert {name for name in named if not (ROOT / "localllm" / f"{name}.py").exists()} == rooms
    assert set(re.findall(r"`plugins/(\w+)`", text)) == plugins
