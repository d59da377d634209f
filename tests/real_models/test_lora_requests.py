"""Requests that name their own adapters: served together, each gets exactly what it gets alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from localllm.contract.adapters import AdapterScale
from localllm.contract.errors import InvalidRequestError, UnsupportedFeatureError
from localllm.contract.generation import Chunk, Finished, GenerateRequest, SamplingParams, TextPrompt
from localllm.contract.wire import Submit
from localllm.engine.step_loop import StepLoop
from localllm.testing.tiny_lora import merge_loras, write_tiny_lora
from localllm.testing.tiny_model import write_tiny_llama
from localllm.worker.intake import prepare
from localllm_llama_cpp.loader import LlamaModel
from tests.loaded_models import loading
from tests.real_models.tiny_kinds import EXACT

pytestmark = pytest.mark.real_model

PROMPT = "the quick brown fox jumps over the lazy dog and runs away. " * 2
Files = dict[str, Path]
LoadWith = Callable[..., LlamaModel]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("lora")
    base = write_tiny_llama(folder / "base.gguf")
    formal = write_tiny_lora(folder / "formal.gguf", base, seed=1)
    rude = write_tiny_lora(folder / "rude.gguf", base, seed=2)
    return {"base": base, "formal": formal, "rude": rude}


@pytest.fixture
def load_with(files: Files) -> Iterator[LoadWith]:
    """Load the model with both adapters, which count only where they are asked for."""
    with loading() as load:

        def load_file(path: Path | None = None, **settings: Any) -> LlamaModel:
            lora = [{"path": str(files[name]), "scale": 0.0} for name in ("formal", "rude")]
            settings = {**EXACT, "parallel": 4, **({"lora": lora} if path is None else {}), **settings}
            return load(path or files["base"], **settings)

        yield load_file


def ask(*adapters: AdapterScale, usual: bool = False) -> GenerateRequest:
    sampling = SamplingParams(temperature=0.0, max_tokens=12, logprobs=2, ignore_eos=True)
    return GenerateRequest(TextPrompt(PROMPT), sampling, adapters=None if usual else adapters)


FORMAL, RUDE = AdapterScale(1.0, name="formal"), AdapterScale(1.0, name="rude")
CALM = AdapterScale(0.3, index=1)


def answers(model: LlamaModel, requests: Sequence[GenerateRequest], loop: StepLoop | None = None) -> list[Any]:
    """What each request is answered when they come together: texts with their log-probabilities, and cached tokens."""
    loop = loop or StepLoop(model.decoder, model.tokenizer, lambda: 0.0)
    names = [f"r{next(_NUMBERS)}" for _ in requests]
    for name, request in zip(names, requests, strict=True):
        loop.submit(prepare(Submit(name, request), model, queued_at=0.0))
    told: dict[str, list[Any]] = {name: [] for name in names}
    cached: dict[str, int] = {}
    while loop.has_work:
        for name, event in loop.step().events:
            if isinstance(event, Chunk):
                told[name].append((event.text, [round(one.logprob, 4) for one in event.logprobs]))
            elif isinstance(event, Finished):
                cached[name] = event.usage.cached_tokens
    loop.check()
    return [(told[name], cached[name]) for name in names]


_NUMBERS = itertools.count()


@pytest.mark.parametrize("layout", ["unified", "streams"])
def test_together_each_gets_what_it_gets_alone(load_with: LoadWith, layout: str) -> None:
    requests = [ask(FORMAL), ask(RUDE), ask(usual=True), ask(FORMAL, CALM), ask(CALM)]
    alone = [answers(load_with(kv_layout=layout), [request])[0] for request in requests]
    assert len({str(answer) for answer in alone}) == len(requests), "each adapter says something else"
    together = answers(load_with(kv_layout=layout), requests)
    assert [said for said, _ in together] == [said for said, _ in alone]
    assert [cached for _, cached in together] == [0] * len(requests), "no set of adapters uses what another evaluated"


def test_an_adapter_by_request_is_that_of_merged_weights(load_with: LoadWith, files: Files, tmp_path: Path) -> None:
    merged = merge_loras(tmp_path / "merged.gguf", files["base"], [(files["formal"], 1.0), (files["rude"], 0.3)])
    [(expected, _)] = answers(load_with(merged), [ask(usual=True)])
    [(found, _)] = answers(load_with(), [ask(CALM, FORMAL)])
    assert [text for text, _ in found] == [text for text, _ in expected]
    for (_, one), (_, other) in zip(found, expected, strict=True):
        assert one == pytest.approx(other, abs=2e-3)


def test_each_set_has_a_cache_of_its_own(load_with: LoadWith) -> None:
    model = load_with()
    loop = StepLoop(model.decoder, model.tokenizer, lambda: 0.0)
    cached = [answers(model, [request], loop)[0][1] for request in (ask(FORMAL), ask(RUDE), ask(FORMAL), ask())]
    assert cached[0] == cached[1] == cached[3] == 0, "no adapters at all is a set too"
    assert cached[2] > 50


def test_none_at_all_is_the_model_itself(load_with: LoadWith, files: Files) -> None:
    [(bare, _)] = answers(load_with(files["base"]), [ask(usual=True)])
    lora = [{"path": str(files["formal"]), "scale": 1.0}]
    (none, _), (usual, _) = answers(load_with(lora=lora), [ask(AdapterScale(0.0, name="formal")), ask(usual=True)])
    assert none == bare
    assert usual != bare


@pytest.mark.parametrize(
    ("adapters", "param", "message"),
    [
        (
            (AdapterScale(1.0, name="polite"),),
            "lora[0]",
            "has no LoRA adapter with the name 'polite'; it has: 0 (formal)",
        ),
        ((FORMAL, AdapterScale(1.0, index=2)), "lora[1]", "has no LoRA adapter with the id 2"),
        ((FORMAL, AdapterScale(1.0, index=0)), "lora[1]", "names the adapter 'formal' twice"),
    ],
)
def test_adapters_that_there_are_not_are_the_callers_mistake(
    load_with: LoadWith, adapters: tuple[AdapterScale, ...], param: str, message: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        prepare(Submit("r", ask(*adapters)), load_with(), queued_at=0.0)
    assert caught.value.param == param
    assert message in caught.value.message


def test_a_model_without_adapters_has_none_to_choose(load_with: LoadWith, files: Files) -> None:
    with pytest.raises(UnsupportedFeatureError) as caught:
        prepare(Submit("r", ask(FORMAL)), load_with(files["base"]), queued_at=0.0)
    assert caught.value.param == "lora"
