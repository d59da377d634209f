"""Every message comes back as it went; nothing else is accepted."""

from __future__ import annotations

import math
from dataclasses import MISSING, fields, replace
from typing import Any, get_args

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.contract.adapters import AdapterScale
from localllm.contract.backend import LoadRequest
from localllm.contract.errors import InvalidRequestError, LocalLLMError, ProtocolError
from localllm.contract.generation import (
    CallDelta,
    ChatPrompt,
    ChoiceFinished,
    Chunk,
    Constraint,
    Failed,
    Finished,
    GenerateRequest,
    InfillPrompt,
    PromptLogprobs,
    PromptToken,
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
from localllm.contract.pooling import (
    PairPrompt,
    Pooled,
    PoolFinished,
    PoolingInfo,
    PoolRequest,
    PoolStarted,
)
from localllm.contract.texts import DetokenizeRequest, RenderRequest, TextResult, TokenizeRequest
from localllm.contract.wire import Batch, Cancel, Hello, LoadFailed, Ready, Shutdown, Submit, WorkerEvent
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
    stop_tokens=tuples(INTS),
    allowed_tokens=st.none() | tuples(INTS),
    bad_words=tuples(TEXT),
    text_bias=tuples(st.tuples(TEXT, FLOATS)),
    typical_p=FLOATS,
    dry_sequence_breakers=tuples(TEXT),
    mirostat=INTS,
    constraint=st.none()
    | st.builds(Constraint, st.sampled_from(["json_object", "json_schema", "lark"]), TEXT, st.booleans()),
)
PROMPTS = (
    st.builds(
        ChatPrompt,
        messages=tuples(OBJECTS),
        template_kwargs=OBJECTS,
        tools=tuples(OBJECTS),
        tool_choice=st.sampled_from(["none", "auto", "required"]),
        tool_name=st.none() | TEXT,
        parallel_tool_calls=st.booleans(),
        continue_final_message=st.booleans(),
        thought_budget=st.none() | INTS,
    )
    | st.builds(TextPrompt, TEXT)
    | st.builds(TokenPrompt, tuples(INTS))
    | st.builds(InfillPrompt, TEXT, TEXT)
)
ADAPTERS = st.builds(AdapterScale, FLOATS, st.none() | TEXT, st.none() | INTS)
REQUESTS = st.builds(
    GenerateRequest, PROMPTS, SAMPLING, TEXT, st.booleans(), st.none() | INTS, st.none() | tuples(ADAPTERS)
)
POOL_INPUTS = st.builds(TextPrompt, TEXT) | st.builds(TokenPrompt, tuples(INTS)) | st.builds(PairPrompt, TEXT, TEXT)
POOL_REQUESTS = st.builds(
    PoolRequest, tuples(POOL_INPUTS), st.booleans(), st.none() | INTS, st.none() | INTS, st.booleans(), TEXT
)
CHATS = st.builds(ChatPrompt, messages=tuples(OBJECTS), template_kwargs=OBJECTS)
TEXT_REQUESTS = (
    st.builds(TokenizeRequest, st.builds(TextPrompt, TEXT) | CHATS, st.booleans(), st.booleans(), st.booleans())
    | st.builds(DetokenizeRequest, tuples(INTS))
    | st.builds(RenderRequest, CHATS)
)
LOADS = st.builds(
    LoadRequest, TEXT, st.none() | TEXT, st.sampled_from(Mode), OBJECTS, st.booleans(), tuples(CHATS), st.none() | TEXT
)
TO_WORKER = (
    st.builds(Hello, TEXT, LOADS)
    | st.builds(Submit, TEXT, REQUESTS | POOL_REQUESTS | TEXT_REQUESTS)
    | st.builds(Cancel, TEXT)
    | st.just(Shutdown())
)

