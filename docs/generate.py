"""Rewrites the generated part of configuration.md from the code (`make docs`); a test fails when it is behind."""

from __future__ import annotations

from pathlib import Path

from localllm.config.describe import manual_tables
from localllm.plugin_manager import load_plugins

PAGE = Path(__file__).parent / "configuration.md"
MARK = "<!-- from here on written by `make docs` -->\n"


def generate(page: str) -> str:
    """Return the page with its reference brought up to date."""
    text, mark, _ = page.partition(MARK)
    return f"{text}{mark}\n{manual_tables(load_plugins().sections)}"


if __name__ == "__main__":
    PAGE.write_text(generate(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
