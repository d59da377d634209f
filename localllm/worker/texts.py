"""Answers requests about texts from the tokenizer and the template alone: the engine takes no step for them."""

from __future__ import annotations

from localllm.contract.backend import LoadedModel
from localllm.contract.generation import ChatPrompt
from localllm.contract.texts import DetokenizeRequest, RenderRequest, TextRequest, TextResult, TokenizeRequest
from localllm.worker.intake import check_ids, encode_rendered, render


def answer_text(request: TextRequest, model: LoadedModel) -> TextResult:
    """Return the answer (intake thread). Raises ``LocalLLMError``, and whatever the model's own code raises."""
    match request:
        case TokenizeRequest():
            return _tokenize(request, model)
        case DetokenizeRequest(tokens=tokens):
            check_ids(tokens, model.info.n_vocab, "tokens")
            return TextResult(b"".join(map(model.tokenizer.spelling, tokens)).decode("utf-8", "replace"))
        case RenderRequest(prompt=prompt):
            return TextResult(render(prompt, model).text)


def _tokenize(request: TokenizeRequest, model: LoadedModel) -> TextResult:
    tokenizer = model.tokenizer
    if isinstance(request.prompt, ChatPrompt):
        tokens = encode_rendered(render(request.prompt, model), tokenizer)
    else:
        text = request.prompt.text
        tokens = tokenizer.encode(text, add_special=request.add_special, parse_special=request.parse_special)
    pieces = tuple(map(tokenizer.spelling, tokens)) if request.with_pieces else ()
    return TextResult(tokens=tuple(tokens), pieces=pieces)
