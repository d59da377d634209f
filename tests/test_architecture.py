"""The import table of docs/architecture.md, held against every file, and the limits that keep files readable."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = ROOT / "localllm"
PLUGINS = ROOT / "plugins"

MAX_FILE_LINES = 350
MAX_FUNCTION_LINES = 60

PLUGIN_SYSTEM = {"hookspecs", "context", "plugin_discovery", "plugin_registry", "plugin_manager"}
SERVER_SIDE = {"contract", "config", "transport", "host", "models", "openai", *PLUGIN_SYSTEM}

TABLE: dict[str, tuple[set[str], set[str]]] = {
    # room: (rooms it may import, libraries it may import)
    "contract": (set(), set()),
    "config": ({"contract"}, {"tomli_w"}),
    "engine": ({"contract"}, set()),
    "transport": ({"contract"}, {"orjson"}),
    "hookspecs": ({"contract", "config"}, {"pluggy"}),
    "context": ({"contract", "config"}, set()),
    "plugin_discovery": ({"contract", "config"}, set()),
    "plugin_registry": ({"contract", "config", *PLUGIN_SYSTEM}, set()),
    "plugin_manager": ({"contract", "config", *PLUGIN_SYSTEM}, {"pluggy"}),
    "worker": ({"engine", "transport", "contract"}, set()),
    "host": ({"transport", "contract"}, set()),
    "models": ({"contract"}, set()),
    "openai": ({"contract"}, {"pydantic", "orjson"}),
    "server": (SERVER_SIDE, {"starlette", "hypercorn", "orjson", "uvloop", "h11"}),
    "cli": ({*SERVER_SIDE, "server"}, {"typer", "rich"}),
    "testing": (
        {*SERVER_SIDE, "server", "engine", "worker"},
        {"starlette", "httpx", "pytest", "orjson", "gguf", "numpy", "jsonschema", "openapi_spec_validator"},
    ),
}
"""Under ``TYPE_CHECKING`` the plugin system may also name starlette's types."""

PLUGIN_LIBRARIES = {
    "localllm_chat": {"starlette", "pydantic", "orjson"},
    "localllm_completions": {"starlette", "pydantic", "orjson"},
    "localllm_embeddings": {"starlette", "pydantic", "orjson"},
    "localllm_myllm": {"starlette", "pydantic", "orjson"},
    "localllm_rerank": {"starlette", "pydantic", "orjson"},
    "localllm_responses": {"starlette", "orjson"},
    "localllm_sessions": {"starlette", "pydantic", "orjson", "typer"},
    "localllm_sources": {"huggingface_hub"},
    "localllm_tokenize": {"starlette", "pydantic", "orjson"},
    "localllm_llama_cpp": {"llama_cpp", "llguidance", "numpy", "jinja2"},
}
PLUGIN_ROOMS = {
    "localllm_chat": {"openai"},
    "localllm_completions": {"openai"},
    "localllm_embeddings": {"openai"},
    "localllm_myllm": {"openai"},
    "localllm_rerank": {"openai"},
    "localllm_responses": {"openai"},
    "localllm_sessions": {"openai"},
    "localllm_sources": set(),
    "localllm_tokenize": {"openai"},
    "localllm_llama_cpp": set(),
}


@dataclass(frozen=True)
class Import:
    """One imported module and where."""

    module: str
    line: int
    typing_only: bool


