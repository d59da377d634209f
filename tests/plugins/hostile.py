"""Values of every kind for the fields of a request, and what the error that refuses one must look like."""

from __future__ import annotations

from typing import Any


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


VALUES: list[Any] = [
    *("", "x", "1", "x" * 100_000, "\x00", "\u202e"),
    *(True, False, 0, 1, -1, -2, 0.5, 1.5, 1e308, -1e308, 2**31, 2**63, -(2**63), 2**64 - 1),
    *([], {}, [[]], [{}], [None], [1, "x"], ["x", 1], {"x": 1}, {"1": "x"}, {"": None}),
    *(["x"] * 10_000, [1] * 10_000, [{}] * 10_000, {str(key): key for key in range(5_000)}),
]


def error_of(answer: Any) -> dict[str, Any]:
    """Return the error after checking that it is one of the caller's, in the one shape."""
    assert 400 <= answer.status < 500, (answer.status, answer.body[:300])
    assert answer.headers["content-type"] == "application/json"
    body = answer.json
    assert list(body) == ["error"]
    error = body["error"]
    assert isinstance(error["message"], str)
    assert error["message"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] is None or isinstance(error["param"], str)
    assert isinstance(error["code"], str)
    assert len(answer.body) < 20_000
    return error  # type: ignore[no-any-return]


def sentence_of(answer: Any) -> str:
    """Return the sentence of an error after checking that it is one of the caller's, in the form of a bare detail."""
    assert 400 <= answer.status < 500, (answer.status, answer.body[:300])
    assert answer.headers["content-type"] == "application/json"
    body = answer.json
    assert list(body) == ["detail"]
    assert isinstance(body["detail"], str)
    assert body["detail"]
    assert len(answer.body) < 20_000
    return body["detail"]  # type: ignore[no-any-return]
