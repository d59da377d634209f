"""Checks at start-up what a model's configuration puts into requests, by trying it on the smallest of each kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple

from localllm.contract.errors import LocalLLMError
from localllm.contract.generation import ChatPrompt
from localllm.contract.model import ModelDefinition, RequestRules
from localllm.openai.chat import parse_chat
from localllm.openai.completions import parse_completion
from localllm.openai.embeddings import parse_embedding
from localllm.openai.model_rules import REQUESTS, apply_rules, field_names, same_wish
from localllm.openai.rerank import parse_rerank
from localllm.openai.responses.request import parse_response
from localllm.openai.thinking import ThinkingFields
from localllm.openai.unsupported import (
    CHAT_REFUSALS,
    COMPLETION_REFUSALS,
    EMBEDDING_REFUSALS,
    RERANK_REFUSALS,
    RESPONSE_REFUSALS,
)
from localllm.openai.wire_model import describe

_CONTENT: Final = frozenset(
    {
        *("model", "messages", "prompt", "suffix", "input", "query", "documents", "texts"),
        *("instructions", "previous_response_id", "conversation"),
    }
)
_NOT_TO_SET: Final[Mapping[str, str]] = {
    **dict.fromkeys(_CONTENT, "it is what a request is about"),
    **dict.fromkeys(("stream", "stream_options", "background"), "how an answer is sent is the client's to say"),
    "logprobs": "it is true or false in chats, but a number in completions",
}

SETTABLE: Final = frozenset(name for model in REQUESTS for name in field_names(model)) - _NOT_TO_SET.keys()
"""The fields that ``defaults`` and ``force`` may hold."""

STRIPPABLE: Final = (
    frozenset(name for model in REQUESTS for name in field_names(model))
    | frozenset(
        name
        for refusals in (CHAT_REFUSALS, COMPLETION_REFUSALS, EMBEDDING_REFUSALS, RERANK_REFUSALS, RESPONSE_REFUSALS)
        for name in refusals
    )
    | {"autoload", "ttl", "keep_alive"}
) - _CONTENT
"""The fields that ``strip`` may name: all that any endpoint heeds or refuses."""

_MANY_NAMES: Final = frozenset(field_names(ThinkingFields))  # each answers another question

_USER: Final = {"role": "user", "content": "Hello"}


class RuleFault(NamedTuple):
    """What is wrong at a key of ``[models.define.<id>]``. Where ``name`` is unknown, ``known`` has those there are."""

    key: str
    sentence: str
    name: str = ""
    known: frozenset[str] = frozenset()


def rule_faults(rules: RequestRules) -> list[RuleFault]:
    """Return what is wrong with the rules: names that no endpoint knows, values that none takes, contradictions."""
    faults = list(_name_faults(rules))
    misnamed = {fault.key for fault in faults}
    for table, fields in (("defaults", rules.defaults), ("force", rules.force)):
        sound = {name: value for name, value in fields.items() if f"{table}.{name}" not in misnamed}
        faults += _value_faults(table, sound)
    if not faults and rules.defaults and rules.force:
        faults += _value_faults("force", apply_rules({}, rules).fields)
    return faults


def preload_prompts(definition: ModelDefinition) -> tuple[tuple[ChatPrompt, ...], list[RuleFault]]:
    """Return what chat requests with the messages in ``preload`` would ask of the model, and what is wrong with them.

    The model's own rules apply, as they do to requests. No messages at all stand for its system prompt alone.
    """
    prompts: list[ChatPrompt] = []
    faults: list[RuleFault] = []
    for index, conversation in enumerate(definition.preload):
        try:
            prompts.append(_preload_prompt(conversation.messages, definition.rules))
        except LocalLLMError as error:
            faults.append(RuleFault(f"preload[{index}]", error.message.removesuffix(".")))
    return tuple(prompts), faults


def _preload_prompt(messages: tuple[Mapping[str, Any], ...], rules: RequestRules) -> ChatPrompt:
    is_only_prompt = not messages and bool(rules.system_prompt)
    body = {"messages": [_USER] if is_only_prompt else list(messages)}
    prompt = parse_chat(apply_rules(body, rules).fields).generate_request(rules.system_prompt).prompt
    if not isinstance(prompt, ChatPrompt):
        message = f"a chat request asks for {type(prompt).__name__}"
        raise TypeError(message)
    return replace(prompt, messages=prompt.messages[:-1]) if is_only_prompt else prompt


def _name_faults(rules: RequestRules) -> Iterator[RuleFault]:
    for table, fields in (("defaults", rules.defaults), ("force", rules.force)):
        for name in fields:
            if name in _NOT_TO_SET:
                yield RuleFault(f"{table}.{name}", f"this field can't be set here: {_NOT_TO_SET[name]}")
            elif name not in SETTABLE:
                yield RuleFault(f"{table}.{name}", "no request has this field", name, SETTABLE)
        yield from _double_names(table, fields)
    for name in rules.strip:
        if name in _CONTENT:
            yield RuleFault("strip", f"{describe(name)} can't be dropped: {_NOT_TO_SET[name]}")
        elif name not in STRIPPABLE:
            yield RuleFault("strip", f"{describe(name)}: no request has this field", name, STRIPPABLE)


def _double_names(table: str, fields: Mapping[str, Any]) -> Iterator[RuleFault]:
    named: list[str] = []
    for name in fields:
        twin = next((other for other in named if other in same_wish(name) and name not in _MANY_NAMES), None)
        if twin is not None:
            yield RuleFault(f"{table}.{name}", f"{twin} says the same; leave one of them out")
        named.append(name)


def _value_faults(table: str, fields: Mapping[str, Any]) -> list[RuleFault]:
    """Try the fields on the smallest request of each kind. One fault for each field, whoever refuses it."""
    if not fields:
        return []
    found: dict[str, RuleFault] = {}
    for attempt in _ATTEMPTS:
        try:
            attempt(fields)
        except LocalLLMError as error:
            for param, sentence in _told(error):
                root = param.partition("[")[0].partition(".")[0]
                name = next((name for name in fields if name in same_wish(root)), None)
                key = table if name is None else f"{table}.{name}"
                found.setdefault(key, RuleFault(key, sentence.removesuffix(".")))
    return list(found.values())


def _told(error: LocalLLMError) -> list[tuple[str, str]]:
    """Return (field, sentence) of each fault that an error tells of."""
    errors = error.detail.get("errors")
    if isinstance(errors, list):
        return [(fault["param"], fault["message"]) for fault in errors]
    return [(error.param or "", error.message)]


def _try_chat(fields: Mapping[str, Any]) -> None:
    request = parse_chat({"messages": [_USER], **fields})
    request.generate_request()


def _try_completion(fields: Mapping[str, Any]) -> None:
    parse_completion({"prompt": "Hello", **fields}).generate_requests()


def _try_embedding(fields: Mapping[str, Any]) -> None:
    parse_embedding({"input": "Hello", **fields}).pool_request()


def _try_rerank(fields: Mapping[str, Any]) -> None:
    parse_rerank({"query": "Hello", "documents": ["Hello"], **fields})
    parse_rerank({"query": "Hello", "texts": ["Hello"], **fields})


def _try_response(fields: Mapping[str, Any]) -> None:
    request = parse_response({"input": "Hello", **fields})
    request.generate_request(request.input.items)


_ATTEMPTS: Final[tuple[Callable[[Mapping[str, Any]], None], ...]] = (
    _try_chat,
    _try_completion,
    _try_embedding,
    _try_rerank,
    _try_response,
)
