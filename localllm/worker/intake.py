"""Turns a request into tokens that the scheduler can take, or into the error that says why not."""

from __future__ import annotations

from collections.abc import Iterable

from localllm.contract.backend import LoadedModel
from localllm.contract.errors import ContextLengthExceededError, InvalidRequestError
from localllm.contract.generation import ChatPrompt, Prompt, TextPrompt
from localllm.contract.wire import Submit
from localllm.engine.step_loop import PreparedRequest


def prepare(submit: Submit, model: LoadedModel, *, queued_at: float) -> PreparedRequest:
    """Render, tokenise and check one request (intake thread). Raises ``LocalLLMError``.

    Everything that is wrong with a prompt shows here, so that it never costs the scheduler anything.
    """
    request = submit.request
    param = "messages" if isinstance(request.prompt, ChatPrompt) else "prompt"
    tokens = _tokens_of(request.prompt, model)
    if not tokens:
        message = "The prompt is empty: it has no token to go on from. Send at least one character or token."
        raise InvalidRequestError(message, param=param)
    n_vocab = model.info.n_vocab
    _check_ids(tokens, n_vocab, param)
    _check_ids((token for token, _ in request.sampling.logit_bias), n_vocab, "logit_bias")
    n_ctx = model.decoder.capabilities.context_length
    if len(tokens) >= n_ctx:
        raise ContextLengthExceededError(len(tokens), n_ctx, param=param)
    return PreparedRequest(
        request_id=submit.request_id,
        prompt=tuple(tokens),
        sampling=request.sampling,
        owner=request.owner,
        cache_prompt=request.cache_prompt,
        queued_at=queued_at,
    )


def _tokens_of(prompt: Prompt, model: LoadedModel) -> list[int] | tuple[int, ...]:
    if isinstance(prompt, ChatPrompt):
        if model.renderer is None:
            message = "This model has no chat template. Send a plain prompt to /v1/completions instead."
            raise InvalidRequestError(message, param="messages")
        text = model.renderer.render(prompt.messages, prompt.template_kwargs)
        return model.tokenizer.encode(text, add_special=False, parse_special=True)
    if isinstance(prompt, TextPrompt):
        # A raw prompt may write the model's control tokens out, as hand-made chat templates do.
        return model.tokenizer.encode(prompt.text, add_special=True, parse_special=True)
    return prompt.tokens


def _check_ids(tokens: Iterable[int], n_vocab: int, param: str) -> None:
    for token in tokens:
        if not 0 <= token < n_vocab:
            message = f"Token id {token} is not in this model's vocabulary, which has the ids 0 to {n_vocab - 1}."
            raise InvalidRequestError(message, param=param)
