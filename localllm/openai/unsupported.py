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


def _is_plain_text_format(value: object) -> bool:
    return value == {} or (isinstance(value, Mapping) and value.get("type") == "text")


_EMPTY: Final = one_of()
_TOOLS: Final = "this server can't call tools"
_STRUCTURE: Final = "this server can't hold answers to a schema or grammar"
_SAMPLER: Final = "this server doesn't have that sampler"
_RULES_BY_ID: Final = "this server has no rules by token beside logit_bias"
_PROMPT_END: Final = "answers always begin in a new assistant message"

COMMON_REFUSALS: Final[Mapping[str, Refusal]] = {
    **dict.fromkeys(
        ("structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar"),
        Refusal(_EMPTY, _STRUCTURE),
    ),
    **dict.fromkeys(("grammar", "json_schema", "regex", "choice", "lark"), Refusal(_EMPTY, _STRUCTURE)),
    "response_format": Refusal(_is_plain_text_format, _STRUCTURE),
    **dict.fromkeys(("stop_token_ids", "bad_words", "allowed_token_ids"), Refusal(_EMPTY, _RULES_BY_ID)),
    "logits_processors": Refusal(_EMPTY, _RULES_BY_ID),
    "skip_special_tokens": Refusal(lambda value: value is True, "control tokens are never part of an answer's text"),
    **dict.fromkeys(("typical_p", "typical", "tfs_z", "tfs"), Refusal(one_of(1), _SAMPLER)),
    **dict.fromkeys(("dry_multiplier", "xtc_probability", "top_a", "dynatemp_range"), Refusal(one_of(0), _SAMPLER)),
    **dict.fromkeys(("mirostat", "mirostat_mode"), Refusal(one_of(0), _SAMPLER)),
    "top_n_sigma": Refusal(at_most(0), _SAMPLER),
    "adaptive_target": Refusal(lambda value: isinstance(value, int | float) and value < 0, _SAMPLER),
    "samplers": Refusal(_EMPTY, "the order of the samplers is fixed"),
    "use_beam_search": Refusal(_EMPTY, "this server has no beam search"),
    "prompt_logprobs": Refusal(lambda value: value is False, "log-probabilities of the prompt are not computed"),
    "n_probs": Refusal(one_of(0), "ask by logprobs instead"),
    "post_sampling_probs": Refusal(_EMPTY, "log-probabilities are those of the unchanged logits"),
    "return_tokens": Refusal(_EMPTY, "answers are text only"),
    "return_token_ids": Refusal(_EMPTY, "answers are text only"),
    "truncate_prompt_tokens": Refusal(_EMPTY, "a prompt that is too long is an error"),
    "t_max_predict_ms": Refusal(at_most(0), "answers are limited by max_tokens, not by time"),
    "cache_salt": Refusal(
        _EMPTY, "cached prompts are kept apart by API key; cache_prompt false keeps one out of the cache"
    ),
    "lora": Refusal(_EMPTY, "this server can't change a model's adapters by request"),
    **dict.fromkeys(("images", "image_data", "multimodal_data"), Refusal(_EMPTY, "this server reads text only")),
}
"""Fields of both generation endpoints. Parameters of a sampler that is off (``dry_base``, ``mirostat_tau``, …) change
nothing and are ignored."""

CHAT_REFUSALS: Final[Mapping[str, Refusal]] = {
    **dict.fromkeys(("tools", "functions"), Refusal(_EMPTY, _TOOLS)),
    **dict.fromkeys(("tool_choice", "function_call"), Refusal(one_of("none", "auto"), _TOOLS)),
    **COMMON_REFUSALS,
    "modalities": Refusal(one_of(["text"]), "answers are text only"),
    "audio": Refusal(_EMPTY, "answers are text only"),
    "prediction": Refusal(_EMPTY, "predicted outputs are not used"),
    "web_search_options": Refusal(lambda value: value is False, "this server can't search the web"),
    "documents": Refusal(_EMPTY, "put the documents into a message"),
    "chat_template": Refusal(_EMPTY, "the model's own template is used"),
    "continue_final_message": Refusal(_EMPTY, _PROMPT_END),
    "add_generation_prompt": Refusal(lambda value: value is True, _PROMPT_END),
    "echo": Refusal(_EMPTY, _PROMPT_END),
}

COMPLETION_REFUSALS: Final[Mapping[str, Refusal]] = {
    **COMMON_REFUSALS,
    "suffix": Refusal(_EMPTY, "this server can't fill in the middle"),
}
