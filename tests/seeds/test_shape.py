"""The comparison itself: it sees what is missing, of another kind, or more than is printed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.seeds.shape import ANY, differences


@pytest.mark.parametrize(
    ("printed", "answered", "found"),
    [
        ({"a": 1}, {"a": 2.5}, []),
        ({"a": 1}, {"a": True}, ["a: number is printed, and boolean answered"]),
        ({"a": "x"}, {"a": None}, ["a: string is printed, and null answered"]),
        ({"a": {"b": 1}}, {"a": {}}, ["a.b is missing"]),
        ({"a": {}}, {"a": {"b": 1}, "c": 1}, ["+a.b", "+c"]),
        ([{"a": 1}], [{"a": 1}, {"a": "x"}], ["[].a: number is printed, and string answered"]),
        ([1], [], [": is empty"]),
        ([], [], []),
        ({"a": ANY}, {"a": [1]}, []),
        ([], {}, ["/: array is printed, and object answered"]),
    ],
)
def test_differences(printed: Any, answered: Any, found: list[str]) -> None:
    assert list(differences(printed, answered)) == found
