"""Every hook is prefixed, typed, says what to return, and has a test named after it."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from localllm import hookspecs

HOOKS: dict[str, Callable[..., Any]] = {
    name: value for name, value in vars(hookspecs).items() if hasattr(value, f"{hookspecs.PROJECT}_spec")
}


def test_there_are_hooks() -> None:
    assert "localllm_register_routes" in HOOKS


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_is_prefixed_typed_and_says_what_to_return(name: str) -> None:
    assert name.startswith("localllm_")
    signature = inspect.signature(HOOKS[name])
    assert all(parameter.annotation is not inspect.Parameter.empty for parameter in signature.parameters.values())
    assert signature.return_annotation is not inspect.Signature.empty
    assert "eturn" in (inspect.getdoc(HOOKS[name]) or "")


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_is_synchronous_and_neither_firstresult_nor_historic(name: str) -> None:
    options = vars(HOOKS[name])["localllm_spec"]
    assert not inspect.iscoroutinefunction(HOOKS[name])
    assert not options["firstresult"]
    assert not options["historic"]


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_has_a_test_named_after_it(name: str) -> None:
    tests: set[str] = set()
    for path in Path(__file__).parent.rglob("test_*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        tests |= {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}
    assert f"test_hook_{name}" in tests


def test_phases_stand_in_the_order_in_which_they_run() -> None:
    assert next(iter(HOOKS)) == "localllm_config_section"
    assert list(HOOKS)[-2:] == ["localllm_lifespan", "localllm_event"]
