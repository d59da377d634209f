"""Names the sources that make up a demo model's recipe and hashes them; needs the standard library only."""

from __future__ import annotations

import hashlib
from pathlib import Path

CHAT_SEED = 1
CHAT_STEPS = 6500

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
    "tokenizer.py",
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
