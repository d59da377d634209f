"""Every message comes back as it went; nothing else is accepted."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.contract.backend import LoadRequest
from localllm.contract.errors import InvalidRequestError, LocalLLMError, ProtocolError
from localllm.contract.generation import (
    ChatPrompt,
    ChoiceFinished,
    Chunk,
    Failed,
    Finished,
    GenerateRequest,
    SamplingParams,
    Started,
    TextPrompt,
    Timings,
    TokenAlternative,
    TokenLogprob,
    TokenPrompt,
    Usage,
)
from localllm.contract.model import Mode, ModelInfo
from localllm.contract.wire import Batch, Cancel, Hello, LoadFailed, Ready, Shutdown, Submit
from localllm.transport.codec import decode_from_worker, decode_to_worker, encode_from_worker, encode_to_worker

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)  # a lone surrogate is no text
INTS = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(allow_nan=False)
JSON = st.recursive(
    st.none() | st.booleans() | INTS | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(TEXT, JSON, max_size=3)


def tuples(inner: st.SearchStrategy[Any], max_size: int = 4) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(inner, max_size=max_size).map(tuple)


SAMPLING = st.builds(
    SamplingParams,
    temperature=st.none() | FLOATS,
    top_k=st.none() | INTS,
    top_p=st.none() | FLOATS,
    min_p=st.none() | FLOATS,
    repeat_penalty=FLOATS,
    repeat_last_n=INTS,
    frequency_penalty=FLOATS,
    presence_penalty=FLOATS,
    logit_bias=tuples(st.tuples(INTS, FLOATS)),
    seed=st.none() | INTS,
    n=INTS,
    max_tokens=st.none() | INTS,
    min_tokens=INTS,
    stop=tuples(TEXT),
    include_stop=st.booleans(),
    ignore_eos=st.booleans(),
    logprobs=st.none() | INTS,
)
PROMPTS = (
    st.builds(ChatPrompt, messages=tuples(OBJECTS), template_kwargs=OBJECTS)
    | st.builds(TextPrompt, TEXT)
    | st.builds(TokenPrompt, tuples(INTS))
)
REQUESTS = st.builds(GenerateRequest, PROMPTS, SAMPLING, TEXT, st.booleans())
LOADS = st.builds(LoadRequest, TEXT, st.none() | TEXT, st.sampled_from(Mode), OBJECTS, st.booleans())
TO_WORKER = (
    st.builds(Hello, TEXT, LOADS) | st.builds(Submit, TEXT, REQUESTS) | st.builds(Cancel, TEXT) | st.just(Shutdown())
)

LOGPROBS = st.builds(
    TokenLogprob, TEXT, st.binary(max_size=6), FLOATS, tuples(st.builds(TokenAlternative, TEXT, st.binary(), FLOATS))
)
ERRORS = st.builds(lambda text, param: InvalidRequestError(text, param=param).to_wire(), TEXT, st.none() | TEXT)
EVENTS = (
    st.builds(Started, INTS)
    | st.builds(Chunk, INTS, TEXT, INTS)
    | st.builds(Chunk, INTS, TEXT, INTS, tuples(LOGPROBS))
    | st.builds(ChoiceFinished, INTS, st.sampled_from(["stop", "length"]), st.none() | TEXT)
    | st.builds(Finished, st.builds(Usage, INTS, INTS, INTS), st.builds(Timings, FLOATS, FLOATS, FLOATS))
    | st.builds(Failed, ERRORS)
)
INFOS = st.builds(
    ModelInfo, INTS, INTS, description=TEXT, has_chat_template=st.booleans(), notes=tuples(TEXT), meta=OBJECTS
)
FROM_WORKER = (
    st.builds(Ready, INFOS)
    | st.builds(LoadFailed, ERRORS)
    | st.builds(Batch, tuples(st.tuples(TEXT, EVENTS), max_size=6), INTS)
)


@given(TO_WORKER)
def test_messages_to_the_worker_come_back_equal(message: Any) -> None:
    assert decode_to_worker(encode_to_worker(message)) == message


@given(FROM_WORKER)
def test_messages_from_the_worker_come_back_equal(message: Any) -> None:
    assert decode_from_worker(encode_from_worker(message)) == message


def test_infinite_and_missing_log_probabilities_survive() -> None:
    rows = tuple(TokenLogprob("a", b"a", value) for value in (-math.inf, math.inf, math.nan))
    batch = Batch((("r1", Chunk(0, "a", 3, rows)),))
    (_, chunk), *_ = decode_from_worker(encode_from_worker(batch)).events
    assert [str(item.logprob) for item in chunk.logprobs] == ["-inf", "inf", "nan"]


def test_an_error_keeps_its_type_across_the_process_boundary() -> None:
    failed = Failed(InvalidRequestError("top_k is wrong", param="top_k").to_wire())
    (_, event), *_ = decode_from_worker(encode_from_worker(Batch((("r1", failed),)))).events
    error = LocalLLMError.from_wire(event.error)
    assert (type(error), error.message, error.param) == (InvalidRequestError, "top_k is wrong", "top_k")


def _changed(message: Any, *path: Any, value: Any) -> bytes:
    """Return the message's payload with one inner value replaced."""
    data = orjson.loads(
        encode_to_worker(message) if isinstance(message, Submit | Hello) else encode_from_worker(message)
    )
    target = data
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = value
    return orjson.dumps(data)


