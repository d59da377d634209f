"""A template of the configuration's replaces the model's own; what is wrong with it is told by its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from localllm import ChatPrompt, LoadRequest, Mode, ModelLoadError, ModelUnsupportedError
from localllm.testing.tiny_model import write_tiny_llama
from localllm_llama_cpp.loader import load
from localllm_llama_cpp.template_source import MAX_TEMPLATE_BYTES
from tests.plugins.llama_cpp.families import TEMPLATES

HELLO = ChatPrompt(({"role": "user", "content": "Hello"},))
SHOUTS = (
    "{% for m in messages %}{{ m.role|upper }}! {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT!{% endif %}"
)


def test_it_replaces_the_models_own(tiny_path: Path, load_model: Any, tmp_path: Path) -> None:
    (tmp_path / "t.jinja").write_text(SHOUTS)
    model = load_model(tiny_path, chat_template_file=str(tmp_path / "t.jinja"))
    assert model.renderer.render(HELLO).text == "USER! Hello\nASSISTANT!"
    assert load_model(tiny_path).renderer.render(HELLO).text.startswith("<|im_start|>user")


def test_it_gives_one_to_a_model_without(load_model: Any, tmp_path: Path) -> None:
    (tmp_path / "t.jinja").write_text(SHOUTS)
    bare = write_tiny_llama(tmp_path / "bare.gguf", chat_template=None)
    assert not load_model(bare).info.has_chat_template
    assert load_model(bare, chat_template_file=str(tmp_path / "t.jinja")).info.has_chat_template


def test_formats_are_found_in_it(tiny_path: Path, load_model: Any, tmp_path: Path) -> None:
    (tmp_path / "t.jinja").write_text((TEMPLATES / "qwen3.jinja").read_text())
    found = load_model(tiny_path, chat_template_file=str(tmp_path / "t.jinja")).info.meta["chat_format"]
    own = load_model(tiny_path).info.meta["chat_format"]
    assert found["thought"]
    assert found["calls"]
    assert found != own


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (None, "can't be read: No such file or directory"),
        (b"\xff\xfe", "is not a text in UTF-8"),
        (b" \n", "is empty"),
        (b"x" * (MAX_TEMPLATE_BYTES + 1), f"has more than {MAX_TEMPLATE_BYTES} bytes"),
    ],
)
def test_one_that_can_not_be_read_fails_the_load_by_its_name(
    tiny_path: Path, tmp_path: Path, content: bytes | None, fault: str
) -> None:
    path = tmp_path / "t.jinja"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelLoadError) as caught:
        load(LoadRequest("tiny", str(tiny_path), Mode.GENERATE, {"chat_template_file": str(path)}))
    assert caught.value.message == f"The chat template {path} of model 'tiny' {fault} (chat_template_file)."


def test_a_broken_one_is_a_note_with_its_name(tiny_path: Path, load_model: Any, tmp_path: Path) -> None:
    path = tmp_path / "t.jinja"
    path.write_text("{% for m in %}")
    model = load_model(tiny_path, chat_template_file=str(path))
    assert not model.info.has_chat_template
    [note] = model.info.notes
    assert note.startswith(f"The chat template in {path} can't be compiled: ")
    with pytest.raises(ModelUnsupportedError):
        model.renderer.render(HELLO)
