"""The radix tree answers as a list of all token lists would."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.engine.radix import RadixTree, common_length

MAX_EXAMPLES = 3000 if os.environ.get("LOCALLLM_TEST_FULL") == "1" else 200

tokens = st.lists(st.integers(0, 2), min_size=1, max_size=9)
operations = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 5), tokens, st.integers(0, 3)),
        st.tuples(st.just("discard"), st.integers(0, 5)),
        st.tuples(st.just("match"), tokens, st.integers(0, 9)),
    ),
    max_size=30,
)


def naive_match(lists: dict[int, list[int]], wanted: list[int], limit: int) -> list[tuple[int, int]]:
    found = []
    for seq, held in lists.items():
        same = 0
        while same < min(len(held), limit) and held[same] == wanted[same]:
            same += 1
        if same:
            found.append((same, seq))
    return sorted(found, key=lambda pair: (-pair[0], pair[1]))


@settings(max_examples=MAX_EXAMPLES, deadline=None)
@given(operations)
def test_the_tree_equals_a_list_of_lists(steps: list[tuple]) -> None:
    tree, model = RadixTree(), {}
    for name, *arguments in steps:
        if name == "put":
            seq, held, n_beyond = arguments
            length = max(1, len(held) - n_beyond)
            tree.put(seq, held, length)
            model[seq] = held[:length]
            held.append(7)  # a running sequence's list grows on
        elif name == "discard":
            tree.discard(arguments[0])
            model.pop(arguments[0], None)
        else:
            wanted, limit = arguments
            limit = min(limit, len(wanted))
            assert tree.match(wanted, limit) == naive_match(model, wanted, limit)
        tree.check()
        assert len(tree) == len(model)


@settings(deadline=None)
@given(tokens, tokens, st.integers(0, 3))
def test_common_length_finds_the_first_difference(left: list[int], right: list[int], start: int) -> None:
    end = min(len(left), len(right))
    start = min(start, end)
    expected = next((i for i in range(start, end) if left[i] != right[i]), end)
    assert common_length(left, right, start, end) == expected


def test_a_list_that_its_sequence_left_is_not_kept_alive() -> None:
    class Tokens(list):
        pass

    tree, left_behind = RadixTree(), Tokens([1, 2, 3])
    tree.put(0, left_behind, 3)
    tree.put(1, Tokens([1, 2, 4]), 3)
    tree.put(0, Tokens([1, 2, 5]), 3)
    labels = []
    todo = [tree._root]
    while todo:
        node = todo.pop()
        labels.append(node.tokens)
        todo += node.children.values()
    assert not any(label is left_behind for label in labels)


def test_an_empty_tree_matches_nothing() -> None:
    assert RadixTree().match([1, 2], 2) == []


@pytest.mark.parametrize("limit", [0, 1, 2])
def test_no_more_is_matched_than_the_limit(limit: int) -> None:
    tree = RadixTree()
    tree.put(3, [1, 2, 3], 3)
    assert tree.match([1, 2, 3], limit) == ([(limit, 3)] if limit else [])
