"""Vectors and scores of the real engine against an independent forward pass over the same file's tensors."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from localllm import LoadRequest, Mode, PoolItem
from localllm.testing.tiny_encoder import write_tiny_bert, write_tiny_qwen3_reranker
from localllm.testing.tiny_model import write_tiny_llama
from localllm_llama_cpp.loader import load
from localllm_llama_cpp.pool_loader import LlamaPoolerModel
from tests.real_models.numpy_encoder import NumpyEncoder, WordPiece, cosine

pytestmark = pytest.mark.real_model

SENTENCES = (
    "cat",
    "The cat sat on the mat.",
    "Café, ÑANDÚ! naïve déjà-vu; Straße",
    "日本語 中国人 大小山川 東京?",
    "😀 hello 👍🏽 you 🎉🎉",
    "Привет, \u200dмир\u0000 tab\tand\nnewline",  # noqa: RUF001
    "what is the capital of france? paris, in the blue city " * 4,
    "the river runs fast " * 100,
)
F32, Q8_0 = 0.9999, 0.999

FILES: dict[str, tuple[Callable[[Path], Path], float]] = {
    "mean": (partial(write_tiny_bert, pooling="mean"), F32),
    "cls": (partial(write_tiny_bert, pooling="cls"), F32),
    "mean-q8_0": (partial(write_tiny_bert, pooling="mean", quantization="q8_0"), Q8_0),
    "cls-q8_0": (partial(write_tiny_bert, pooling="cls", quantization="q8_0"), Q8_0),
    "deep": (partial(write_tiny_bert, n_embd=128, n_layer=6, n_head=2, n_ff=512, n_ctx=512, seed=1), F32),
    "last-decoder": (partial(write_tiny_llama, pooling_type=3), F32),
    "mean-decoder": (partial(write_tiny_llama, pooling_type=1), F32),
    "last-decoder-q8_0": (partial(write_tiny_llama, pooling_type=3, quantization="q8_0"), Q8_0),
    "decoder-that-looks-ahead": (
        partial(write_tiny_llama, pooling_type=1, metadata={"llama.attention.causal": False}),
        F32,
    ),
}
VECTOR_FILES = list(FILES)
RANKERS: dict[str, Callable[[Path], Path]] = {
    "one-layer": partial(write_tiny_bert, pooling="rank", head="direct"),
    "two-layers": partial(write_tiny_bert, pooling=None, head="dense"),
    "three-labels": partial(write_tiny_bert, pooling="rank", head="direct", labels=["no", "maybe", "yes"]),
    "template": write_tiny_qwen3_reranker,
}


class Subject:
    """A file, loaded by the engine and by the reference."""

    def __init__(self, path: Path, **settings: Any) -> None:
        self.path = path
        model = load(LoadRequest("tiny", str(path), Mode.POOL, {"threads": 1, **settings}))
        assert isinstance(model, LlamaPoolerModel)
        self.model = model
        self.reference = NumpyEncoder(path)
        assert model.info.pooling is not None
        self.kind = model.info.pooling.kind

    def tokens(self, text: str) -> list[int]:
        return self.model.encoder.encode_text(text, max_tokens=self.model.info.context_length)

    def pool(self, texts: Sequence[Sequence[int]], **wishes: Any) -> list[np.ndarray[Any, Any]]:
        items = [PoolItem(tuple(tokens), **wishes) for tokens in texts]
        return [np.frombuffer(data, "<f4") for data in self.model.pooler.pool(items)]


@pytest.fixture(scope="module")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Subject]]:
    folder = tmp_path_factory.mktemp("pooling")
    loaded: dict[tuple[Any, ...], Subject] = {}

    def subject(name: str, **settings: Any) -> Subject:
        key = (name, *settings.items())
        if key not in loaded:
            write = RANKERS[name] if name in RANKERS else FILES[name][0]
            loaded[key] = Subject(write(folder / f"{name}.gguf"), **settings)
        return loaded[key]

    yield subject
    for each in loaded.values():
        each.model.close()


@pytest.mark.parametrize("name", VECTOR_FILES)
def test_a_text_alone(subjects, name) -> None:
    subject = subjects(name)
    for text in SENTENCES:
        tokens = subject.tokens(text)
        [vector] = subject.pool([tokens])
        assert cosine(vector, subject.reference.pooled(tokens, subject.kind)) >= FILES[name][1], text
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", VECTOR_FILES)
def test_the_bound_would_catch_a_mistake(subjects, name) -> None:
    """The sentences' vectors are far apart; so are those of other pooling kinds, of a token less, or in other order."""
    subject = subjects(name)
    tokens = subject.tokens(SENTENCES[1])
    right = subject.reference.pooled(tokens, subject.kind)
    shuffled = [tokens[0], *reversed(tokens[1:-1]), tokens[-1]]
    others = [subject.reference.pooled(subject.tokens(text), subject.kind) for text in SENTENCES[2:]]
    others += [subject.reference.pooled(tokens, kind) for kind in ("mean", "cls", "last") if kind != subject.kind]
    others += [subject.reference.pooled(tokens[:-1], subject.kind), subject.reference.pooled(shuffled, subject.kind)]
    assert max(cosine(right, other) for other in others) < Q8_0


