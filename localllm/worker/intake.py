"""Turns a request into tokens that the scheduler can take, or into the error that says why not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from localllm.contract.adapters import USUAL_ADAPTERS, AdapterScale, adapter_group
from localllm.contract.backend import LoadedModel
from localllm.contract.chat_format import RenderedPrompt, ReplyRules
from localllm.contract.decoder import Tokenizer
from localllm.contract.errors import (
    ContextLengthExceededError,
    InvalidRequestError,
    ModelUnsupportedError,
    UnsupportedFeatureError,
)
from localllm.contract.generation import (
    ChatPrompt,
    Constraint,
    GenerateRequest,
    InfillPrompt,
    TextPrompt,
    TokenPrompt,
)
from localllm.contract.model import ModelInfo
from localllm.contract.wire import Submit
from localllm.engine.step_loop import PreparedRequest


def prepare(submit: Submit, model: LoadedModel, *, queued_at: float) -> PreparedRequest:
    """Render, tokenise and check one request (intake thread). Raises ``LocalLLMError``.

    Everything that is wrong with a prompt shows here, so that it never costs the scheduler anything.
    """
    request = submit.request
    if not isinstance(request, GenerateRequest):
        message = "This model is loaded to write text; it can't pool texts as it is loaded."
        raise ModelUnsupportedError(message, param="model")
    param = "messages" if isinstance(request.prompt, ChatPrompt) else "prompt"
    prompt = request.prompt
    rendered: RenderedPrompt | None = None
    tokens: Sequence[int]
    if isinstance(prompt, ChatPrompt):
        rendered = render(prompt, model, request.sampling.constraint)
        tokens = encode_rendered(rendered, model.tokenizer)
    else:
        tokens = _tokens_of(prompt, model.tokenizer)
    if not tokens:
        message = "The prompt is empty: it has no token to go on from. Send at least one character or token."
        raise InvalidRequestError(message, param=param)
    n_vocab = model.info.n_vocab
    check_ids(tokens, n_vocab, param)
    check_ids((token for token, _ in request.sampling.logit_bias), n_vocab, "logit_bias")
    n_ctx = model.decoder.capabilities.context_length
    if len(tokens) >= n_ctx:
        raise ContextLengthExceededError(len(tokens), n_ctx, param=param)
    constraint = request.sampling.constraint if rendered is None else rendered.constraint
    warnings = _compile(constraint, model)
    return PreparedRequest(
        request_id=submit.request_id,
        prompt=tuple(tokens),
        sampling=replace(request.sampling, constraint=constraint),
        owner=request.owner,
        cache_prompt=request.cache_prompt,
        queued_at=queued_at,
        prompt_logprobs=request.prompt_logprobs,
        warnings=warnings if rendered is None else (*rendered.warnings, *warnings),
        reply=ReplyRules() if rendered is None else rendered.reply,
        group=_group(request.adapters, model.info),
        goes_on=request.keep,
    )


def _group(wanted: Sequence[AdapterScale] | None, info: ModelInfo) -> str:
    """Return the group of requests that are computed with these adapters, and no others."""
    if wanted is None:
        return USUAL_ADAPTERS
    if not info.adapters:
        message = "This model has no LoRA adapters that a request could choose from. Leave lora out."
        raise UnsupportedFeatureError(message, param="lora")
    names = [name for name, _ in info.adapters]
    scales, seen = [0.0] * len(names), set[int]()
    for position, adapter in enumerate(wanted):
        index = names.index(adapter.name) if adapter.name in names else adapter.index
        if index is None or not 0 <= index < len(names):
            asked = f"the name {adapter.name!r}" if adapter.name is not None else f"the id {adapter.index}"
            known = ", ".join(f"{number} ({name})" for number, name in enumerate(names))
            message = f"This model has no LoRA adapter with {asked}; it has: {known}."
            raise InvalidRequestError(message, param=f"lora[{position}]")
        if index in seen:
            message = f"lora names the adapter {names[index]!r} twice."
            raise InvalidRequestError(message, param=f"lora[{position}]")
        seen.add(index)
        scales[index] = adapter.scale
    return adapter_group(scales, [scale for _, scale in info.adapters])


def _compile(constraint: Constraint | None, model: LoadedModel) -> tuple[str, ...]:
    """Have a constraint compiled, which may take a while, before the step thread needs it; return warnings."""
    if constraint is None:
        return ()
    if model.constraints is None:
        message = "This model's engine can't hold its answers to a schema or a grammar. Leave that out of the request."
        raise UnsupportedFeatureError(message, param=constraint.param or "response_format")
    return model.constraints.compile(constraint)


def _tokens_of(prompt: TextPrompt | TokenPrompt | InfillPrompt, tokenizer: Tokenizer) -> list[int] | tuple[int, ...]:
    if isinstance(prompt, TextPrompt):
        # A raw prompt may write the model's control tokens out, as hand-made chat templates do.
        return tokenizer.encode(prompt.text, add_special=True, parse_special=True)
    if isinstance(prompt, InfillPrompt):
        return _infill(prompt, tokenizer)
    return prompt.tokens


def render(prompt: ChatPrompt, model: LoadedModel, constraint: Constraint | None = None) -> RenderedPrompt:
    """Render a conversation by the model's template. Raises ``InvalidRequestError``, ``UnsupportedFeatureError``.

    ``constraint`` is what the reply's content must match.
    """
    if model.renderer is None:
        message = "This model has no chat template. Send a plain prompt to /v1/completions instead."
        raise InvalidRequestError(message, param="messages")
    rendered = model.renderer.render(prompt, constraint)
    if prompt.tools and prompt.tool_choice != "none" and rendered.reply.calls is None:
        message = "This model's engine can't call tools. Leave tools out, or name another model."
        raise UnsupportedFeatureError(message, param="tools")
    return rendered


def encode_rendered(rendered: RenderedPrompt, tokenizer: Tokenizer) -> list[int]:
    """Return the tokens of a rendered conversation."""
    return tokenizer.encode(rendered.text, add_special=False, parse_special=True)


def _infill(prompt: InfillPrompt, tokenizer: Tokenizer) -> list[int]:
    """Return the prompt that asks for what lies between two texts, in which no control token is read.

    In the order of "prefix, suffix, middle", which all models with such tokens know.
    """
    marks = tokenizer.infill_tokens
    if marks is None:
        message = "This model has no fill-in-the-middle tokens, so it can't take a suffix. Name a model that has them."
        raise UnsupportedFeatureError(message, param="suffix")
    beginning = tokenizer.encode("", add_special=True, parse_special=False)
    prefix = tokenizer.encode(prompt.prefix, add_special=False, parse_special=False)
    suffix = tokenizer.encode(prompt.suffix, add_special=False, parse_special=False)
    return [*beginning, marks.prefix, *prefix, marks.suffix, *suffix, marks.middle]


def check_ids(tokens: Iterable[int], n_vocab: int, param: str) -> None:
    """Raise ``InvalidRequestError`` for the first id that the model does not have."""
    for token in tokens:
        if not 0 <= token < n_vocab:
            message = f"Token id {token} is not in this model's vocabulary, which has the ids 0 to {n_vocab - 1}."
            raise InvalidRequestError(message, param=param)
