"""Names the sources that make up a demo model's recipe and hashes them; needs the standard library only."""

from __future__ import annotations

import hashlib
from pathlib import Path

CHAT_SEED = 1
CHAT_STEPS = 12100

# Everything that decides what the weights become; exporting, measuring and this file don't.
CHAT_SOURCES = (
    "batches.py",
    "chat_markup.py",
    "dialogues.py",
    "facts.py",
    "model.py",
    "raw_text.py",
    "recall.py",
    "system_prompts.py",
    "thoughts.py",
    "tokenizer.py",
    "tool_dialogues.py",
    "tool_results.py",
    "tool_skills.py",
    "train_chat.py",
    "turns.py",
    "unknown.py",
    "words.py",
)


def chat_recipe_sha256() -> str:
    """SHA-256, in hex, over seed, steps, and the names and texts of the demo chat model's sources."""
    digest = hashlib.sha256(f"seed {CHAT_SEED} steps {CHAT_STEPS}\n".encode())
    for name in CHAT_SOURCES:
        digest.update(f"{name}\n".encode())
        digest.update((Path(__file__).parent / name).read_bytes())
    return digest.hexdigest()


ENCODER_SEED = 1
EMBEDDING_STEPS = 900
RERANKER_STEPS = 2100

_TOPIC_FILES = tuple(sorted(f"topics/{path.name}" for path in (Path(__file__).parent / "topics").glob("*.txt")))
EMBEDDING_SOURCES = (
    "embedding_batches.py",
    "encoder.py",
    "topic_grammar.py",
    "topic_texts.py",
    "train_embedding.py",
    "wordpiece.py",
    *_TOPIC_FILES,
)
# The reranker starts from the embedding model's weights.
RERANKER_SOURCES = (*EMBEDDING_SOURCES, "reranker_batches.py", "train_reranker.py")


def _sources_sha256(opening: str, sources: tuple[str, ...]) -> str:
    digest = hashlib.sha256(opening.encode())
    for name in sources:
        digest.update(f"{name}\n".encode())
        digest.update((Path(__file__).parent / name).read_bytes())
    return digest.hexdigest()


def embedding_recipe_sha256() -> str:
    """SHA-256, in hex, over seed, steps, and the names and texts of the demo embedding model's sources."""
    return _sources_sha256(f"seed {ENCODER_SEED} steps {EMBEDDING_STEPS}\n", EMBEDDING_SOURCES)


def reranker_recipe_sha256() -> str:
    """SHA-256, in hex, as for the embedding model, whose steps count as well."""
    return _sources_sha256(f"seed {ENCODER_SEED} steps {EMBEDDING_STEPS} {RERANKER_STEPS}\n", RERANKER_SOURCES)