@pytest.mark.parametrize("name", VECTOR_FILES)
def test_a_batch_gives_what_single_texts_give(subjects, name) -> None:
    subject = subjects(name)
    bound = FILES[name][1]
    rng = random.Random(name)
    texts = [subject.tokens(text)[:60] for text in SENTENCES]
    single = [subject.pool([tokens])[0] for tokens in texts]
    for _ in range(10):
        order = rng.sample(range(len(texts)), len(texts))
        room = subject.model.pooler.capabilities.batch_tokens
        while order:
            packed: list[int] = []
            while order and sum(len(texts[i]) for i in packed) + len(texts[order[-1]]) <= room:
                packed.append(order.pop())
            for i, vector in zip(packed, subject.pool([texts[i] for i in packed]), strict=True):
                assert cosine(vector, single[i]) >= bound


@pytest.mark.parametrize("name", ["mean", "cls", "last-decoder"])
def test_every_length_up_to_the_whole_context(subjects, name) -> None:
    subject = subjects(name)
    longest = subject.model.info.context_length
    rng = random.Random(0)
    for length in (1, 2, 3, 5, 31, 32, 33, 64, 100, 127, longest - 1, longest):
        tokens = [rng.randrange(5, 150) for _ in range(length)]
        [vector] = subject.pool([tokens])
        assert cosine(vector, subject.reference.pooled(tokens, subject.kind)) >= F32, length


@pytest.mark.parametrize("kind", ["mean", "cls", "last"])
def test_a_long_text_in_pieces(subjects, kind) -> None:
    """A decoder's text of several micro-batches, the last of them short."""
    subject = subjects("last-decoder", pooling=kind, pool_batch_tokens=64)
    assert subject.model.info.context_length == 512
    rng = random.Random(kind)
    for length in (63, 64, 65, 128, 200, 512):
        tokens = [rng.randrange(0, 256) for _ in range(length)]
        [vector] = subject.pool([tokens])
        assert cosine(vector, subject.reference.pooled(tokens, kind)) >= F32, length
    texts = [[rng.randrange(0, 256) for _ in range(100)] for _ in range(3)]
    for vector, tokens in zip(subject.pool(texts), texts, strict=True):
        assert cosine(vector, subject.reference.pooled(tokens, kind)) >= F32


@pytest.mark.parametrize("flash_attention", [True, False])
def test_flash_attention_changes_nothing(subjects, flash_attention) -> None:
    subject = subjects("mean", flash_attention=flash_attention)
    texts = [subject.tokens(text) for text in SENTENCES[:5]]
    for vector, tokens in zip(subject.pool(texts), texts, strict=True):
        assert cosine(vector, subject.reference.pooled(tokens, "mean")) >= F32


def test_earlier_batches_leave_nothing_behind(subjects) -> None:
    subject = subjects("last-decoder")
    tokens = subject.tokens(SENTENCES[1])
    [before] = subject.pool([tokens])
    subject.pool([subject.tokens(text)[:40] for text in SENTENCES[2:6]])
    subject.pool([subject.tokens(SENTENCES[-1])])
    [after] = subject.pool([tokens])
    assert np.array_equal(before, after)


