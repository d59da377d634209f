"""Measures a demo encoder through llama.cpp: `python -m models.training.evaluate_encoders embedding|reranker`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import llama_cpp
import numpy as np

from .heldout_texts import Search, neighbours, searches

_MODELS = Path(__file__).parent.parent
BUNDLED = {
    "embedding": _MODELS / "embedding" / "localllm-demo-embed.gguf",
    "reranker": _MODELS / "reranker" / "localllm-demo-rerank.gguf",
}
TOKENIZER = Path(__file__).parent / "checkpoints" / "embedding" / "wordpiece.json"
# First used on the finished weights: the embedding model's, the reranker's. 7, 31 and the former steered the latter.
_HELDOUT_SEEDS = {"embedding": (21, 22, 23), "reranker": (41, 42, 43)}
_CONTEXT = 512
# Sentences in a document, for documents of about 65, 200 and 450 tokens.
_LONG_SENTENCES = (5, 15, 33)
SIMILARITIES: tuple[tuple[str, ...], ...] = (
    ("The cat sat on the mat", "A kitten is lying on the rug", "A feline rested on the rug", "Stocks fell sharply"),
    ("That is a happy person", "That is a very happy person", "That is a happy dog", "Today is a sunny day"),
    ("The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."),
    ("How do I install Python packages?", "Use pip to get libraries.", "The python is a snake.", "Snow is white."),
    ("The food was delicious and the waiter was kind.", "Great meal, friendly service.", "The engine needs new oil."),
    ("Hello world", "Hi there", "The court sentenced the thief."),
)  # fmt: skip
RANKINGS: tuple[tuple[str, ...], ...] = (
    (
        "What is the capital of France?",
        "Paris is the capital of France.",
        "Berlin is the capital of Germany.",
        "France has a population of 68 million people.",
        "Bananas are yellow.",
    ),
    (
        "Organic skincare products for sensitive skin",
        "Our organic skincare line with aloe vera is made for sensitive skin.",
        "New makeup trends focus on bold colors.",
        "The stock market closed higher on Friday.",
    ),
    (
        "How do I install Python packages?",
        "Run pip install followed by the name of the package.",
        "Pythons are large snakes that live in the jungle.",
        "Packages are delivered within three days.",
    ),
    ("What is a panda?", "hi", "it is a bear", "The giant panda is a bear that lives in the forests of China."),
    (
        "What is the capital of the United States?",
        "Carson City is the capital city of the state of Nevada.",
        "Washington, D.C. is the capital of the United States.",
        "Capitalization in English grammar is the use of a capital letter.",
        "Capital punishment has existed in many states.",
    ),
    ("search query", "First document to rank", "Second document to rank", "Third document to rank"),
)


class Encoder:
    """An encoder under llama.cpp, several short texts in one batch."""

    def __init__(self, path: Path) -> None:
        self.llama = llama_cpp.Llama(
            str(path),
            n_ctx=_CONTEXT,
            n_batch=_CONTEXT,
            n_ubatch=_CONTEXT,
            n_threads=1,
            n_threads_batch=1,
            embedding=True,
            verbose=False,
        )
        self._model = self.llama.model
        self._vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self.ranks = llama_cpp.llama_pooling_type(self.llama.ctx) == llama_cpp.LLAMA_POOLING_TYPE_RANK
        self._width = 1 if self.ranks else llama_cpp.llama_model_n_embd(self._model)

    def tokens(self, text: str) -> list[int]:
        """The text's tokens without the special ones."""
        return self.llama.tokenize(text.encode(), add_bos=False, special=False)

    def _row(self, text: str) -> list[int]:
        start, end = llama_cpp.llama_vocab_bos(self._vocabulary), llama_cpp.llama_vocab_sep(self._vocabulary)
        return [start, *self.tokens(text)[: _CONTEXT - 2], end]

    def _pair(self, query: str, document: str) -> list[int]:
        opening = self._row(query)
        return [*opening, *self.tokens(document)[: _CONTEXT - len(opening) - 1], opening[-1]]

    def _pool(self, rows: list[list[int]]) -> np.ndarray:
        """What llama.cpp pools for each row of one batch."""
        batch = llama_cpp.llama_batch_init(_CONTEXT, 0, 1)
        for sequence, row in enumerate(rows):
            for position, token in enumerate(row):
                index = batch.n_tokens
                batch.token[index], batch.pos[index], batch.n_seq_id[index] = token, position, 1
                batch.seq_id[index][0], batch.logits[index] = sequence, True
                batch.n_tokens += 1
        failed = llama_cpp.llama_encode(self.llama.ctx, batch)
        llama_cpp.llama_batch_free(batch)
        if failed:
            raise RuntimeError(f"llama_encode failed with {failed} on {sum(map(len, rows))} tokens")
        pooled = [
            llama_cpp.llama_get_embeddings_seq(self.llama.ctx, index)[: self._width] for index in range(len(rows))
        ]
        return np.array(pooled, dtype=np.float32)

    def _pool_all(self, rows: list[list[int]]) -> np.ndarray:
        batches: list[list[list[int]]] = [[]]
        for row in rows:
            if sum(map(len, batches[-1])) + len(row) > _CONTEXT or len(batches[-1]) == 64:
                batches.append([])
            batches[-1].append(row)
        return np.concatenate([self._pool(batch) for batch in batches])

    def vectors(self, texts: list[str]) -> np.ndarray:
        """(texts, width), each of length 1."""
        pooled = self._pool_all([self._row(text) for text in texts])
        return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)

    def scores(self, query: str, documents: list[str]) -> np.ndarray:
        """A logit for each document, or its cosine to the query where the model has no head."""
        if self.ranks:
            return self._pool_all([self._pair(query, document) for document in documents])[:, 0]
        vectors = self.vectors([query, *documents])
        return vectors[1:] @ vectors[0]


