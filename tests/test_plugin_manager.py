"""Plugins are found, ordered, isolated and named in every error; each hook does what its docstring says."""

from __future__ import annotations

import logging
import sys
import textwrap
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, distributions
from pathlib import Path
from typing import Any

import pytest

from localllm.config.schema import Config, ServerSection
from localllm.context import PluginContext
from localllm.contract.backend import BackendSpec
from localllm.contract.events import ModelUnloaded
from localllm.contract.model import Mode, ModelKind, ModelSpec
from localllm.plugin_discovery import BUILT_INS, PluginError
from localllm.plugin_manager import PluginInfo, PluginManager, load_plugins

HEAD = """
from starlette.middleware import Middleware
from starlette.routing import Route
from localllm import BackendSpec, Mode, ModelSpec, hookimpl, setting
"""

ROUTE = """
@hookimpl
def localllm_register_routes(context, register):
    register(Route("/{name}", lambda request: None, methods=["POST"]), name="{name}")
"""

EVENT = ModelUnloaded("m", "idle")


@dataclass
class Shelf:
    """Installs little plugins into a folder, each as a distribution of its own."""

    folder: Path
    names: list[str] = field(default_factory=list)

    def add(self, name: str, source: str = "", *, module: str | None = None, distribution: str | None = None) -> str:
        module = module or f"shelf_{name}"
        (self.folder / f"{module}.py").write_text(HEAD + textwrap.dedent(source))
        distribution = distribution or f"dist-{name}"
        info = self.folder / f"{distribution.replace('-', '_')}-1.5.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.5\n")
        with (info / "entry_points.txt").open("a") as file:
            file.write(f"[localllm]\n{name} = {module}\n" if not file.tell() else f"{name} = {module}\n")
        self.names.append(name)
        return name

    def found(self) -> list[EntryPoint]:
        return [entry for dist in distributions(path=[str(self.folder)]) for entry in dist.entry_points]

    def load(self, *enabled: str) -> PluginManager:
        return load_plugins(list(enabled or self.names), entry_points=self.found())

    def registered(self, *enabled: str, config: Config | None = None) -> PluginManager:
        manager = self.load(*enabled)
        manager.register(config or Config(), clock=lambda: 42.0)
        return manager

    def refused(self, *enabled: str) -> str:
        with pytest.raises(PluginError) as caught:
            self.registered(*enabled)
        return str(caught.value)


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shelf]:
    monkeypatch.syspath_prepend(tmp_path)
    yield Shelf(tmp_path)
    for name in [name for name in sys.modules if name.startswith("shelf_")]:
        del sys.modules[name]


def test_plugins_run_in_the_order_of_the_list(shelf: Shelf) -> None:
    for name in ("b", "a", "c"):
        shelf.add(name, ROUTE.replace("{name}", name))
    assert [route.name for route in shelf.registered("c", "a", "b").routes] == ["c", "a", "b"]


def test_only_enabled_plugins_are_imported(shelf: Shelf) -> None:
    shelf.add("a")
    shelf.add("b", "raise RuntimeError('must not be imported')")
    manager = shelf.load("a")
    assert "shelf_b" not in sys.modules
    assert manager.installed == ("a", "b")


def test_without_a_list_all_built_in_plugins_run_in_their_order(shelf: Shelf) -> None:
    shelf.add("other")
    for name in ("llama_cpp", "chat", "completions"):
        shelf.add(name, distribution="localllm", module=f"shelf_{name}")
    shelf.add("experimental", distribution="localllm")
    enabled = [info.name for info in load_plugins(None, entry_points=shelf.found()).describe() if info.enabled]
    assert enabled == ["chat", "completions", "llama_cpp"]


def test_the_real_built_in_plugins_load() -> None:
    infos = [info for info in load_plugins().describe() if info.enabled]
    assert [info.name for info in infos] == list(BUILT_INS)
    assert {info.distribution for info in infos} == {"localllm"}


