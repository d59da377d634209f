"""Trains the demo chat model's byte-level BPE so that a word gets the same tokens wherever it stands."""

from __future__ import annotations

import collections
import json
import random
import re
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from .chat_markup import SPECIAL_TOKENS
from .dialogues import chat

# llama.cpp's pre-tokenizer of this name (src/llama-vocab.cpp, LLAMA_VOCAB_PRE_TYPE_QWEN2): digits stand alone.
PRE_TOKENIZER = "qwen2"
_QWEN2_REGEX = (
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPACE = "Ġ"  # byte-level BPE's sign for a space
_LETTER_PIECES = 1100
_SPACED_WORDS = 260
# Short words that may carry their space; a made-up word that begins so is cut the same way after every space.
_SHORT_SPACED = {"is", "the", "of", "to", "my", "you", "not", "and", "am", "are", "can", "was", "for", "it", "me"}


def corpus(seed: int, dialogues: int) -> list[str]:
    """The texts of the messages of so many training dialogues."""
    rng = random.Random(f"tokenizer {seed}")
    return [message.content for _ in range(dialogues) for message in chat(rng, rng.randint(1, 3))]


def _letter_merges(texts: list[str]) -> list[tuple[str, str]]:
    """BPE merges inside runs of letters only: neither a space nor a quotation mark ever changes how a word is cut."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{L}+|[^\p{L}]"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=256 + _LETTER_PIECES, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [(left, right) for left, right in merges]


def train_tokenizer(seed: int, dialogues: int = 24_000) -> Tokenizer:
    """The tokenizer: special tokens, bytes, letter pieces, and last the frequent words with a space before them."""
    texts = corpus(seed, dialogues)
    merges = _letter_merges(texts)
    pieces = {left + right for left, right in merges}
    counts = collections.Counter(word for text in texts for word in re.findall(r"(?<= )[A-Za-z]+", text))
    spaced = [word for word, _ in counts.most_common() if word in pieces and (len(word) >= 4 or word in _SHORT_SPACED)]
    merges += [(_SPACE, word) for word in spaced[:_SPACED_WORDS]]
    tokens = [*SPECIAL_TOKENS, *sorted(pre_tokenizers.ByteLevel.alphabet()), *(left + right for left, right in merges)]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QWEN2_REGEX), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer


def load_or_train(path: Path, seed: int) -> Tokenizer:
    """The tokenizer from the checkpoint folder, trained first where there is none."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        train_tokenizer(seed).save(str(path))
    return Tokenizer.from_file(str(path))


def vocabulary_and_merges(tokenizer: Tokenizer) -> tuple[list[str], list[str]]:
    """Tokens by id and merges by rank, as the GGUF header holds them."""
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return tokens, [" ".join(merge) for merge in model["merges"]]