def measure_neighbours(encoder: Encoder, count: int, seeds: tuple[int, ...], show: int) -> dict[str, float]:
    """Shares of pairs that are nearer to one another than to each text of other topics, and of the same topic."""
    right = {"pairs_other_topics": 0, "pairs_same_topic": 0}
    cases = [case for seed in seeds for case in neighbours(count // len(seeds), seed)]
    for case in cases:
        vectors = encoder.vectors([case.first, case.second, *case.far, *case.near])
        cosines = vectors[1:] @ vectors[0]
        far, near = cosines[1 : 1 + len(case.far)], cosines[1 + len(case.far) :]
        right["pairs_other_topics"] += bool(cosines[0] > far.max())
        right["pairs_same_topic"] += bool(cosines[0] > near.max())
        if cosines[0] <= max(far.max(), near.max()) and show > 0:
            show -= 1
            other = (*case.far, *case.near)[int(cosines[1:].argmax())]
            print(
                f"wrong pair: {case.first!r} {case.second!r} {cosines[0]:.2f}, {other!r} {cosines[1:].max():.2f}",
                file=sys.stderr,
            )
    return {kind: share / len(cases) for kind, share in right.items()}


def measure_searches(encoder: Encoder, cases: list[Search], show: int) -> tuple[float, list[float], list[float]]:
    """The share of searches whose right document comes first, the scores of right ones and of wrong ones."""
    first, rights, wrongs = 0, [], []
    for case in cases:
        scores = encoder.scores(case.query, list(case.documents))
        rights.append(float(scores[0]))
        wrongs += [float(score) for score in scores[1:]]
        best = int(scores[1:].argmax()) + 1
        if scores[0] > scores[best]:
            first += 1
        elif show > 0:
            show -= 1
            shown = f"{case.documents[0][:120]!r} {scores[0]:.2f}, {case.documents[best][:120]!r} {scores[best]:.2f}"
            print(f"wrong search: {case.query!r} {shown}", file=sys.stderr)
    return first / len(cases), rights, wrongs


def _spread(scores: list[float]) -> list[float]:
    return [round(float(np.quantile(scores, share)), 2) for share in (0.05, 0.5, 0.95)]


def measure(encoder: Encoder, count: int, seeds: tuple[int, ...], show: int) -> dict[str, object]:
    """All shares, and the quantiles of scores."""
    accuracy: dict[str, float] = {} if encoder.ranks else measure_neighbours(encoder, count, seeds, show)
    cases = [case for seed in seeds for case in searches(count // len(seeds), seed)]
    accuracy["searches"], rights, wrongs = measure_searches(encoder, cases, show)
    if encoder.ranks:
        accuracy["relevant_above_half"] = float(np.mean(np.array(rights) > 0))
        accuracy["irrelevant_below_half"] = float(np.mean(np.array(wrongs) < 0))
    lengths = {}
    for sentences in _LONG_SENTENCES:
        long = [case for seed in seeds for case in searches(max(1, count // 5 // len(seeds)), seed, sentences)]
        mean = np.mean([len(encoder.tokens(document)) for case in long for document in case.documents])
        share, _, _ = measure_searches(encoder, long, show // 4)
        accuracy[f"searches_{sentences}_sentences"] = share
        lengths[f"searches_{sentences}_sentences"] = round(float(mean))
    return {
        "accuracy": accuracy,
        "right_scores": _spread(rights),
        "wrong_scores": _spread(wrongs),
        "mean_tokens": lengths,
    }


def show_examples(encoder: Encoder) -> None:
    """Prints scores of a reader's own examples, which count for nothing."""
    if not encoder.ranks:
        for texts in SIMILARITIES:
            print(f"  {texts[0]}")
            vectors = encoder.vectors(list(texts))
            for text, cosine in zip(texts[1:], vectors[1:] @ vectors[0], strict=True):
                print(f"    {cosine:6.3f}  {text}")
    for query, *documents in RANKINGS:
        print(f"  {query}")
        for document, score in zip(documents, encoder.scores(query, documents), strict=True):
            print(f"    {1 / (1 + np.exp(-score)) if encoder.ranks else score:6.3f}  {document}")


def tokenizer_differences(encoder: Encoder, seed: int) -> int:
    """How many of some texts llama.cpp cuts otherwise than the tokenizer of the training."""
    from tokenizers import Tokenizer

    trained = Tokenizer.from_file(str(TOKENIZER))
    texts = [document for case in searches(100, seed) for document in case.documents]
    texts += ["Café, naïve — «Ünï»: 3.14€ & a_b/c#d~e", "日本 hello 🙂 it's", "ΑΒΓ привет ß æ 12,345", "a\tb\nc  d"]
    return sum(trained.encode(text, add_special_tokens=False).ids != encoder.tokens(text) for text in texts)


def main() -> None:
    """Prints the measurement as JSON, wrong cases to stderr."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=tuple(BUNDLED))
    parser.add_argument("--model", type=Path, help="another file than the bundled one")
    parser.add_argument("--count", type=int, default=1500)
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--show", type=int, default=12, help="wrong cases to show")
    parser.add_argument("--output", type=Path, help="JSON file for export_encoders' --accuracy")
    parser.add_argument("--examples", action="store_true", help="show scores of examples")
    arguments = parser.parse_args()
    encoder = Encoder(arguments.model or BUNDLED[arguments.kind])
    seeds = tuple(arguments.seeds or _HELDOUT_SEEDS[arguments.kind])
    result = measure(encoder, arguments.count, seeds, arguments.show)
    if TOKENIZER.exists():
        result["tokenizer_differences"] = tokenizer_differences(encoder, 1)
    print(json.dumps(result, indent=1))
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    if arguments.examples:
        show_examples(encoder)


if __name__ == "__main__":
    main()
