"""Trains the WordPiece vocabulary that the demo embedding model and the demo reranker share."""

from __future__ import annotations

import json
import random
import string
from collections import Counter
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from .topic_grammar import draw_facts, grammar, made_up_word, write

PAD, UNKNOWN, START, SEPARATOR, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
SPECIAL_TOKENS = (PAD, UNKNOWN, START, SEPARATOR, MASK)
# The vocabulary begins with the special tokens.
START_ID, SEPARATOR_ID = SPECIAL_TOKENS.index(START), SPECIAL_TOKENS.index(SEPARATOR)

_VOCABULARY = 4096
_CONTINUES = "##"
# Accents are stripped before the pieces are looked up, so letters with accents need none of their own.
_CHARACTERS = string.ascii_lowercase + string.digits + string.punctuation + "ßæøœđłı€£°’‘“”„–—…·«»¿¡"


def corpus(seed: int, sentences: int) -> list[str]:
    """So many training sentences, every topic's words a few times over, and some made-up words."""
    rng = random.Random(f"wordpiece {seed}")
    texts: list[str] = []
    while len(texts) < sentences:
        frame = rng.choice(grammar().frames)
        text = write(rng, frame, draw_facts(rng, frame, False), frame.asks + frame.says, False)
        if text is not None:
            texts.append(text.words)
    # A topic's words count more than rare words of sentences, so that each gets a piece of its own.
    texts += [" ".join(words) for words in grammar().topics.values() for _ in range(150)]
    texts += [made_up_word(rng, False) for _ in range(sentences // 20)]
    return texts


def _tokenizer(model: models.WordPiece) -> Tokenizer:
    """The text treatment of BERT, uncased, which llama.cpp's WPM tokenizer does as well (src/llama-vocab.cpp)."""
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def train_tokenizer(seed: int, sentences: int = 40_000) -> Tokenizer:
    """The tokenizer: special tokens, every character as the first and as a later piece of a word, then pieces."""
    trained = _tokenizer(models.WordPiece(unk_token=UNKNOWN))
    characters = [*_CHARACTERS, *(_CONTINUES + character for character in _CHARACTERS)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=_VOCABULARY,
        initial_alphabet=list(_CHARACTERS),
        limit_alphabet=len(_CHARACTERS),
        continuing_subword_prefix=_CONTINUES,
        show_progress=False,
    )
    trained.train_from_iterator(corpus(seed, sentences), trainer)
    # By rank, which is the order in which pieces were merged.
    pieces = sorted(trained.get_vocab(), key=trained.get_vocab().__getitem__)
    tokens = list(dict.fromkeys([*SPECIAL_TOKENS, *characters, *pieces]))[:_VOCABULARY]
    return _tokenizer(models.WordPiece({token: index for index, token in enumerate(tokens)}, unk_token=UNKNOWN))


def load_or_train(path: Path, seed: int) -> Tokenizer:
    """The tokenizer from the checkpoint folder, trained first where there is none."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        train_tokenizer(seed).save(str(path))
    return Tokenizer.from_file(str(path))


def pieces_by_id(tokenizer: Tokenizer) -> list[str]:
    """All pieces, with the marks of WordPiece."""
    vocabulary = json.loads(tokenizer.to_str())["model"]["vocab"]
    return sorted(vocabulary, key=vocabulary.__getitem__)


def gguf_tokens(pieces: list[str]) -> list[str]:
    """The pieces as llama.cpp wants them: a sign for a space before what begins a word, none before what continues."""
    return [
        piece
        if piece in SPECIAL_TOKENS
        else piece[2:]
        if piece.startswith(_CONTINUES) and piece[2:]
        else f"\u2581{piece}"
        for piece in pieces
    ]


def split_words(tokenizer: Tokenizer, texts: list[str]) -> Counter[str]:
    """The words that have no piece of their own, counted; for whoever tunes the vocabulary."""
    vocabulary = tokenizer.get_vocab()
    words = Counter(word for text in texts for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text.lower()))
    return Counter({word: count for word, count in words.items() if word not in vocabulary})
