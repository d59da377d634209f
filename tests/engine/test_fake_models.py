"""The factories that a worker loads by name."""

from __future__ import annotations

import importlib
import signal
import subprocess
import sys

import pytest

from localllm.contract.backend import LoadRequest
from localllm.contract.decoder import Plan, SequenceKey, Slice
from localllm.contract.errors import InvalidRequestError, ModelLoadError
from localllm.contract.generation import ChatPrompt, SamplingParams
from localllm.contract.model import Mode
from localllm.testing.decoders import ByteTokenizer, FakeModel, PlainRenderer

FACTORIES = ["load_fake", "load_echo", "load_slow", "load_crashing", "load_hanging"]


def loaded(factory: str, *, safe_mode: bool = False, **settings: object) -> FakeModel:
    load = getattr(importlib.import_module("localllm.testing.decoders"), factory)
    return load(LoadRequest("fake", None, Mode.GENERATE, settings, safe_mode))


def first_tokens(model: FakeModel, n_steps: int) -> list[int]:
    """Step as a worker does: a prompt of one token and what comes after it."""
    model.decoder.open("r", SamplingParams(temperature=0.0), b"x")
    tokens = [ord("x")]
    for position in range(n_steps):
        model.decoder.submit(Plan(slices=(Slice(0, position, (tokens[-1],), (SequenceKey("r", 0),)),)))
        tokens.append(model.decoder.collect()[SequenceKey("r", 0)][0].token)
    model.close()
    return tokens[1:]


@pytest.mark.parametrize("factory", FACTORIES)
def test_every_factory_loads_and_takes_its_settings(factory: str) -> None:
    model = loaded(factory, context_length=77, n_cells=800, layout="streams", parallel=2)
    assert model.info.context_length == 77
    assert model.decoder.capabilities.layout == "streams"
    assert model.decoder.capabilities.parallel == 2
    assert model.info.has_chat_template


@pytest.mark.parametrize("factory", FACTORIES)
def test_an_unknown_setting_is_refused_with_those_that_exist(factory: str) -> None:
    with pytest.raises(ModelLoadError, match=r"'contxt_length'.*context_length"):
        loaded(factory, contxt_length=3)


def test_an_echo_can_be_given_its_answer() -> None:
    assert first_tokens(loaded("load_echo", text="hi"), 3) == [*b"hi", 256]


def test_a_failing_load_says_what_it_was_told_to() -> None:
    with pytest.raises(ModelLoadError, match="no such file"):
        loaded("load_fake", fail_load="no such file")


def test_a_crash_that_raises() -> None:
    with pytest.raises(RuntimeError, match="told to raise"):
        first_tokens(loaded("load_crashing", crash_signal="raise"), 4)


def test_safe_mode_survives_what_kills_the_usual_one() -> None:
    assert loaded("load_fake", crash_unless_safe_mode="SIGILL", safe_mode=True)


@pytest.mark.process
@pytest.mark.parametrize(
    "settings", [{"crash_on_load": "SIGKILL"}, {"crash_unless_safe_mode": "SIGKILL"}, {"crash_signal": "SIGKILL"}]
)
def test_a_crash_kills_the_process_with_its_last_words(settings: dict[str, str]) -> None:
    code = (
        "from localllm.contract.backend import LoadRequest\n"
        "from localllm.contract.model import Mode\n"
        "from localllm.contract.decoder import Plan, Slice\n"
        "from localllm.testing.decoders import load_crashing\n"
        f"settings = {{**{settings!r}, 'last_words': 'GGML_ASSERT(fake) failed', 'crash_after_steps': 0}}\n"
        "model = load_crashing(LoadRequest('m', None, Mode.GENERATE, settings))\n"
        "model.decoder.submit(Plan(slices=(Slice(0, 0, (1,)),)))\n"
        "model.decoder.collect()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == -signal.SIGKILL
    assert done.stderr.splitlines()[-1] == "GGML_ASSERT(fake) failed"


def test_the_tokenizer_reads_special_tokens_only_where_they_are_meant() -> None:
    tokenizer = ByteTokenizer()
    assert tokenizer.encode("é<|end|>", add_special=True, parse_special=True) == [257, 0xC3, 0xA9, 256]
    assert tokenizer.encode("<|end|>", add_special=False, parse_special=False) == list(b"<|end|>")
    assert [tokenizer.piece(token) for token in (0x41, 0xC3, 256, 257)] == [b"A", b"\xc3", b"", b""]


def test_the_renderer_writes_a_line_for_each_message() -> None:
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    assert PlainRenderer().render(ChatPrompt(tuple(messages))).text == "system: Be kind.\nuser: Hi\nassistant:"
    with pytest.raises(InvalidRequestError, match="Message 1") as refused:
        PlainRenderer().render(ChatPrompt((*messages[:1], {"role": "user"})))
    assert refused.value.param == "messages.1"