TOP = tuples(st.builds(TokenAlternative, TEXT, st.binary(), FLOATS, st.none() | INTS))
LOGPROBS = st.builds(TokenLogprob, TEXT, st.binary(max_size=6), FLOATS, TOP)
PROMPT_TOKENS = st.builds(PromptToken, INTS, TEXT, st.binary(max_size=6), st.none() | FLOATS, TOP)
POOLED = st.tuples(st.integers(1, 4), st.integers(1, 5)).flatmap(
    lambda size: st.builds(
        Pooled,
        st.lists(INTS, min_size=size[0], max_size=size[0]).map(tuple),
        st.binary(min_size=4 * size[0] * size[1], max_size=4 * size[0] * size[1]),
    )
)
ERRORS = st.builds(lambda text, param: InvalidRequestError(text, param=param).to_wire(), TEXT, st.none() | TEXT)
EVENTS = (
    st.builds(Started, INTS, tuples(TEXT))
    | st.builds(PromptLogprobs, tuples(PROMPT_TOKENS), INTS)
    | st.builds(Chunk, INTS, TEXT, INTS)
    | st.builds(Chunk, INTS, TEXT, INTS, tuples(LOGPROBS), st.sampled_from(["content", "reasoning"]))
    | st.builds(CallDelta, INTS, INTS, st.none() | TEXT, TEXT, INTS, tuples(LOGPROBS))
    | st.builds(ChoiceFinished, INTS, st.sampled_from(["stop", "length", "tool_calls"]), st.none() | TEXT)
    | st.builds(Finished, st.builds(Usage, INTS, INTS, INTS, INTS), st.builds(Timings, FLOATS, FLOATS, FLOATS))
    | st.builds(PoolStarted, INTS)
    | POOLED
    | st.builds(PoolFinished, INTS, tuples(INTS), FLOATS, FLOATS)
    | st.builds(TextResult, TEXT, tuples(INTS), tuples(st.binary(max_size=4)))
    | st.builds(Failed, ERRORS)
)
POOLING = st.builds(
    PoolingInfo, st.sampled_from(["mean", "cls", "last", "rank"]), INTS, st.sampled_from([None, "logit", "probability"])
)
INFOS = st.builds(
    ModelInfo,
    INTS,
    INTS,
    description=TEXT,
    has_chat_template=st.booleans(),
    notes=tuples(TEXT),
    meta=OBJECTS,
    pooling=st.none() | POOLING,
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


ALTERNATIVE = TokenAlternative("é", "é".encode(), -2.5, 7)
EVERY_FIELD = {
    Started: Started(3, ("a warning",)),
    PromptLogprobs: PromptLogprobs((PromptToken(5, "\ufffd", b"\xc3", -1.5, (ALTERNATIVE,)),), 2),
    Chunk: Chunk(1, "a", 2, (TokenLogprob("a", b"a", -1.0, (ALTERNATIVE,)),), "reasoning"),
    CallDelta: CallDelta(1, 2, "name", "{", 3, (TokenLogprob("{", b"{", -1.0, (ALTERNATIVE,)),)),
    ChoiceFinished: ChoiceFinished(1, "tool_calls", "stop"),
    Finished: Finished(Usage(1, 2, 3, 4), Timings(1.5, 2.5, 3.5)),
    PoolStarted: PoolStarted(1),
    Pooled: Pooled((1,), bytes(8)),
    PoolFinished: PoolFinished(1, (2,), 3.5, 4.5),
    TextResult: TextResult("text", (1, 2), (b"a", "é".encode())),
    Failed: Failed(InvalidRequestError("no").to_wire()),
}


@pytest.mark.parametrize("kind", get_args(WorkerEvent), ids=lambda kind: kind.__name__)
def test_no_field_of_an_event_is_lost(kind: Any) -> None:
    event = EVERY_FIELD[kind]
    for field in fields(event):
        if not field.metadata.get("sent", True):
            continue  # the server puts it in
        value = getattr(event, field.name)
        assert value or (field.default, field.default_factory) == (MISSING, MISSING), "leave no default in the example"
    assert decode_from_worker(encode_from_worker(Batch((("r1", event),)))).events == (("r1", event),)


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
SAMPLING_PATH = (1, "request", 1, "sampling")
POOL = Submit("r2", PoolRequest((TokenPrompt((1, 2)), PairPrompt("q", "d"))))


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
        _changed(SUBMIT, 1, "request", 1, "prompt", value=["SamplingParams", {}]),
        _changed(SUBMIT, 1, "request", 1, "prompt", value={"text": "hi"}),
        _changed(SUBMIT, 1, "request", 0, value="PoolRequest"),
        _changed(POOL, 1, "request", 1, "inputs", value="one text"),
        _changed(POOL, 1, "request", 1, "inputs", 0, value=["ChatPrompt", {"messages": []}]),
        _changed(POOL, 1, "request", 1, "inputs", 0, 1, "tokens", value=[1, True]),
        _changed(POOL, 1, "request", 1, "inputs", 0, 1, "tokens", value=[1, 2.0]),
        _changed(POOL, 1, "request", 1, "inputs", 0, 1, "tokens", value="12"),
        _changed(POOL, 1, "request", 1, "inputs", 1, 1, "document", value=None),
        _changed(POOL, 1, "request", 1, "dimensions", value="256"),
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
        ("r2", PoolStarted(1)),
        ("r2", Pooled((0, 1), bytes(16))),
        ("r2", PoolFinished(1, (1,), 1, 1)),
        ("r1", PromptLogprobs((PromptToken(5, "a", b"a", None), PromptToken(6, "b", b"b", -1.0, (ALTERNATIVE,))))),
        ("r1", CallDelta(0, 0, "f", "{")),
        ("r1", Chunk(0, "a", 1, region="reasoning")),
        ("r1", TextResult("t", (1, 2), (b"a", b"bc"))),
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
        ((1, 1, 6, 2), 1.5),
        ((1, 1, 7, 2), []),
        ((1, 1, 7, 2), [0, "1"]),
        ((1, 1, 7, 2), [0, 1, 2]),
        ((1, 1, 7, 3), ""),
        ((1, 1, 7, 3), "AAAA"),
        ((1, 1, 7, 3), "not base64!"),
        ((1, 1, 8, 3), [None]),
        ((1, 1, 8, 4), [1]),
        ((1, 1, 2, 3), [1]),
        ((1, 1, 2, 3), None),
        ((1, 1, 9, 2), None),
        ((1, 1, 9, 3), {}),
        ((1, 1, 9, 3, 0), [5, "a", "YQ==", None]),
        ((1, 1, 9, 3, 0, 0), None),
        ((1, 1, 9, 3, 0, 2), "not base64!"),
        ((1, 1, 9, 3, 0, 3), "low"),
        ((1, 1, 9, 3, 1, 4, 0, 3), "7"),
        ((1, 1, 10, 3), "0"),
        ((1, 1, 10, 4), 1),
        ((1, 1, 10, 5), None),
        ((1, 1, 10, 7), "x"),
        ((1, 1, 11, 6), "dream"),
        ((1, 1, 12, 2), None),
        ((1, 1, 12, 3), [1, "2"]),
        ((1, 1, 12, 4), [1, 1]),
        ((1, 1, 12, 4), [-1, 4]),
        ((1, 1, 12, 4), [1, True, 1]),
        ((1, 1, 12, 5), "not base64!"),
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
        decode_to_worker(_changed(SUBMIT, 1, "request", 1, "prompt", value=["TextPrompt", {"text": ["my secret"]}]))
    assert "secret" not in caught.value.message


def test_a_chunk_costs_few_bytes_on_the_wire() -> None:
    payload = encode_from_worker(Batch(tuple((f"r{index}", Chunk(0, " word", 1)) for index in range(32))))
    assert len(payload) < 32 * 30


def test_vectors_cost_little_more_than_their_bytes_on_the_wire() -> None:
    pooled = Pooled(tuple(range(64)), bytes(64 * 384 * 4))
    payload = encode_from_worker(Batch((("r1", pooled),)))
    assert len(payload) < 1.34 * len(pooled.data) + 300
