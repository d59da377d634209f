"""Writes a query and a document as a model with a classification head wants them: two segments, or a template."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from .tokenizer import LlamaTokenizer

_QUERY, _DOCUMENT = "{query}", "{document}"


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """What the model wants around one text, and between the two of a pair."""

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def n_single(self) -> int:
        """Tokens around one text."""
        return len(self.before) + len(self.after)


class PairWriter(Protocol):
    """Turns a pair into tokens. See ``PoolEncoder.encode_pair``."""

    def write(self, query: str, document: str, max_tokens: int | None, max_document_tokens: int | None) -> list[int]:
        """Return the tokens, the document's end cut off where they would be too many."""
        ...


class TwoSegments:
    """``[CLS] query [SEP] document [SEP]``, with whatever tokens the model has for these.

    As llama-server's ``format_prompt_rerank``, but the document is always closed as a single text is: WordPiece files
    seldom say that they want it, and every such model was trained so.
    """

    def __init__(self, tokenizer: LlamaTokenizer, special: SpecialTokens) -> None:
        self._tokenizer = tokenizer
        self._special = special
        self._last_query: tuple[str, list[int]] = ("", [])  # a request has one query and many documents

    def write(self, query: str, document: str, max_tokens: int | None, max_document_tokens: int | None) -> list[int]:
        """Return the tokens of a pair."""
        if query != self._last_query[0]:
            self._last_query = (query, encode_plain(self._tokenizer, query))
        special = self._special
        head = [*special.before, *self._last_query[1], *special.between]
        body = encode_plain(self._tokenizer, document)
        room = None if max_tokens is None else max(0, max_tokens - len(head) - len(special.after))
        return [*head, *body[: _smaller(room, max_document_tokens)], *special.after]


class RerankTemplate:
    """A model's ``rerank`` template, with ``{query}`` and ``{document}`` in it, as llama-server fills it in.

    Control tokens are those of the template alone: what query and document spell stays text. Raises ``ValueError``
    unless the template has a place for a query and one for a document.
    """

    def __init__(self, source: str, tokenizer: LlamaTokenizer, is_control: Callable[[int], bool]) -> None:
        if _QUERY not in source or source.count(_DOCUMENT) != 1:
            message = "it needs {query}, and {document} once"
            raise ValueError(message)
        self._tokenizer = tokenizer
        pieces = _pieces(source, tokenizer, is_control)
        place = next(index for index, piece in enumerate(pieces) if isinstance(piece, str) and _DOCUMENT in piece)
        self._before, self._after = pieces[:place], pieces[place + 1 :]
        self._head, _, self._tail = str(pieces[place]).partition(_DOCUMENT)  # text that no control token parts from it

    def write(self, query: str, document: str, max_tokens: int | None, max_document_tokens: int | None) -> list[int]:
        """Return the tokens of a pair."""
        before, after = self._fixed(self._before, query), self._fixed(self._after, query)
        room = None if max_tokens is None else max_tokens - len(before) - len(after)
        return before + self._with_document(query, document, room, max_document_tokens) + after

    def _fixed(self, pieces: Sequence[int | str], query: str) -> list[int]:
        tokens: list[int] = []
        for piece in pieces:
            tokens += [piece] if isinstance(piece, int) else self._encode(piece.replace(_QUERY, query))
        return tokens

    def _with_document(self, query: str, document: str, room: int | None, max_document_tokens: int | None) -> list[int]:
        """Return the tokens around and of the document; those around it are never cut."""
        head, tail = self._head.replace(_QUERY, query), self._tail.replace(_QUERY, query)
        tokens = self._encode(head + document + tail)
        if room is None and max_document_tokens is None:
            return tokens
        n_head, end = _n_shared(tokens, self._encode(head)), self._encode(tail)
        most = None if max_document_tokens is None else n_head + max_document_tokens + len(end)
        limit = _smaller(room, most)
        if limit is None or len(tokens) <= limit:
            return tokens
        return self._encode(head + document)[: max(n_head, limit - len(end))] + end

    def _encode(self, text: str) -> list[int]:
        return encode_plain(self._tokenizer, text)


def encode_plain(tokenizer: LlamaTokenizer, text: str) -> list[int]:
    """Return the tokens of ``text`` and nothing around them; control tokens spelled in it stay text."""
    return tokenizer.encode(text, add_special=False, parse_special=False) if text else []


def _pieces(source: str, tokenizer: LlamaTokenizer, is_control: Callable[[int], bool]) -> list[int | str]:
    """Split a template at its control tokens, as the library's own tokenizer does before anything else."""
    found = set(tokenizer.encode(source, add_special=False, parse_special=True))
    controls = {tokenizer.written_out(token): token for token in found if is_control(token)}
    controls.pop("", None)
    if not controls:
        return [source]
    longest_first = sorted(controls, key=len, reverse=True)
    parts = re.split(f"({'|'.join(map(re.escape, longest_first))})", source)
    return [controls.get(part, part) for part in parts if part]


def _n_shared(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many tokens both begin with: a document's first letters may join the last ones before it."""
    return next((index for index, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), len(second))


def _smaller(first: int | None, second: int | None) -> int | None:
    limits = [limit for limit in (first, second) if limit is not None]
    return min(limits, default=None)
