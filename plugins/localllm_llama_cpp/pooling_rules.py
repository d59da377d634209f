"""Decides how a model's text becomes one vector or one score, from what its header says: no library, no file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from localllm import PoolingKind, ScoreScale

from .settings import PoolingSetting

ENCODERS = frozenset(
    {
        *("bert", "eurobert", "gemma-embedding", "jina-bert-v2", "jina-bert-v3", "modern-bert", "neo-bert"),
        *("nomic-bert", "nomic-bert-moe", "t5encoder"),
        *("dream", "llada", "llada-moe", "rnd1"),  # diffusion models: no cache either
    }
)
"""Architectures whose every token sees all others (``llama_model::create_memory`` gives them no memory)."""

UNPOOLABLE = {
    "t5": "its encoder writes for its decoder alone",
    "eagle3": "it only drafts for another model",
    "dflash": "it only drafts for another model",
    "gemma4-assistant": "it only drafts for another model",
    "wavtokenizer-dec": "it turns codes into sound",
    "clip": "it reads pictures for another model",
}
"""Architectures that llama.cpp runs, but that have no vector for a text, and why."""

LEARNED_POSITIONS = frozenset({"bert", "gpt2", "mpt", "starcoder"})
"""Architectures with a vector for each position: the library reads beyond the table where a text is longer."""

_FILE_KINDS: dict[int, PoolingKind] = {1: "mean", 2: "cls", 3: "last", 4: "rank"}  # enum llama_pooling_type
_RELEVANT = ("yes", "true", "relevant", "positive", "entailment", "label_1", "1")
_SOFTMAX_INSIDE = frozenset({"qwen3", "qwen3vl"})  # llm_graph_context::build_pooling


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What stands in a file about pooling. ``pooling_type`` is llama.cpp's number, None when the file has none."""

    architecture: str
    pooling_type: int | None
    has_head: bool  # a classification head
    names: Sequence[str] = ()  # what the file calls itself


@dataclass(frozen=True, slots=True)
class ScoreRule:
    """How the outputs of a classification head become one score: the output ``label``, after a softmax if wanted."""

    label: int
    scale: ScoreScale
    softmax: bool = False


def why_not(architecture: str) -> str | None:
    """Return why models of this architecture can't pool, None where they can."""
    return UNPOOLABLE.get(architecture)


def choose_kind(wanted: PoolingSetting, facts: FileFacts) -> PoolingKind:
    """Answer ``pooling = "auto"``.

    A classification head was trained for scores, whatever else the file says (converters leave its pooling type out).
    Then the file's own word. Without one: encoders give the mean; a decoder that calls itself an embedding model was
    trained on its last token, as such decoders are; any other gives the mean, since the last token of a chat model
    only foretells the next one (BehnamGhader et al. 2024, "LLM2Vec", compare both on decoders that were not trained
    for it). Raises ``ValueError``, without the model's name, where a score is wanted and there is no head.
    """
    if wanted != "auto":
        kind: PoolingKind = wanted
    elif facts.has_head:
        kind = "rank"
    elif facts.pooling_type in _FILE_KINDS:
        kind = _FILE_KINDS[facts.pooling_type]
    elif facts.architecture not in ENCODERS and any("embed" in name.lower() for name in facts.names):
        kind = "last"
    else:
        kind = "mean"
    if kind == "rank" and not facts.has_head:
        message = "it has no classification head, so it can't score; set pooling to 'mean', 'cls' or 'last'"
        raise ValueError(message)
    return kind


def choose_score(architecture: str, labels: Sequence[str]) -> ScoreRule:
    """Return which of a head's outputs is the score; ``labels`` has one name, perhaps empty, for each output.

    One output is a logit. Of several, the one whose label means "relevant", else the first, as llama-server takes it;
    its probability among them is the score. Raises ``ValueError``, without the model's name, where the library's own
    softmax would leave nothing of a single output.
    """
    inside = architecture in _SOFTMAX_INSIDE
    if len(labels) == 1:
        if inside:
            message = "llama.cpp applies a softmax to its only output, so every score would be 1"
            raise ValueError(message)
        return ScoreRule(0, "logit")
    lowered = [label.lower() for label in labels]
    label = next((lowered.index(name) for name in _RELEVANT if name in lowered), 0)
    return ScoreRule(label, "probability", softmax=not inside)
