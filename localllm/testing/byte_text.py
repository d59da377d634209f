"""A tokenizer and a prompt renderer that need no model: bytes are tokens, messages are lines."""

from __future__ import annotations

import re

from localllm.contract.chat_format import RenderedPrompt
from localllm.contract.decoder import InfillTokens
from localllm.contract.errors import InvalidRequestError
from localllm.contract.generation import ChatPrompt, Constraint

N_VOCAB = 261
_SPECIAL = {"<|end|>": 256, "<|begin|>": 257, "<|prefix|>": 258, "<|suffix|>": 259, "<|middle|>": 260}
_SPECIAL_PATTERN = re.compile("(" + "|".join(re.escape(text) for text in _SPECIAL) + ")")


class ByteTokenizer:
    """Token id = byte value; 256 ends an answer, 257 begins a prompt, three more fill gaps.

    Safe in any thread: it has no state.
    """

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Return the bytes of ``text``, with 257 in front for ``add_special``."""
        tokens = [_SPECIAL["<|begin|>"]] if add_special else []
        for part in _SPECIAL_PATTERN.split(text) if parse_special else [text]:
            if parse_special and part in _SPECIAL:
                tokens.append(_SPECIAL[part])
            else:
                tokens.extend(part.encode())
        return tokens

    def piece(self, token: int) -> bytes:
        """Return the byte; nothing for the special tokens."""
        return bytes([token]) if token < 256 else b""

    def spelling(self, token: int) -> bytes:
        """Return the byte, or the special token as it is written."""
        return self.piece(token) or next((text.encode() for text, known in _SPECIAL.items() if known == token), b"")

    @property
    def infill_tokens(self) -> InfillTokens:
        """Three of the special tokens."""
        return InfillTokens(_SPECIAL["<|prefix|>"], _SPECIAL["<|suffix|>"], _SPECIAL["<|middle|>"])


class PlainRenderer:
    """One line per message, ``role: content``, and ``assistant:`` at the end."""

    def render(self, prompt: ChatPrompt, constraint: Constraint | None = None) -> RenderedPrompt:
        """Return the lines. A message without a role or with other content than text is refused."""
        lines: list[str] = []
        for index, message in enumerate(prompt.messages):
            role, content = message.get("role"), message.get("content")
            if not isinstance(role, str) or not isinstance(content, str):
                raise InvalidRequestError(
                    f"Message {index} needs a role and a content, both strings.", param=f"messages.{index}"
                )
            lines.append(f"{role}: {content}\n")
        return RenderedPrompt("".join(lines) + "assistant:", constraint=constraint)
