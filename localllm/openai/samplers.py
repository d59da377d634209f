"""The samplers and token rules beyond OpenAI's, under the names of llama-server and vLLM."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import AliasChoices, Field

from localllm.openai.biases import MAX_TOKEN_ID
from localllm.openai.wire_model import WireModel

MAX_BREAKERS: Final = 64
MAX_BREAKER_CHARS: Final = 64
MAX_STOP_TOKENS: Final = 128
MAX_ALLOWED_TOKENS: Final = 32_768
MAX_BAD_WORDS: Final = 256
MAX_BAD_WORD_CHARS: Final = 256

TokenId = Annotated[int, Field(ge=0, le=MAX_TOKEN_ID)]
Breaker = Annotated[str, Field(min_length=1, max_length=MAX_BREAKER_CHARS)]
BadWord = Annotated[str, Field(min_length=1, max_length=MAX_BAD_WORD_CHARS)]


class SamplerFields(WireModel):
    """Fields that every engine but OpenAI's has; all defaults are neutral."""

    typical_p: float = Field(1.0, ge=0, le=1, validation_alias=AliasChoices("typical_p", "typical"))
    top_n_sigma: float = Field(-1.0, ge=-1, le=1000)
    xtc_probability: float = Field(0.0, ge=0, le=1)
    xtc_threshold: float = Field(0.1, ge=0, le=1)
    dry_multiplier: float = Field(0.0, ge=0, le=100)
    dry_base: float = Field(1.75, ge=1, le=100)
    dry_allowed_length: int = Field(2, ge=0, lt=2**31)
    dry_penalty_last_n: int = Field(-1, ge=-1, lt=2**31)
    dry_sequence_breakers: list[Breaker] = Field(["\n", ":", '"', "*"], max_length=MAX_BREAKERS, fail_fast=True)
    mirostat: int = Field(0, ge=0, le=2, validation_alias=AliasChoices("mirostat", "mirostat_mode"))
    mirostat_tau: float = Field(5.0, ge=0, le=100)
    mirostat_eta: float = Field(0.1, ge=0, le=1)
    stop_token_ids: list[TokenId] = Field([], max_length=MAX_STOP_TOKENS, fail_fast=True)
    allowed_token_ids: list[TokenId] | None = Field(None, min_length=1, max_length=MAX_ALLOWED_TOKENS, fail_fast=True)
    bad_words: list[BadWord] = Field([], max_length=MAX_BAD_WORDS, fail_fast=True)
