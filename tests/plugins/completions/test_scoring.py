"""Scoring by log-likelihood as harnesses do it: ``echo`` with ``logprobs`` for many prompts in one request."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import localllm_completions
from localllm.contract.generation import (
    ChoiceFinished,
    Chunk,
    Finished,
    GenerateRequest,
    InfillPrompt,
    PromptLogprobs,
    PromptToken,
    Started,
    TextPrompt,
    Timings,
    TokenAlternative,
    TokenLogprob,
    TokenPrompt,
    Usage,
)
from localllm.testing.byte_text import ByteTokenizer

PATH = "/v1/completions"
TOKENIZER = ByteTokenizer()
GREEDY = ord("e")  # the model's favourite in every place


def logprob_of(token: int, before: int) -> float:
    return -0.5 if token == GREEDY else -1.0 - (token * 7 + before) % 13 / 8


def tokens_of(request: GenerateRequest) -> tuple[int, ...]:
    match request.prompt:
        case TokenPrompt(tokens):
            return tokens
        case TextPrompt(text):
            return tuple(TOKENIZER.encode(text, add_special=False, parse_special=False))
    raise AssertionError(request.prompt)


def as_text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def scored(request: GenerateRequest) -> Iterator[PromptLogprobs]:
    """The prompt's tokens in batches of three, as an engine brings them that prefills in pieces."""
    tokens = tokens_of(request)
    top = (TokenAlternative("e", b"e", -0.5, GREEDY),) if request.prompt_logprobs else ()
    rows = [
        PromptToken(
            token,
            as_text(TOKENIZER.piece(token)),
            TOKENIZER.piece(token),
            None if index == 0 else logprob_of(token, tokens[index - 1]),
            top if index else (),
        )
        for index, token in enumerate(tokens)
    ]
    for start in range(0, len(rows), 3):
        yield PromptLogprobs(tuple(rows[start : start + 3]))


def engine(request: GenerateRequest) -> Iterator[Any]:
    """A model over bytes that ends a prompt which ends in "." and says "e" after any other."""
    tokens = tokens_of(request)
    yield Started(len(tokens))
    if request.prompt_logprobs is not None:
        yield from scored(request)
    n, limit = request.sampling.n, request.sampling.max_tokens
    is_done = tokens[-1] == ord(".")
    n_drawn = 0 if limit == 0 or is_done else 1
    entry = () if request.sampling.logprobs is None else (TokenLogprob("e", b"e", -0.5),)
    for choice in range(n):
        if n_drawn:
            yield Chunk(choice, "e", 1, entry)
        yield ChoiceFinished(choice, "stop" if is_done and limit else "length")
    yield Finished(Usage(len(tokens), n * n_drawn), Timings(0.0, 1.0, 1.0))


def harness_score(choice: dict[str, Any], n_context: int) -> tuple[float, bool]:
    """What lm-evaluation-harness makes of a choice (its ``LocalCompletionsAPI``): the last entry is left out."""
    scores = choice["logprobs"]["token_logprobs"][n_context:-1]
    tops = choice["logprobs"]["top_logprobs"][n_context:-1]
    return sum(scores), all(score == max(top.values()) for score, top in zip(scores, tops, strict=True))


def score_directly(tokens: list[int], n_context: int) -> tuple[float, bool]:
    pairs = list(zip(tokens[n_context:], tokens[n_context - 1 :], strict=False))
    return sum(logprob_of(token, before) for token, before in pairs), all(token == GREEDY for token, _ in pairs)


TASKS = [("Die Antwort ist ", "ja."), ("2 + 2 = ", "vier"), ("Tee", "eee"), ("漢字 ", "é€😀."), ("x", "y")]


@pytest.mark.parametrize("as_tokens", [True, False])
def test_harness_gets_the_models_own_scores(make_server: Any, as_tokens: bool) -> None:
    contexts = [list(context.encode()) for context, _ in TASKS]
    wholes = [list((context + answer).encode()) for context, answer in TASKS]
    prompt: list[Any] = list(wholes) if as_tokens else [context + answer for context, answer in TASKS]
    body = {"prompt": prompt, "max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": True, "seed": 1234}
    answer = make_server(localllm_completions, engine).post(PATH, body).json
    seen = [harness_score(choice, len(context)) for choice, context in zip(answer["choices"], contexts, strict=True)]
    expected = [score_directly(whole, len(context)) for whole, context in zip(wholes, contexts, strict=True)]
    assert seen == expected
    assert [is_greedy for _, is_greedy in seen] == [False, False, True, False, False]
    assert [
        choice["text"].startswith(context + text)
        for choice, (context, text) in zip(answer["choices"], TASKS, strict=True)
    ]


