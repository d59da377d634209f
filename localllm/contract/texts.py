"""What a model makes of texts without computing anything: tokens, their spelling, and rendered conversations."""

from __future__ import annotations

from dataclasses import dataclass

from localllm.contract.generation import ChatPrompt, TextPrompt


@dataclass(frozen=True, slots=True)
class TokenizeRequest:
    """Asks for the tokens of a text, or of a conversation as the model's chat template renders it.

    ``add_special`` puts around a text what the model wants there, such as a first token; ``parse_special`` reads
    control tokens that are written out in it. Both are left aside for a conversation: its template decides.
    ``with_pieces`` asks for the tokens' spellings too.
    """

    prompt: TextPrompt | ChatPrompt
    add_special: bool = False
    parse_special: bool = True
    with_pieces: bool = False


@dataclass(frozen=True, slots=True)
class DetokenizeRequest:
    """Asks for the text that tokens spell, control tokens written out."""

    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RenderRequest:
    """Asks for the text of a conversation as the model's chat template renders it."""

    prompt: ChatPrompt


TextRequest = TokenizeRequest | DetokenizeRequest | RenderRequest


@dataclass(frozen=True, slots=True)
class TextResult:
    """The answer: ``tokens`` (and ``pieces``, the spelling of each, where asked for), or ``text``.

    What is no UTF-8 in a text is U+FFFD; a piece is exact.
    """

    text: str = ""
    tokens: tuple[int, ...] = ()
    pieces: tuple[bytes, ...] = ()