def test_describe_tells_hooks_of_enabled_plugins_alone(shelf: Shelf) -> None:
    shelf.add("a", ROUTE)
    shelf.add("b", ROUTE)
    assert shelf.load("b").describe() == [
        PluginInfo("b", "dist-b", "1.5", True, ("localllm_register_routes",)),
        PluginInfo("a", "dist-a", "1.5", False),
    ]


FAULTS = {
    "failing import": ("import no_such_module", "importing shelf_bad failed: ModuleNotFoundError"),
    "syntax error": ("def (", "importing shelf_bad failed: SyntaxError"),
    "misspelt hook": ("@hookimpl\ndef localllm_register_rutes(context, register): pass", "localllm_register_rutes"),
    "unmarked hook": ("def localllm_register_routes(context, register): pass", "lacks the @hookimpl mark"),
    "async hook": ("@hookimpl\nasync def localllm_register_routes(context, register): pass", "is async"),
    "bare async generator": ("@hookimpl\nasync def localllm_lifespan(context): yield", "is async"),
    "wrapper": ("@hookimpl(wrapper=True)\ndef localllm_register_routes(context): yield", "is a wrapper"),
    "unknown argument": ("@hookimpl\ndef localllm_register_routes(context, registry): pass", "registry"),
    "raising hook": (
        "@hookimpl\ndef localllm_register_routes(context, register): 1 / 0",
        "localllm_register_routes raised ZeroDivisionError: division by zero",
    ),
    "returned instead of registered": (
        "@hookimpl\ndef localllm_register_routes(context): return Route('/x', print)",
        "call register(...) for it and return nothing",
    ),
    "section no dataclass": ("@hookimpl\ndef localllm_config_section(): return dict", "is not a dataclass"),
    "section without default": (
        (
            "import dataclasses\n@dataclasses.dataclass\nclass S:\n    a: int\n"
            "@hookimpl\ndef localllm_config_section(): return S"
        ),
        "S.a has no default",
    ),
    "no route": ("@hookimpl\ndef localllm_register_routes(register): register(1, name='x')", "registered 1 as a route"),
    "route without name": (
        "@hookimpl\ndef localllm_register_routes(register): register(Route('/x', print))",
        "missing 1 required keyword-only argument: 'name'",
    ),
    "no backend": ("@hookimpl\ndef localllm_register_backends(register): register('x')", "registered 'x' as a backend"),
    "no model": ("@hookimpl\ndef localllm_register_models(register): register('x')", "registered 'x' as a model"),
    "no interceptor": (
        "@hookimpl\ndef localllm_register_interceptors(register): register(1)",
        "async method before(asked)",
    ),
    "no source": ("@hookimpl\ndef localllm_register_sources(register): register('x')", "as a source of models"),
    "model of no backend": (
        "@hookimpl\ndef localllm_register_models(register): register(ModelSpec('m', 'nowhere'))",
        "needs the backend 'nowhere', which no plugin brings",
    ),
    "no middleware": (
        "@hookimpl\ndef localllm_register_middleware(register): register(print)",
        "as middleware; use starlette.middleware.Middleware(class)",
    ),
    "no position": (
        "@hookimpl\ndef localllm_register_middleware(register): register(Middleware(object), position='top')",
        "at position 'top'; use outer or inner",
    ),
    "backend of two kinds": (
        (
            "@hookimpl\ndef localllm_register_backends(register):\n"
            "    register(BackendSpec('x', frozenset(), factory='a:b', connect=print))"
        ),
        "give it a factory",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_plugin_stops_the_start_and_is_named(shelf: Shelf, fault: str) -> None:
    source, sentence = FAULTS[fault]
    shelf.add("good")
    shelf.add("bad", source)
    message = shelf.refused()
    assert message.startswith("plugin 'bad' (dist-bad 1.5): ")
    assert sentence in message
    assert "\n" not in message


BACKEND = """
@hookimpl
def localllm_register_backends(register):
    register(BackendSpec("engine", frozenset({Mode.GENERATE}), factory="pkg.module:load"))
"""


@pytest.mark.parametrize(
    ("first", "second", "sentence"),
    [
        (ROUTE, ROUTE, "the route name '{name}' is already used by plugin 'a' (dist-a 1.5)"),
        (ROUTE, ROUTE.replace('name="{name}"', 'name="other"'), "POST /{name} is already served by plugin 'a'"),
        (BACKEND, BACKEND, "the backend 'engine' is already brought by plugin 'a'"),
    ],
)
def test_a_name_used_twice_names_both_plugins(shelf: Shelf, first: str, second: str, sentence: str) -> None:
    shelf.add("a", first)
    shelf.add("b", second)
    message = shelf.refused()
    assert message.startswith("plugin 'b' (dist-b 1.5): ")
    assert sentence in message


def test_two_models_of_one_id(shelf: Shelf) -> None:
    model = """
    @hookimpl
    def localllm_register_models(register):
        register(ModelSpec("m", "engine"))
    """
    shelf.add("engine", BACKEND)
    shelf.add("a", model)
    shelf.add("b", model)
    assert "the model 'm' is already brought by plugin 'a'" in shelf.refused()


def test_an_unknown_plugin_gets_the_nearest_name_or_advice(shelf: Shelf) -> None:
    shelf.add("sessions")
    assert "no installed plugin is called 'session'; did you mean 'sessions'?" in shelf.refused("session")
    assert "install the distribution that provides it" in shelf.refused("quite_other")


def test_a_plugin_that_two_distributions_provide_is_refused_only_when_enabled(shelf: Shelf) -> None:
    shelf.add("fine")
    shelf.add("echo", module="shelf_one", distribution="one")
    shelf.add("echo", module="shelf_two", distribution="two")
    assert "one 1.5 and two 1.5 both provide a plugin 'echo'" in shelf.refused("echo")
    assert shelf.load("fine").sections == {}


def test_two_names_for_one_module_are_refused(shelf: Shelf) -> None:
    shelf.add("a", module="shelf_same")
    shelf.add("b", module="shelf_same")
    assert "already loaded under another name" in shelf.refused("a", "b")


def test_a_class_is_no_plugin(shelf: Shelf) -> None:
    shelf.add("a", "class Plugin: pass")
    entry = EntryPoint("a", "shelf_a:Plugin", "localllm")
    with pytest.raises(PluginError, match="is a class; let the entry point name a module or an instance"):
        load_plugins(["a"], entry_points=[entry])


def test_registering_after_the_phase_is_refused(shelf: Shelf) -> None:
    shelf.add("a", "kept = []\n@hookimpl\ndef localllm_register_routes(register): kept.append(register)")
    shelf.registered()
    register = sys.modules["shelf_a"].kept[0]
    with pytest.raises(PluginError, match=r"plugin 'a' \(dist-a 1.5\): registered routes after the server had started"):
        register(object(), name="late")


def test_phases_only_go_forward(shelf: Shelf) -> None:
    shelf.add("a")
    manager = shelf.load()
    for early in (lambda: manager.routes, lambda: manager.backends, manager.lifespans):
        with pytest.raises(RuntimeError, match="have not registered yet"):
            early()
    manager.register(Config())
    with pytest.raises(RuntimeError, match="register once"):
        manager.register(Config())


def test_two_managers_know_nothing_of_each_other(shelf: Shelf) -> None:
    shelf.add("a", ROUTE)
    first, second = shelf.registered(), shelf.registered()
    assert len(first.routes) == len(second.routes) == 1


def test_properties_of_a_plugin_are_never_evaluated() -> None:
    class Plugin:
        @property
        def surprise(self) -> None:
            raise AssertionError

    sys.modules["shelf_instance"] = type(sys)("shelf_instance")
    sys.modules["shelf_instance"].plugin = Plugin()  # type: ignore[attr-defined]
    try:
        load_plugins(["a"], entry_points=[EntryPoint("a", "shelf_instance:plugin", "localllm")])
    finally:
        del sys.modules["shelf_instance"]


# --- one test for each hook: tests/test_hookspecs.py sees to it ------------------------------------------------------


def test_hook_localllm_config_section(shelf: Shelf) -> None:
    shelf.add(
        "a",
        """
        import dataclasses

        @dataclasses.dataclass(frozen=True)
        class Section:
            limit: int = setting(3, "A limit.")

        @hookimpl
        def localllm_config_section():
            return Section
        """,
    )
    shelf.add("b", "@hookimpl\ndef localllm_config_section(): return None")
    manager = shelf.load()
    assert manager.sections == {"a": sys.modules["shelf_a"].Section}


def test_a_plugin_that_the_configuration_says_nothing_of_gets_its_defaults(shelf: Shelf) -> None:
    shelf.add(
        "a",
        """
        import dataclasses

        @dataclasses.dataclass(frozen=True)
        class Section:
            limit: int = setting(3, "A limit.")

        @hookimpl
        def localllm_config_section():
            return Section

        @hookimpl
        def localllm_register_routes(context, register):
            register(Route(f"/{context.config.limit}", print), name="x")
        """,
    )
    (route,) = shelf.registered().routes
    assert getattr(route.route, "path", None) == "/3"


def test_hook_localllm_register_routes(shelf: Shelf) -> None:
    shelf.add(
        "a",
        """
        @hookimpl
        def localllm_register_routes(context, register):
            register(Route("/x", print, methods=["GET"]), name="get-x")
            register(Route("/x", print, methods=["POST"]), name="post-x", max_body_bytes=5000, public=True)
        """,
    )
    get, post = shelf.registered().routes
    assert (get.name, get.max_body_bytes, get.public, get.plugin.name) == ("get-x", None, False, "a")
    assert (post.name, post.max_body_bytes, post.public, post.plugin.name) == ("post-x", 5000, True, "a")


@pytest.mark.parametrize(
    ("route", "doc", "fault"),
    [
        ('Route("/x", print)', '{"summary": "x"}', "described the route 'x' by {'summary': 'x'}"),
        ('Mount("/x", print)', 'EndpointDoc("x")', "only a Route with a path and methods can have a doc"),
    ],
)
def test_docs_that_no_route_can_have(shelf: Shelf, route: str, doc: str, fault: str) -> None:
    shelf.add(
        "a",
        f"""
        from localllm import EndpointDoc
        from starlette.routing import Mount

        @hookimpl
        def localllm_register_routes(context, register):
            register({route}, name="x", doc={doc})
        """,
    )
    assert fault in shelf.refused()


def test_hook_localllm_register_backends(shelf: Shelf) -> None:
    shelf.add("a", BACKEND)
    manager = shelf.registered()
    assert manager.backends == {"engine": BackendSpec("engine", frozenset({Mode.GENERATE}), factory="pkg.module:load")}
    assert manager.backend_owners == {"engine": "a"}


def test_hook_localllm_register_models(shelf: Shelf) -> None:
    model = """
    @hookimpl
    def localllm_register_models(context, register):
        register(ModelSpec("m", "engine"))
    """
    shelf.add("models", model)  # before the plugin whose backend it needs: all backends register first
    shelf.add("engine", BACKEND)
    assert shelf.registered().models == (ModelSpec("m", "engine"),)


MINE = """
from localllm import SourceSpec
@hookimpl
def localllm_register_sources(context, register):
    register(SourceSpec({scheme!r}, "shelf_mine:make", example="s3:bucket/key"))
"""


def test_hook_localllm_register_sources(shelf: Shelf) -> None:
    shelf.add("mine", MINE.format(scheme="s3"))
    plugins = shelf.registered()
    assert plugins.sources["s3"].factory == "shelf_mine:make"
    assert plugins.source_owners == {"s3": "mine"}
    shelf.add("other", MINE.format(scheme="s3"))
    assert "the source 's3' is already brought by plugin 'mine'" in shelf.refused()


@pytest.mark.parametrize("scheme", ["", "S3", "a b", "s", "3x", "x:"])
def test_schemes_that_no_source_can_have(shelf: Shelf, scheme: str) -> None:
    shelf.add("mine", MINE.format(scheme=scheme))
    assert "registered the scheme" in shelf.refused()


def test_hook_localllm_register_middleware(shelf: Shelf) -> None:
    shelf.add(
        "a",
        """
        @hookimpl
        def localllm_register_middleware(context, register):
            register(Middleware(dict))
            register(Middleware(list), position="outer")
        """,
    )
    found = [(one.middleware.cls, one.position, one.plugin) for one in shelf.registered().middleware]
    assert found == [(dict, "inner", "a"), (list, "outer", "a")]


def test_hook_localllm_register_interceptors(shelf: Shelf) -> None:
    source = """
    class Watcher:
        async def before(self, asked):
            return None

    watcher = Watcher()

    @hookimpl
    def localllm_register_interceptors(context, register):
        assert context.interceptors  # they are asked for in handlers
        register(watcher)
    """
    shelf.add("a", source)
    shelf.add("b", source)
    plugins = shelf.registered("b", "a")
    assert plugins.interceptors == (sys.modules["shelf_b"].watcher, sys.modules["shelf_a"].watcher)


STORE = """
from localllm.testing import MemoryStore

store = MemoryStore()

@hookimpl
def localllm_register_stores(context, register):
    assert context.session_store() is None  # it is for handlers
    register(store, name={name!r})
"""


def test_hook_localllm_register_stores(shelf: Shelf) -> None:
    shelf.add("a", STORE.format(name="memory"))
    shelf.add("b", STORE.format(name="other"))
    shelf.add("user", CONTEXT)
    a, b = (shelf.registered("a", "b", "user").session_store(), sys.modules["shelf_b"].store)
    assert a is sys.modules["shelf_a"].store, "the first one"
    chosen = shelf.registered("a", "b", "user", config=Config(server=ServerSection(session_store="other")))
    assert chosen.session_store() is b
    assert sys.modules["shelf_user"].contexts[-1].session_store() is b
    assert shelf.registered("user").session_store() is None


def test_a_store_that_nobody_brings_is_refused(shelf: Shelf) -> None:
    shelf.add("a", STORE.format(name="memory"))
    config = Config(server=ServerSection(session_store="memroy"))
    with pytest.raises(PluginError, match="session_store is 'memroy', which no enabled plugin brings"):
        shelf.registered(config=config)
    with pytest.raises(PluginError, match="there are: memory"):
        shelf.registered(config=config)


def test_two_stores_of_one_name_are_refused(shelf: Shelf) -> None:
    shelf.add("a", STORE.format(name="memory"))
    shelf.add("b", STORE.format(name="memory"))
    assert "the store 'memory' is already brought by plugin 'a' (dist-a 1.5)" in shelf.refused()


def test_a_store_that_lacks_methods_is_refused(shelf: Shelf) -> None:
    shelf.add(
        "a",
        """
        from localllm.testing import MemoryStore

        class Store:
            create = get = list = change = delete = messages = append = MemoryStore.get
            put_records = get_record = list_records = MemoryStore.get

        @hookimpl
        def localllm_register_stores(register): register(Store(), name="half")
        """,
    )
    message = shelf.refused()
    assert "as a store, but it has no recent, delete_record" in message


def test_hook_localllm_register_commands(shelf: Shelf) -> None:
    source = "@hookimpl\ndef localllm_register_commands(context, register): register({target!r})"
    shelf.add("a", source.format(target="shelf_commands.of_a:app"))
    shelf.add("none")
    plugins = shelf.registered()
    found = plugins.commands_of("a")
    assert found is not None
    assert (found[0], found[1].name) == ("shelf_commands.of_a:app", "a")
    assert plugins.commands_of("none") is None
    assert "shelf_commands" not in sys.modules
    shelf.add("b", source.format(target="no target"))
    assert "registered 'no target' as commands; name a typer.Typer as 'package.module:app'" in shelf.refused("b")
    shelf.add("c", source.format(target="m:one") + "; register('m:two')")
    assert "registered commands twice; put those of m:two into m:one" in shelf.refused("c")


async def _enter(cycle: AbstractAsyncContextManager[None]) -> None:
    async with cycle:
        pass


def test_hook_localllm_lifespan(shelf: Shelf) -> None:
    import asyncio

    source = """
    from contextlib import asynccontextmanager

    seen = []

    @hookimpl
    def localllm_lifespan(context):
        @asynccontextmanager
        async def cycle():
            seen.append("in")
            yield
            seen.append("out")
        return cycle()
    """
    shelf.add("a", source)
    shelf.add("none", "@hookimpl\ndef localllm_lifespan(context): return None")
    [(name, cycle)] = shelf.registered().lifespans()
    asyncio.run(_enter(cycle))
    assert (name, sys.modules["shelf_a"].seen) == ("a", ["in", "out"])


def test_a_life_cycle_that_fails_names_its_plugin(shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:
    import asyncio

    source = """
    from contextlib import asynccontextmanager

    @hookimpl
    def localllm_lifespan(context):
        @asynccontextmanager
        async def cycle():
            {before}
            yield
            {after}
        return cycle()
    """
    shelf.add("a", source.format(before="raise OSError('no database')", after="pass"))
    shelf.add("b", source.format(before="pass", after="raise OSError('disk full')"))
    (_, first), (_, second) = shelf.registered().lifespans()
    with pytest.raises(PluginError, match=r"plugin 'a' \(dist-a 1\.5\): its life cycle raised OSError: no database"):
        asyncio.run(_enter(first))
    asyncio.run(_enter(second))
    assert "plugin 'b' (dist-b 1.5) failed at the end of its life cycle" in caplog.text
    assert "disk full" in caplog.text


def test_a_life_cycle_that_is_none_is_refused(shelf: Shelf) -> None:
    shelf.add("a", "@hookimpl\ndef localllm_lifespan(context): return 1")
    with pytest.raises(PluginError, match="returned 1, not an async context manager"):
        shelf.registered().lifespans()


def test_hook_localllm_event(shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:
    shelf.add("bad", "@hookimpl\ndef localllm_event(context, event): 1 / 0")
    shelf.add("good", "seen = []\n@hookimpl\ndef localllm_event(context, event): seen.append((context.name, event))")
    manager = shelf.registered()
    with caplog.at_level(logging.ERROR):
        manager.emit(EVENT)
    assert sys.modules["shelf_good"].seen == [("good", EVENT)]
    [record] = caplog.records
    assert record.getMessage() == "plugin 'bad' (dist-bad 1.5) failed at ModelUnloaded"
    assert record.exc_info


# --- contexts --------------------------------------------------------------------------------------------------------

CONTEXT = """
contexts = []

@hookimpl
def localllm_register_routes(context):
    contexts.append(context)
"""


class Access:
    """Stands for the registry."""

    def resolve(self, name: str | None, mode: Mode, purpose: ModelKind | None = None) -> ModelSpec:
        return ModelSpec(f"{name} {mode}", "x")

    @asynccontextmanager
    async def acquire(
        self,
        name: str | None,
        mode: Mode,
        *,
        autoload: bool = True,
        ttl_seconds: float | None = None,
        affinity: int | None = None,
    ) -> Any:
        yield None

    def list_specs(self) -> list[ModelSpec]:
        return []


def test_each_plugin_gets_its_own_context(shelf: Shelf) -> None:
    for name in ("a", "b"):
        shelf.add(name, CONTEXT)
    config = Config(plugin={"a": "section a"}, state_directory=Path("/state"))
    shelf.registered(config=config)
    a, b = (sys.modules[f"shelf_{name}"].contexts[0] for name in ("a", "b"))
    assert isinstance(a, PluginContext)
    assert (a.name, a.config, a.data_dir, a.clock()) == ("a", "section a", Path("/state/plugins/a"), 42.0)
    assert (b.name, b.config, b.data_dir) == ("b", None, Path("/state/plugins/b"))
    assert (a.logger.name, b.logger.name) == ("localllm.plugin.a", "localllm.plugin.b")


def test_models_are_out_of_reach_until_they_are_bound(shelf: Shelf) -> None:
    shelf.add("a", CONTEXT)
    manager = shelf.registered()
    models = sys.modules["shelf_a"].contexts[0].models
    with pytest.raises(RuntimeError, match="can't be reached while plugins register"):
        models.list_specs()
    manager.bind_models(Access())
    assert models.list_specs() == []
    assert models.resolve("m", Mode.POOL).id == "m pool"
    assert hasattr(models.acquire("m", Mode.POOL), "__aenter__")