SUBMIT = Submit("r1", GenerateRequest(TextPrompt("hi"), SamplingParams(stop=("x",), logit_bias=((1, 2.0),))))
SAMPLING_PATH = (1, "request", "sampling")


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"not json",
        b"\xff\xfe",
        b"NaN",
        b"[]",
        b"{}",
        b'["Submit"]',
        b'["Nothing",{}]',
        b'[["Submit"],{}]',
        b'["Cancel",{}]',
        b'["Cancel",{"request_id":1}]',
        b'["Cancel",{"request_id":"r1","more":1}]',
        b'["Cancel",["r1"]]',
        b'["Ready",{}]',
        _changed(SUBMIT, *SAMPLING_PATH, "n", value=True),
        _changed(SUBMIT, *SAMPLING_PATH, "n", value=1.0),
        _changed(SUBMIT, *SAMPLING_PATH, "n", value=None),
        _changed(SUBMIT, *SAMPLING_PATH, "temperature", value="warm"),
        _changed(SUBMIT, *SAMPLING_PATH, "stop", value="x"),
        _changed(SUBMIT, *SAMPLING_PATH, "logit_bias", value=[[1]]),
        _changed(SUBMIT, *SAMPLING_PATH, "include_stop", value=0),
        _changed(SUBMIT, 1, "request", "prompt", value=["SamplingParams", {}]),
        _changed(SUBMIT, 1, "request", "prompt", value={"text": "hi"}),
        _changed(Hello("a:b", LoadRequest("m", None, Mode.POOL)), 1, "load", "mode", value="dance"),
        _changed(Hello("a:b", LoadRequest("m", None, Mode.POOL)), 1, "load", "settings", value=[]),
    ],
)
def test_what_is_no_message_to_a_worker_is_refused(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_to_worker(payload)


BATCH = Batch(
    (
        ("r1", Chunk(0, "a", 1)),
        ("r1", Chunk(0, "a", 1, (TokenLogprob("a", b"a", -1.0, (TokenAlternative("b", b"b", -2.0),)),))),
        ("r1", Started(1)),
        ("r1", ChoiceFinished(0, "stop")),
        ("r1", Finished(Usage(1, 1), Timings(1, 1, 1))),
        ("r1", Failed(InvalidRequestError("no").to_wire())),
    ),
    7,
)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ((1,), None),
        ((1,), [0]),
        ((1, 0), "7"),
        ((1, 1), {}),
        ((1, 1, 0), []),
        ((1, 1, 0), {"0": 0}),
        ((1, 1, 0, 0), 99),
        ((1, 1, 0, 0), True),
        ((1, 1, 0, 1), 1),
        ((1, 1, 0, 2), "0"),
        ((1, 1, 0, 3), None),
        ((1, 1, 0, 4), 1.5),
        ((1, 1, 1, 5), "x"),
        ((1, 1, 1, 5, 0, 1), "not base64!"),
        ((1, 1, 1, 5, 0, 1), 5),
        ((1, 1, 1, 5, 0, 2), "low"),
        ((1, 1, 1, 5, 0, 3, 0), ["b", "Yg=="]),
        ((1, 1, 2, 2), False),
        ((1, 1, 3, 3), "tired"),
        ((1, 1, 3, 4), 5),
        ((1, 1, 4, 2), [1, 2]),
        ((1, 1, 4, 3), [1, 2, "3"]),
        ((1, 1, 5, 2), {"message": "no code"}),
        ((1, 1, 5, 2), "no"),
        ((0,), "Cancel"),
    ],
)
def test_what_is_no_batch_is_refused(path: tuple[Any, ...], value: Any) -> None:
    assert decode_from_worker(encode_from_worker(BATCH)) == BATCH
    with pytest.raises(ProtocolError):
        decode_from_worker(_changed(BATCH, *path, value=value))


@given(st.binary(max_size=60))
def test_no_bytes_raise_anything_but_a_protocol_error(payload: bytes) -> None:
    for decode in (decode_to_worker, decode_from_worker):
        try:
            decode(payload)
        except ProtocolError:
            continue


@given(JSON)
def test_no_json_raises_anything_but_a_protocol_error(value: Any) -> None:
    names = ["Submit", "Hello", "Cancel", "Batch", "Ready", "LoadFailed"]
    for payload in [orjson.dumps(value), *(orjson.dumps([name, value]) for name in names)]:
        for decode in (decode_to_worker, decode_from_worker):
            try:
                decode(payload)
            except ProtocolError:
                continue


def test_a_lone_surrogate_can_not_be_sent_and_says_so() -> None:
    request = replace(SUBMIT.request, prompt=TextPrompt("\ud800"))
    with pytest.raises(ProtocolError, match="can't be written as JSON"):
        encode_to_worker(Submit("r1", request))


def test_a_protocol_error_never_shows_the_value_it_met() -> None:
    with pytest.raises(ProtocolError) as caught:
        decode_to_worker(_changed(SUBMIT, 1, "request", "prompt", value=["TextPrompt", {"text": ["my secret"]}]))
    assert "secret" not in caught.value.message


def test_a_chunk_costs_few_bytes_on_the_wire() -> None:
    payload = encode_from_worker(Batch(tuple((f"r{index}", Chunk(0, " word", 1)) for index in range(32))))
    assert len(payload) < 32 * 30