def imports(path: Path) -> Iterator[Import]:
    """Yield all imports of a file, those inside functions too; relative ones stay inside their package."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            typing_only |= {id(child) for statement in node.body for child in ast.walk(statement)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, id(node) in typing_only)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                # "from localllm import x" may name a room or a public name
                is_room = node.module == "localllm" and (
                    (CORE / alias.name).is_dir() or (CORE / f"{alias.name}.py").is_file()
                )
                yield Import(
                    f"localllm.{alias.name}" if is_room else node.module or "", node.lineno, id(node) in typing_only
                )


def room_of(path: Path) -> str:
    return path.relative_to(CORE).parts[0].removesuffix(".py")


CORE_FILES = sorted(path for path in CORE.rglob("*.py") if path.parent != CORE or room_of(path) in TABLE)
PLUGIN_FILES = sorted(PLUGINS.rglob("*.py"))
ALL_FILES = sorted([*CORE.rglob("*.py"), *PLUGIN_FILES])


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", CORE_FILES, ids=name)
def test_a_room_imports_only_what_the_table_allows(path: Path) -> None:
    room = room_of(path)
    rooms, libraries = TABLE[room]
    for found in imports(path):
        top = found.module.split(".")[0]
        where = f"{name(path)}:{found.line} imports {found.module}"
        if top == "localllm":
            target = found.module.split(".")[1] if "." in found.module else "localllm"
            may = target in rooms | {room} or (target == "localllm" and room in {"cli", "server", "testing"})
            assert may or (room in PLUGIN_SYSTEM and found.typing_only), where
        elif top not in sys.stdlib_module_names:
            typed = {"starlette"} if room in PLUGIN_SYSTEM and found.typing_only else set()
            assert top in libraries | typed, where


@pytest.mark.parametrize("path", PLUGIN_FILES, ids=name)
def test_a_plugin_imports_only_the_public_surface(path: Path) -> None:
    plugin = path.relative_to(PLUGINS).parts[0]
    for found in imports(path):
        top = found.module.split(".")[0]
        where = f"{name(path)}:{found.line} imports {found.module}"
        if top == "localllm":
            rooms = {"localllm", *(f"localllm.{room}" for room in PLUGIN_ROOMS[plugin])}
            assert ".".join(found.module.split(".")[:2]) in rooms, where
        elif top not in sys.stdlib_module_names:
            assert top in PLUGIN_LIBRARIES[plugin], where


def test_every_room_and_plugin_is_in_the_tables() -> None:
    rooms = {path.name for path in CORE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    modules = {path.stem for path in CORE.glob("*.py")} - {"__init__", "__main__"}
    assert rooms | modules == set(TABLE)
    assert {path.name for path in PLUGINS.iterdir() if any(path.glob("*.py"))} == set(PLUGIN_LIBRARIES)


def rows_of_the_page(heading: str) -> dict[str, str]:
    """Return what a section's table says, by the names in its rows' first cells: the last cell."""
    section = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2]
    rows = [line.strip("|").split("|") for line in section.partition("\n## ")[0].splitlines() if line.startswith("| ")]
    return {name: cells[-1] for cells in rows for name in re.findall("`([^`]+)`", cells[0])}


def test_the_page_has_the_same_rooms_and_says_the_same_of_their_imports() -> None:
    told = {
        name.removeprefix("localllm.").removeprefix("plugins/"): cell
        for name, cell in rows_of_the_page("Rooms").items()
    }
    assert set(told) == {*TABLE, *PLUGIN_LIBRARIES}
    for room, (rooms, libraries) in TABLE.items():
        cell = told[room]
        if room in {"server", "cli", "testing"}:  # in words: all, but for a few
            rooms = {*TABLE} - rooms - {room} - ({"cli", "testing"} if room == "server" else set())
        if room not in PLUGIN_SYSTEM:
            assert set(re.findall("`([^`]+)`", cell)) == rooms, room
        if room != "testing":
            assert all(library in cell.lower() for library in libraries), room


def test_the_page_names_every_folder_of_tests() -> None:
    told = {name.removeprefix("tests/").partition("/")[0] for name in rows_of_the_page("Tests")}
    assert {path.name for path in (ROOT / "tests").iterdir() if any(path.glob("*.py"))} <= told


def test_the_core_names_no_built_in_plugin() -> None:
    for path in CORE.rglob("*.py"):
        assert not [found for found in imports(path) if found.module.startswith("localllm_")], name(path)


def test_hooks_are_called_in_one_module_only() -> None:
    users = [
        path for path in CORE.rglob("*.py") if "subset_hook_caller" in path.read_text() or ".hook." in path.read_text()
    ]
    assert [name(path) for path in users] == ["localllm/plugin_manager.py"]


def test_there_is_no_pickle_and_no_base_http_middleware() -> None:
    for path in ALL_FILES:
        modules = {found.module for found in imports(path)}
        assert not modules & {"pickle", "marshal", "shelve", "starlette.middleware.base"}, name(path)


def loaded_by(statement: str) -> set[str]:
    program = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=50)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import localllm.server.app, localllm.server.run, localllm.host.registry",
        "import localllm.cli, localllm.cli.serving, localllm.cli.diagnosis",
        (
            "from localllm.plugin_manager import load_plugins; from localllm.config.schema import Config;"
            "plugins = load_plugins(); sections = {name: kind() for name, kind in plugins.sections.items()};"
            "plugins.register(Config(plugin=sections))"
        ),
    ],
)
def test_the_server_process_never_loads_the_engine(statement: str) -> None:
    """A GGUF's template is untrusted code, a corrupt header aborts, and a parent that touches CUDA keeps its memory."""
    assert loaded_by(statement).isdisjoint({"llama_cpp", "llguidance", "numpy", "jinja2", "torch", "huggingface_hub"})


def test_importing_the_package_loads_nothing_of_it() -> None:
    loaded = {module for module in loaded_by("import localllm") if module.startswith("localllm")}
    assert loaded == {"localllm"}


def test_the_worker_loads_no_web_server() -> None:
    loaded = loaded_by("import localllm.worker.runtime")
    assert loaded.isdisjoint({"starlette", "hypercorn", "pydantic", "pluggy", "httpx"})


def test_public_names_are_sorted_complete_and_real() -> None:
    import localllm

    tree = ast.parse((CORE / "__init__.py").read_text())
    typed = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("localllm.")
        for alias in node.names
    }
    assert localllm.__all__ == sorted(localllm.__all__)
    assert typed | {"__version__"} == set(localllm.__all__)
    for public in localllm.__all__:
        assert getattr(localllm, public) is not None
    with pytest.raises(AttributeError, match="no public name 'Nonsense'"):
        _ = localllm.Nonsense


@pytest.mark.parametrize("path", ALL_FILES, ids=name)
def test_files_and_functions_stay_readable(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    lines = text.count("\n")
    assert lines <= MAX_FILE_LINES, f"{name(path)} has {lines} lines: it has two reasons to change, find them"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{name(path)}:{node.lineno} {node.name} has {length} lines"


@pytest.mark.parametrize("path", ALL_FILES, ids=name)
def test_modules_say_what_they_are_for(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring, f"{name(path)} has no docstring"
    assert docstring.splitlines()[0].endswith((".", "?", ":")), f"{name(path)} opens with no sentence"
