"""Turns texts and pairs into the tokens that are pooled, with the special tokens that the model was trained with."""

from __future__ import annotations

from typing import Any

import jinja2
import llama_cpp.llama_cpp as lib

from localllm import ModelFileError, ModelUnsupportedError

from .header import ModelHeader
from .pair_prompt import PairWriter, RerankTemplate, SpecialTokens, TwoSegments
from .sandbox import SandboxedTemplate, TemplateLimitError
from .tokenizer import LlamaTokenizer

_NONE = -1  # LLAMA_TOKEN_NULL
_RARE_LETTER = "\U00010fff"  # no vocabulary has it: it comes out as bytes, or as the unknown token


class LlamaPoolEncoder:
    """The real encoder. Used by one thread at a time (the intake thread). ``pairs`` is None unless the model scores."""

    def __init__(self, tokenizer: LlamaTokenizer, special: SpecialTokens, pairs: PairWriter | None) -> None:
        self._tokenizer = tokenizer
        self._special = special
        self._pairs = pairs

    def encode_text(self, text: str, *, max_tokens: int | None = None) -> list[int]:
        """Return the tokens of one text, its end cut off where they would be more than ``max_tokens``.

        Control tokens spelled in the text are read as such: some models want one there, and their users write it.
        What the model puts after a text is never cut off. An empty text has no tokens but these, perhaps none at all.
        """
        special = self._special
        tokens = self._tokenizer.encode(text, add_special=False, parse_special=True)
        if max_tokens is not None:
            del tokens[max(0, max_tokens - special.n_single) :]
        return [*special.before, *tokens, *special.after]

    def encode_pair(
        self, query: str, document: str, *, max_tokens: int | None = None, max_document_tokens: int | None = None
    ) -> list[int]:
        """Return the tokens of a query and a document as the model scores them.

        The document's end is cut off, never the query's. Where even an empty document leaves more than ``max_tokens``,
        the result is longer than that. Raises ``ModelUnsupportedError`` where the model can't score pairs.
        """
        if self._pairs is None:
            message = "This model has no classification head, so it can't score pairs of texts."
            raise ModelUnsupportedError(message, param="model")
        return self._pairs.write(query, document, max_tokens, max_document_tokens)


def special_tokens(
    model_id: str,
    vocab: Any,  # noqa: ANN401  # llama_vocab pointer
    tokenizer: LlamaTokenizer,
) -> SpecialTokens:
    """Return what the file wants around texts. Raises ``ModelFileError`` where it wants tokens that it does not have.

    Asked for them all the same, the library would end the process (``llama_vocab::impl::tokenize``).
    """
    bos, eos, sep = (int(get(vocab)) for get in (lib.llama_vocab_bos, lib.llama_vocab_eos, lib.llama_vocab_sep))
    is_wordpiece = int(lib.llama_vocab_type(vocab)) == lib.LLAMA_VOCAB_TYPE_WPM
    begins = is_wordpiece or bool(lib.llama_vocab_get_add_bos(vocab))
    ends = not is_wordpiece and bool(lib.llama_vocab_get_add_eos(vocab))
    for wanted, token, key in (
        (begins, bos, "bos_token_id"),
        (ends, eos, "eos_token_id"),
        (is_wordpiece, sep, "seperator_token_id"),  # so misspelt by the format (gguf-py, Keys.Tokenizer.SEP_ID)
    ):
        if wanted and token == _NONE:
            message = f"Model {model_id!r} wants a token around texts that its file lacks: tokenizer.ggml.{key}."
            raise ModelFileError(message)
    if min(tokenizer.encode(_RARE_LETTER, add_special=False, parse_special=False), default=0) < 0:
        message = f"Model {model_id!r} has no token for letters that it does not know: tokenizer.ggml.unknown_token_id."
        raise ModelFileError(message)
    around = tokenizer.encode("", add_special=True, parse_special=False)
    n_before = 1 if begins and around[:1] == [bos] else 0
    before, after = tuple(around[:n_before]), tuple(around[n_before:])
    return SpecialTokens(before, (sep,) if is_wordpiece else _between(vocab, eos, sep), after)


def _between(vocab: Any, eos: int, sep: int) -> tuple[int, ...]:  # noqa: ANN401
    """Return what stands between query and document (llama-server's ``format_prompt_rerank``)."""
    end = [eos if eos != _NONE else sep] if lib.llama_vocab_get_add_eos(vocab) else []
    separator = [sep] if lib.llama_vocab_get_add_sep(vocab) else []
    return tuple(token for token in (*end, *separator) if token != _NONE)


def pair_writer(
    header: ModelHeader,
    vocab: Any,  # noqa: ANN401  # llama_vocab pointer
    tokenizer: LlamaTokenizer,
    special: SpecialTokens,
) -> tuple[PairWriter, tuple[str, ...]]:
    """Return what writes pairs, by the file's ``rerank`` template if there is one; and notes on what is wrong."""
    source = header.template("rerank")
    if source is not None:
        try:
            plain = _filled_in(source, vocab, tokenizer) if "{{" in source or "{%" in source else source
            return RerankTemplate(plain, tokenizer, lambda token: bool(lib.llama_vocab_is_control(vocab, token))), ()
        except (ValueError, TypeError, jinja2.TemplateError, TemplateLimitError) as error:
            note = f"The rerank template can't be used ({error}): query and document are joined without it."
            return TwoSegments(tokenizer, special), (note,)
    return TwoSegments(tokenizer, special), ()


def _filled_in(source: str, vocab: Any, tokenizer: LlamaTokenizer) -> str:  # noqa: ANN401
    """Render a Jinja template once, with marks for query and document."""
    return SandboxedTemplate(source).render(
        {
            "query": "{query}",
            "document": "{document}",
            "bos_token": tokenizer.written_out(int(lib.llama_vocab_bos(vocab))),
            "eos_token": tokenizer.written_out(int(lib.llama_vocab_eos(vocab))),
        }
    )
