"""Rewrites what is generated from the code (`make docs`): the reference in configuration.md, and localllm.toml.

A test fails when they are behind.
"""

from __future__ import annotations

from pathlib import Path

from localllm.config.describe import manual_tables, toml_template
from localllm.plugin_manager import load_plugins

PAGE = Path(__file__).parent / "configuration.md"
DEFAULT_FILE = Path(__file__).parents[1] / "localllm.toml"
MARK = "<!-- from here on written by `make docs` -->\n"


def page(current: str) -> str:
    """Return configuration.md with its reference brought up to date."""
    text, mark, _ = current.partition(MARK)
    return f"{text}{mark}\n{manual_tables(load_plugins().sections)}"


def default_file() -> str:
    """Return the checkout's localllm.toml: all defaults, and the bundled model for requests that name none."""
    return toml_template(load_plugins().sections, {"models.default": "localllm-demo"})


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    DEFAULT_FILE.write_text(default_file(), encoding="utf-8")
