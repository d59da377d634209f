"""Vocabularies for tests of grammars that hold calls and whole replies: bytes, and markers as tokens of their own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from functools import cache
from typing import Any, cast

from llguidance import LLTokenizer
from llguidance._tokenizer import TokenizerWrapper

from localllm import CallFormat, ChatFormat, Constraint, Tool, ToolChoice
from localllm_llama_cpp.format_presets import PRESETS
from localllm_llama_cpp.grammars import Grammars
from localllm_llama_cpp.lark_text import _TOKEN
from localllm_llama_cpp.reply_grammar import Opening, reply_constraint
from localllm_llama_cpp.tokenizer import LlamaTokenizer
from tests.plugins.llama_cpp.families import FAMILIES

END = "<|the_end|>"
_FIRST_SPECIAL = 256


class MarkedTexts:
    """Stands for a model's tokenizer: each byte is a token, and so is each marker. Pairs of bytes are tokens, too."""

    bos_token_id = None

    def __init__(self, markers: Sequence[str], ends: Sequence[str]) -> None:
        self.markers = {text: _FIRST_SPECIAL + index for index, text in enumerate((*markers, *ends, END))}
        self.end_tokens = frozenset(self.markers[text] for text in (*ends, END))
        self.eos_token_id = self.markers[END]
        self.special_token_ids = tuple(self.markers.values())
        pairs = (b"\n\n", b"\n{", b'{"', b'": ', b"}\n", b"<t", b"k>", b">\n", b"> ", b" t")
        self.tokens = (*(bytes([byte]) for byte in range(256)), *(text.encode() for text in self.markers), *pairs)
        self.n_vocab = len(self.tokens)

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text if isinstance(text, bytes) else text.encode())

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Bytes, and markers as one token each."""
        tokens: list[int] = []
        while text:
            marker = next((marker for marker in self.markers if parse_special and text.startswith(marker)), "")
            tokens += [self.markers[marker]] if marker else text[0].encode()
            text = text[len(marker) or 1 :]
        return tokens

    def merged(self, text: str) -> list[int]:
        """The same text with as many pairs of bytes as can be, from the left."""
        pairs = {data: token for token, data in enumerate(self.tokens) if token >= _FIRST_SPECIAL and len(data) == 2}
        tokens: list[int] = []
        for token in self.encode(text, add_special=False, parse_special=True):
            last = bytes([*tokens[-1:], token]) if tokens and max(tokens[-1], token) < _FIRST_SPECIAL else b""
            if last in pairs:
                tokens[-1] = pairs[last]
            else:
                tokens.append(token)
        return tokens

    def piece(self, token: int) -> bytes:
        return self.tokens[token]


@cache
def vocabulary(markers: tuple[str, ...] = (), ends: tuple[str, ...] = ()) -> tuple[MarkedTexts, Grammars]:
    texts = MarkedTexts([text for text in markers if text not in ends], ends)
    tokenizer = LLTokenizer(TokenizerWrapper(texts), n_vocab=texts.n_vocab, eos_token=sorted(texts.end_tokens))
    return texts, Grammars(tokenizer, cast("LlamaTokenizer", texts))


def markers_of(chat: ChatFormat) -> tuple[str, ...]:
    """All tags that a format is written with."""
    calls = chat.calls
    texts = [*chat.content_open, *chat.content_close]
    texts += [chat.thought.open, chat.thought.close] if chat.thought else []
    texts += [str(getattr(calls, field.name)) for field in fields(CallFormat)] if calls else []
    return tuple(dict.fromkeys(found for text in texts for found in _TOKEN.findall(text)))


def chat_of(name: str) -> ChatFormat:
    """The whole format of a family or of a preset."""
    if name not in FAMILIES:
        return PRESETS[name]
    family = FAMILIES[name]
    content = PRESETS["harmony"] if name == "gpt_oss" else PRESETS["command_r7b" if name == "command_r7b" else "none"]
    return ChatFormat(family.thought, family.calls, content.content_open, content.content_close)


class Reply:
    """The grammar of replies of one chat format."""

    def __init__(
        self,
        chat: ChatFormat,
        *,
        opening: Opening = "closed",
        tools: Sequence[Tool] = (),
        choice: ToolChoice = "required",
        parallel: bool = True,
        content: Constraint | None = None,
        as_tokens: bool = False,
        ends: tuple[str, ...] = (),
    ) -> None:
        self.texts, self.grammars = vocabulary(markers_of(chat) if as_tokens else (), ends)
        found, warnings = reply_constraint(
            chat,
            opening=opening,
            calls=chat.calls,
            tools=tools,
            choice=choice,
            parallel=parallel,
            content=content,
            special_token=self.grammars.special_token,
            ends=self.texts.end_tokens,
        )
        self.constraint = found
        self.warnings = (*warnings, *(self.grammars.compile(found) if found else ()))

    def takes(self, text: str) -> bool:
        """Whether the grammar takes a whole text, however it is cut into tokens; and then its end."""
        assert self.constraint is not None, self.warnings
        taken = []
        for tokens in (self.texts.encode(text, add_special=False, parse_special=True), self.texts.merged(text)):
            taken.append(self.takes_tokens(tokens))
        assert len(set(taken)) == 1, text
        return taken[0]

    def takes_tokens(self, tokens: Sequence[int]) -> bool:
        assert self.constraint is not None, self.warnings
        state = self.grammars.begin(self.constraint)
        for token in tokens:
            if state.is_over or not state.allows(token):
                return False
            state.take(token)
        return state.is_over or state.allows(self.texts.eos_token_id)


def required(calls: CallFormat | None, tools: Sequence[Tool], **options: Any) -> Reply:
    """The grammar of one call or several, and nothing else."""
    return Reply(ChatFormat(calls=calls), tools=tools, **options)


def schema(value: object, *, strict: bool = True) -> Constraint:
    return Constraint("json_schema", json.dumps(value), strict)