@pytest.mark.parametrize("as_tokens", [True, False])
def test_stream_says_the_same(make_server: Any, as_tokens: bool) -> None:
    texts = [context + answer for context, answer in TASKS]
    prompt = [list(text.encode()) for text in texts] if as_tokens else texts
    body = {"prompt": prompt, "n": 2, "max_tokens": 1, "logprobs": 1, "echo": True}
    server = make_server(localllm_completions, engine)
    whole = server.post(PATH, body).json["choices"]
    answer = server.post(PATH, {**body, "stream": True})
    assert answer.done
    for choice in whole:
        pieces = [piece for event in answer.events for piece in event["choices"] if piece["index"] == choice["index"]]
        assert "".join(piece["text"] for piece in pieces) == choice["text"]
        for name, values in choice["logprobs"].items():
            assert [one for piece in pieces if piece["logprobs"] for one in piece["logprobs"][name]] == values


def test_prompt_alone_is_scored_without_a_drawn_token(make_server: Any) -> None:
    server = make_server(localllm_completions, engine)
    answer = server.post(PATH, {"prompt": "Hé.", "max_tokens": 0, "logprobs": 0, "echo": True}).json
    (choice,) = answer["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("Hé.", "length")
    assert choice["logprobs"]["text_offset"] == [0, 1, 1, 2]
    assert choice["logprobs"]["tokens"] == ["H", "bytes:\\xc3", "bytes:\\xa9", "."]
    assert answer["usage"]["completion_tokens"] == 0
    refused = server.post(PATH, {"prompt": "Hé.", "max_tokens": 0})
    assert (refused.status, refused.json["error"]["param"]) == (400, "max_tokens")


def test_vllms_prompt_logprobs(make_server: Any) -> None:
    server = make_server(localllm_completions, engine)
    body = {"prompt": ["ab", "ce"], "prompt_logprobs": 1, "max_tokens": 1}
    first, second = server.post(PATH, body).json["choices"]
    best = {"logprob": -0.5, "rank": 1, "decoded_token": "e"}
    assert first["prompt_logprobs"] == [
        None,
        {"98": {"logprob": logprob_of(98, 97), "rank": None, "decoded_token": "b"}, "101": best},
    ]
    assert second["prompt_logprobs"] == [None, {"101": best}]
    refused = server.post(PATH, {**body, "stream": True})
    assert (refused.status, refused.json["error"]["param"]) == (400, "prompt_logprobs")


def test_long_scores_arrive_whole(make_server: Any) -> None:
    """An answer beyond the size that is sent in one piece."""
    text = "Hé " * 2000
    server = make_server(localllm_completions, engine)
    answer = server.post(PATH, {"prompt": [text, text], "max_tokens": 0, "logprobs": 1, "echo": True})
    assert len(answer.body) > 256 * 1024
    assert [choice["text"] for choice in answer.json["choices"]] == [text, text]
    assert all(len(choice["logprobs"]["tokens"]) == len(text.encode()) for choice in answer.json["choices"])


def test_best_answers_are_returned_and_all_are_counted(make_server: Any) -> None:
    def script(request: GenerateRequest) -> list[Any]:
        quality = (-3.0, -1.0, -2.0)
        texts = [f"{getattr(request.prompt, 'text', '')}{k}" for k in range(3)]
        chunks = [Chunk(k, texts[k], 1, (TokenLogprob("x", b"x", quality[k]),)) for k in range(3)]
        ends = [ChoiceFinished(k, "stop") for k in range(3)]
        return [Started(1), *chunks, *ends, Finished(Usage(1, 3), Timings(0.0, 1.0, 1.0))]

    server = make_server(localllm_completions, script)
    answer = server.post(PATH, {"prompt": ["a", "b"], "best_of": 3, "n": 2}).json
    seen = [(choice["index"], choice["text"], choice["logprobs"]) for choice in answer["choices"]]
    assert seen == [(0, "a1", None), (1, "a2", None), (2, "b1", None), (3, "b2", None)]
    assert answer["usage"]["completion_tokens"] == 6
    assert [request.sampling.n for request in server.client.requests] == [3, 3]
    with_logprobs = server.post(PATH, {"prompt": "a", "best_of": 3, "logprobs": 0}).json["choices"]
    assert [choice["logprobs"]["token_logprobs"] for choice in with_logprobs] == [[-1.0]]
    streamed = server.post(PATH, {"prompt": "a", "best_of": 3, "stream": True})
    assert (streamed.status, streamed.json["error"]["param"]) == (400, "best_of")


def test_suffix_reaches_the_model_as_a_gap_to_fill(make_server: Any) -> None:
    server = make_server(localllm_completions)
    (choice,) = server.post(PATH, {"prompt": "def f(", "suffix": "return x"}).json["choices"]
    assert choice["text"] == "Hello world"
    assert server.client.requests[0].prompt == InfillPrompt("def f(", "return x")
