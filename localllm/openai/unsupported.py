"""Refuses fields that can't be honoured yet and would change the answer; their neutral values pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from localllm.contract.errors import UnsupportedFeatureError

IsNeutral = Callable[[Any], bool]


class Refusal(NamedTuple):
    """``is_neutral`` tells the values that ask for nothing; any other value is answered with ``reason``."""

    is_neutral: IsNeutral
    reason: str


def refuse_unsupported(body: Mapping[str, Any], refusals: Mapping[str, Refusal]) -> None:
    """Raise ``UnsupportedFeatureError`` for the first field of ``refusals`` that asks for something."""
    for name, refusal in refusals.items():
        value = body.get(name)
        if value is not None and not refusal.is_neutral(value):
            message = f"{name} is not supported here: {refusal.reason}. Leave the field out."
            raise UnsupportedFeatureError(message, param=name)


def one_of(*neutral: object) -> IsNeutral:
    """Return a test for equality with one of ``neutral``; false, "", [] and {} always ask for nothing."""
    accepted = (*neutral, False, "", [], {})
    return lambda value: value in accepted


def at_most(bound: float) -> IsNeutral:
    """Return a test for a number that switches its feature off by being ``bound`` or less."""
    return lambda value: isinstance(value, int | float) and value <= bound


_EMPTY: Final = one_of()
_STRUCTURE: Final = "put it into structured_outputs"
_SAMPLER: Final = "this server doesn't have that sampler"

COMMON_REFUSALS: Final[Mapping[str, Refusal]] = {
    **dict.fromkeys(("regex", "choice", "lark", "ebnf", "structural_tag"), Refusal(_EMPTY, _STRUCTURE)),
    **dict.fromkeys(("grammar_lazy", "grammar_triggers"), Refusal(_EMPTY, "a grammar holds from the first token on")),
    "guided_whitespace_pattern": Refusal(_EMPTY, "white space in JSON is not settable"),
    "logits_processors": Refusal(_EMPTY, "logit_bias, bad_words and allowed_token_ids are the rules by token"),
    "skip_special_tokens": Refusal(lambda value: value is True, "control tokens are never part of an answer's text"),
    **dict.fromkeys(("tfs_z", "tfs"), Refusal(one_of(1), _SAMPLER)),
    **dict.fromkeys(("top_a", "dynatemp_range"), Refusal(one_of(0), _SAMPLER)),
    "adaptive_target": Refusal(lambda value: isinstance(value, int | float) and value < 0, _SAMPLER),
    "samplers": Refusal(_EMPTY, "the order of the samplers is fixed"),
    "use_beam_search": Refusal(_EMPTY, "this server has no beam search"),
    "n_probs": Refusal(one_of(0), "ask by logprobs instead"),
    "post_sampling_probs": Refusal(_EMPTY, "log-probabilities are those of the unchanged logits"),
    "return_tokens": Refusal(_EMPTY, "answers are text only"),
    "return_token_ids": Refusal(_EMPTY, "answers are text only"),
    "truncate_prompt_tokens": Refusal(_EMPTY, "a prompt that is too long is an error"),
    "t_max_predict_ms": Refusal(at_most(0), "answers are limited by max_tokens, not by time"),
    "cache_salt": Refusal(
        _EMPTY, "cached prompts are kept apart by API key; cache_prompt false keeps one out of the cache"
    ),
    **dict.fromkeys(("images", "image_data", "multimodal_data"), Refusal(_EMPTY, "this server reads text only")),
}
"""Fields of both generation endpoints. Parameters of a sampler that is off (``dynatemp_exponent``, …) change nothing
and are ignored."""

CHAT_REFUSALS: Final[Mapping[str, Refusal]] = {
    **COMMON_REFUSALS,
    "modalities": Refusal(one_of(["text"]), "answers are text only"),
    "audio": Refusal(_EMPTY, "answers are text only"),
    "prediction": Refusal(_EMPTY, "predicted outputs are not used"),
    "web_search_options": Refusal(lambda value: value is False, "this server can't search the web"),
    "reasoning_format": Refusal(one_of("auto", "deepseek"), "thoughts are always told apart from the answer"),
    "documents": Refusal(_EMPTY, "put the documents into a message"),
    "chat_template": Refusal(_EMPTY, "the model's own template is used"),
    "echo": Refusal(_EMPTY, "answers are new text only"),
}

RESPONSE_REFUSALS: Final[Mapping[str, Refusal]] = {
    **COMMON_REFUSALS,
    "prompt": Refusal(_EMPTY, "there are no stored prompts; send instructions and input"),
    "session_id": Refusal(_EMPTY, "sessions are for /v1/chat/completions; send conversation or previous_response_id"),
    "modalities": Refusal(one_of(["text"]), "answers are text only"),
    "audio": Refusal(_EMPTY, "answers are text only"),
    "chat_template": Refusal(_EMPTY, "the model's own template is used"),
}

_SIMPLE: Final = 'this server has the simple shape, for all of it set shape = "openai" in [plugin.responses]'

SIMPLE_REFUSALS: Final[Mapping[str, Refusal]] = {
    **RESPONSE_REFUSALS,
    **dict.fromkeys(
        ("stream", "tools", "previous_response_id", "conversation", "background"), Refusal(_EMPTY, _SIMPLE)
    ),
    "text": Refusal(lambda value: isinstance(value, dict) and value.get("format") in (None, {"type": "text"}), _SIMPLE),
}

COMPLETION_REFUSALS: Final[Mapping[str, Refusal]] = {
    **COMMON_REFUSALS,
    "session_id": Refusal(_EMPTY, "sessions are conversations; ask /v1/chat/completions"),
}

EMBEDDING_REFUSALS: Final[Mapping[str, Refusal]] = {
    **dict.fromkeys(
        ("prompt_name", "prompt", "input_type", "task"),
        Refusal(_EMPTY, "put the words that the model wants before a text into the text itself"),
    ),
    "truncate_prompt_tokens": Refusal(_EMPTY, "truncate cuts texts to the model's context"),
    "truncation_direction": Refusal(one_of("right", "Right"), "texts are cut at their end"),
    "embd_normalize": Refusal(one_of(2), "vectors are scaled to length 1, or left alone by normalize false"),
    "modality": Refusal(one_of("text"), "this server reads text only"),
}

RERANK_REFUSALS: Final[Mapping[str, Refusal]] = {
    "truncation_direction": Refusal(one_of("right", "Right"), "documents are cut at their end"),
    "relevant_spans": Refusal(_EMPTY, "documents are scored as a whole"),
    "return_embeddings": Refusal(_EMPTY, "ask /v1/embeddings for vectors"),
    **dict.fromkeys(("instruction", "instruct"), Refusal(_EMPTY, "the model's own instruction is used")),
}
