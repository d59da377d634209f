"""The requests of the endpoints, in the words of llama.cpp's server and of vLLM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, cast

from pydantic import Field

from localllm import ChatPrompt, DetokenizeRequest, InvalidRequestError, TextPrompt, TokenizeRequest
from localllm.openai import parse_chat
from localllm.openai.biases import MAX_TOKEN_ID
from localllm.openai.wire_model import WireModel, validate

MAX_TOKENS: Final = 1_000_000
_TEXT_FIELDS: Final = ("content", "prompt", "input")


class TokenizeBody(WireModel):
    """A text to tokenise: ``content``, ``prompt`` or ``input``, whichever the client says.

    Whether the model's first token is put before it is ``add_special`` in llama.cpp's words and ``add_special_tokens``
    in vLLM's; absent, it is as in the service whose word for the text was used: only ``content`` goes without.
    """

    model: str | None = Field(None, max_length=512)
    content: str | None = None
    prompt: str | None = None
    input: str | None = None
    add_special: bool | None = None
    add_special_tokens: bool | None = None
    parse_special: bool = True
    with_pieces: bool = False
    return_token_strs: bool = False


class DetokenizeBody(WireModel):
    """Tokens to spell."""

    model: str | None = Field(None, max_length=512)
    tokens: Annotated[list[Annotated[int, Field(ge=0, le=MAX_TOKEN_ID)]], Field(max_length=MAX_TOKENS, fail_fast=True)]

    def text_request(self) -> DetokenizeRequest:
        """Return what the model is asked."""
        return DetokenizeRequest(tuple(self.tokens))


@dataclass(frozen=True, slots=True)
class TokenizeCall:
    """A checked request: what the model is asked, and which spellings the answer has.

    ``with_pieces``: each token is an object of id and piece. ``token_strs``: the pieces stand in a list of their own.
    """

    request: TokenizeRequest
    with_pieces: bool
    token_strs: bool


def parse_tokenize(body: Mapping[str, Any], system_prompt: str | None = None) -> TokenizeCall:
    """Return the checked request in ``body``: of a text, or of ``messages``, to which the model's own prompt goes.

    Raises ``InvalidRequestError`` with the field as ``param``; for messages also what :func:`parse_messages` raises.
    """
    fields = validate(TokenizeBody, body)
    texts = {name: text for name in _TEXT_FIELDS if (text := getattr(fields, name)) is not None}
    has_messages = body.get("messages") is not None
    if len(texts) + has_messages != 1:
        names = [*texts, *["messages"] * has_messages]
        message = "There is nothing to tokenise: send one of content, prompt, input and messages."
        if names:
            message = f"There are several texts, {' and '.join(names)}: send one of them."
        raise InvalidRequestError(message, param=names[-1] if names else "content")
    spelled = fields.with_pieces or fields.return_token_strs
    if has_messages:
        request = TokenizeRequest(parse_messages(body, system_prompt), with_pieces=spelled)
    else:
        ((name, text),) = texts.items()
        given = fields.add_special if fields.add_special is not None else fields.add_special_tokens
        add_special = name != "content" if given is None else given
        request = TokenizeRequest(TextPrompt(text), add_special, fields.parse_special, spelled)
    return TokenizeCall(request, fields.with_pieces, fields.return_token_strs)


def parse_detokenize(body: Mapping[str, Any]) -> DetokenizeBody:
    """Return the checked body. Raises ``InvalidRequestError`` with the field as ``param``."""
    return validate(DetokenizeBody, body)


def parse_messages(body: Mapping[str, Any], system_prompt: str | None = None) -> ChatPrompt:
    """Return the prompt that the chat endpoint makes of the same body.

    Raises what ``parse_chat`` does: whatever is refused there is refused here.
    """
    return cast(ChatPrompt, parse_chat(body).generate_request(system_prompt).prompt)
