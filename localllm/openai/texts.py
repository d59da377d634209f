"""The four forms in which a request holds texts: a string, several, token ids, several lists of those."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import Discriminator, Field, Tag

from localllm.contract.generation import TextPrompt, TokenPrompt
from localllm.openai.biases import MAX_TOKEN_ID

MAX_TEXT_TOKENS: Final = 1_000_000

_ANY_FORM: Final = "<a string, a list of strings, a list of token ids, or a list of such lists>"

TokenIds = Annotated[
    list[Annotated[int, Field(ge=0, le=MAX_TOKEN_ID)]],
    Field(min_length=1, max_length=MAX_TEXT_TOKENS, fail_fast=True),
]
Texts = str | list[str] | list[int] | list[list[int]]


def texts_field(text: Any, *, max_texts: int) -> Any:  # noqa: ANN401 - pydantic's types are values
    """Return the annotated type of a field for :data:`Texts`; ``text`` is the type of one string in it."""
    several = Field(min_length=1, max_length=max_texts, fail_fast=True)
    return Annotated[
        Annotated[text, Tag("<text>")]
        | Annotated[list[text], several, Tag("<texts>")]
        | Annotated[TokenIds, Tag("<tokens>")]
        | Annotated[list[TokenIds], several, Tag("<token lists>")]
        | Annotated[list[text], several, Tag(_ANY_FORM)],
        Discriminator(_tag),
    ]


def to_prompts(texts: Texts) -> tuple[TextPrompt | TokenPrompt, ...]:
    """Return one prompt for each text, in order."""
    if isinstance(texts, str):
        return (TextPrompt(texts),)
    if isinstance(texts[0], int):
        return (_to_prompt(texts),)
    return tuple(_to_prompt(text) for text in texts)


def _to_prompt(text: str | int | list[int] | list[str] | list[list[int]]) -> TextPrompt | TokenPrompt:
    return TextPrompt(text) if isinstance(text, str) else TokenPrompt(tuple(text))  # type: ignore[arg-type]


def _tag(value: object) -> str:
    if isinstance(value, str):
        return "<text>"
    first = value[0] if isinstance(value, list) and value else None
    if type(first) is int:
        return "<tokens>"
    if isinstance(first, list):
        return "<token lists>"
    return "<texts>" if isinstance(first, str) else _ANY_FORM
