"""Samplers without a model: made-up vocabularies, and a tokenizer whose tokens are bytes."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from hypothesis import strategies as st
from llguidance import LLTokenizer

from localllm import InvalidRequestError, Sampled, SamplingParams
from localllm_llama_cpp.chain import Candidates
from localllm_llama_cpp.dry import DrySource
from localllm_llama_cpp.grammars import Grammars
from localllm_llama_cpp.sampler_factory import SamplerFactory, SeedSource, VocabularyFacts
from localllm_llama_cpp.sampling import RequestSampler
from localllm_llama_cpp.sampling_defaults import SamplingDefaults
from localllm_llama_cpp.tokenizer import LlamaTokenizer

N_VOCAB = 320
END = 319
CONTROL = 257  # special, and shown as nothing
MARKER = 258  # special, and shown as "<mark>"
VOCABULARY = VocabularyFacts(N_VOCAB, frozenset({END, END - 1}), suppressed=frozenset({5}))


def distinct_logits(seed: int | np.integer[Any], size: int, spread: float) -> np.ndarray:
    """Return a row of logits of which no two are equal: equal ones are equally right in any order."""
    rng = np.random.default_rng(seed)
    values = np.unique((rng.standard_normal(2 * size) * spread).astype(np.float32))
    return rng.permutation(values)[:size]


SIZES = (320, 5003, 32_000)
ROOM = {size: Candidates(size) for size in SIZES}
rows = st.builds(
    distinct_logits,
    seed=st.integers(0, 2**32 - 1),
    size=st.sampled_from(SIZES),
    spread=st.sampled_from([0.1, 1.0, 4.0]),
)


class ByteTexts:
    """Stands for a model's tokenizer: each byte is a token, and two are special."""

    n_vocab = N_VOCAB
    eos_token_id = END
    bos_token_id = None
    special_token_ids = (*range(256, N_VOCAB),)
    tokens = (*(bytes([byte]) for byte in range(256)), *(b"\xff<%d>" % token for token in range(256, N_VOCAB)))

    def __call__(self, text: bytes | str) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        try:
            data = text.encode()
        except UnicodeEncodeError as error:
            raise InvalidRequestError("The prompt holds half of a surrogate pair.", param="prompt") from error
        return [MARKER] if parse_special and text == "<mark>" else list(data)

    def encode_plain(self, text: str) -> list[int]:
        return self.encode(text, add_special=False, parse_special=False)

    def piece(self, token: int) -> bytes:
        return bytes([token]) if token < 256 else b"<mark>" if token == MARKER else b""


TEXTS = ByteTexts()


def byte_grammars(**settings: Any) -> Grammars:
    """Grammars over bytes, which end by ``END``."""
    from llguidance._tokenizer import TokenizerWrapper

    tokenizer = LLTokenizer(TokenizerWrapper(TEXTS), n_vocab=N_VOCAB, eos_token=END)
    return Grammars(tokenizer, cast("LlamaTokenizer", TEXTS), **settings)


def factory(
    vocabulary: VocabularyFacts = VOCABULARY,
    *,
    defaults: SamplingDefaults | None = None,
    seeds: SeedSource | None = None,
    grammars: Grammars | None = None,
    dry: DrySource | None = None,
    context_length: int = 512,
) -> SamplerFactory:
    """A factory that reads texts as bytes; grammars and DRY only where they are given."""
    return SamplerFactory(
        defaults or SamplingDefaults(),
        vocabulary,
        seeds or SeedSource(None),
        context_length,
        TEXTS.encode_plain,
        dry or cast("DrySource", None),
        grammars or cast("Grammars", None),
    )


class Drawing:
    """Draws from one request's sampler as the decoder does, without a decoder."""

    def __init__(self, sampler: RequestSampler, grammars: Grammars | None = None, n_vocab: int = N_VOCAB) -> None:
        self.sampler = sampler
        self._grammars = grammars
        self._candidates = Candidates(n_vocab)
        self.n_refused = 0

    def draw(self, row: Any, choice: int = 0) -> tuple[Sampled, ...]:
        before = row.copy()
        sampled = self.sampler.sample(choice, row, self._candidates, [])
        if sampled is None:
            assert self._grammars is not None
            self.n_refused += 1
            masks = self._grammars.masks
            masks.fill([self.sampler.grammar(choice)])
            sampled = self.sampler.resample(choice, row, self._candidates, [], masks.allowed(0))
        assert (row.view("u4") == before.view("u4")).all(), "the row belongs to other choices too"
        return sampled

    def write(self, rows: Any, choice: int = 0, limit: int = 300) -> tuple[bytes, bool]:
        """Draw from the rows that ``rows(drawn tokens)`` gives until the end; returns the text and whether it ended."""
        drawn: list[int] = []
        while len(drawn) < limit:
            for sampled in self.draw(rows(drawn), choice):
                if sampled.is_end:
                    return b"".join(map(TEXTS.piece, drawn)), True
                drawn.append(sampled.token)
        return b"".join(map(TEXTS.piece, drawn)), False


def request(grammars: Grammars | None = None, prompt: tuple[int, ...] = (), **sampling: Any) -> Drawing:
    """A request over bytes."""
    return Drawing(factory(grammars=grammars)(SamplingParams(**sampling), prompt), grammars)