@pytest.mark.parametrize("name", ["mean", "cls", "mean-q8_0", "deep"])
@pytest.mark.parametrize("text", SENTENCES, ids=range(len(SENTENCES)))
def test_tokens_are_those_of_wordpiece(subjects, name, text) -> None:
    subject = subjects(name)
    expected = WordPiece(subject.path).text(text)
    longest = subject.model.info.context_length
    cut = expected if len(expected) <= longest else [*expected[: longest - 1], expected[-1]]
    assert subject.tokens(text) == cut


@pytest.mark.parametrize("dimensions", [1, 7, 63, 64])
def test_dimensions_are_the_first_normalised_anew(subjects, dimensions) -> None:
    subject = subjects("mean")
    tokens = subject.tokens(SENTENCES[1])
    [whole], [cut] = subject.pool([tokens]), subject.pool([tokens], dimensions=dimensions)
    assert len(cut) == dimensions
    assert np.linalg.norm(cut) == pytest.approx(1, abs=1e-6)
    assert cut == pytest.approx(whole[:dimensions] / np.linalg.norm(whole[:dimensions]), abs=1e-6)


def test_without_normalising_a_vector_is_what_the_model_gave(subjects) -> None:
    subject = subjects("mean")
    tokens = subject.tokens(SENTENCES[1])
    [raw] = subject.pool([tokens], normalize=False)
    assert raw == pytest.approx(subject.reference.pooled(tokens, "mean"), abs=5e-3)
    assert abs(np.linalg.norm(raw) - 1) > 0.1


def test_items_of_one_batch_may_want_different_things(subjects) -> None:
    subject = subjects("mean")
    texts = [tuple(subject.tokens(text)) for text in SENTENCES[:4]]
    wishes = [(None, True), (8, True), (None, False), (8, True)]
    items = [PoolItem(tokens, dims, norm) for tokens, (dims, norm) in zip(texts, wishes, strict=True)]
    alone = [subject.model.pooler.pool([item])[0] for item in items]
    together = subject.model.pooler.pool(items)
    assert [len(data) for data in together] == [256, 32, 256, 32]
    for first, second in zip(alone, together, strict=True):
        assert np.frombuffer(first, "<f4") == pytest.approx(np.frombuffer(second, "<f4"), abs=1e-5)


@pytest.mark.parametrize("name", RANKERS)
def test_scores(subjects, name) -> None:
    subject = subjects(name)
    pairs = [("what is the capital", text) for text in SENTENCES] + [("cat", "dog"), ("日本", "東京")]
    longest = subject.model.info.context_length
    texts = [subject.model.encoder.encode_pair(*pair, max_tokens=longest) for pair in pairs]
    expected = [expected_score(name, subject.reference.outputs(tokens)) for tokens in texts]
    scores = [float(subject.pool([tokens])[0][0]) for tokens in texts]
    assert scores == pytest.approx(expected, abs=1e-2)  # float16 inside flash attention
    assert len({round(score, 4) for score in scores}) == len(scores)
    short = [tokens for tokens in texts if len(tokens) < 40] or texts[:1]
    batch = [float(vector[0]) for vector in subject.pool(short)]
    assert batch == pytest.approx([scores[texts.index(tokens)] for tokens in short], abs=2e-3)


def expected_score(name: str, outputs: np.ndarray[Any, Any]) -> float:
    if len(outputs) == 1:
        return float(outputs[0])
    probabilities = np.exp(outputs) / np.exp(outputs).sum()
    return float(probabilities[{"three-labels": 2, "template": 0}[name]])


@pytest.mark.parametrize("name", ["one-layer", "two-layers", "three-labels"])
def test_pairs_are_those_of_wordpiece(subjects, name) -> None:
    subject = subjects(name)
    for query, document in [
        ("what is the capital", SENTENCES[1]),
        ("", "cat"),
        ("日本?", ""),
        (SENTENCES[2], SENTENCES[4]),
    ]:
        assert subject.model.encoder.encode_pair(query, document) == WordPiece(subject.path).pair(query, document)
