"""A radix tree over token lists: which sequences begin like this prompt, and for how long."""

from __future__ import annotations


def common_length(left: list[int], right: list[int], start: int, end: int) -> int:
    """Return the first position in ``start`` .. ``end`` where two lists differ (``end`` if they don't).

    Compares slices, which runs at C speed, and halves the range around the difference.
    """
    if left[start:end] == right[start:end]:
        return end
    while end - start > 1:
        middle = (start + end) // 2
        if left[start:middle] == right[start:middle]:
            start = middle
        else:
            end = middle
    return start


class _Node:
    """An edge and the point where it ends: positions ``start`` .. ``end - 1`` of ``tokens``.

    ``tokens`` is the whole list of one of ``members`` (the sequences that pass through here), so that no token is
    stored twice and two edges are joined by moving a number.
    """

    __slots__ = ("children", "end", "members", "parent", "start", "tokens")

    def __init__(self, parent: _Node | None, tokens: list[int], start: int, end: int) -> None:
        self.parent = parent
        self.tokens = tokens
        self.start = start
        self.end = end
        self.children: dict[int, _Node] = {}
        self.members: set[int] = set()


class RadixTree:
    """Token lists by sequence id. A list may grow after it was put in: only its first ``length`` tokens count."""

    def __init__(self) -> None:
        self._root = _Node(None, [], 0, 0)
        self._ends: dict[int, _Node] = {}
        self._lists: dict[int, list[int]] = {}

    def __len__(self) -> int:
        return len(self._ends)

    def lengths(self) -> dict[int, int]:
        """Return for how many of its tokens each sequence is found."""
        return {seq: node.end for seq, node in self._ends.items()}

    def put(self, seq: int, tokens: list[int], length: int) -> None:
        """Let ``seq`` stand for the first ``length`` (> 0) tokens, in place of what it stood for."""
        self.discard(seq)
        node = self._root
        while node.end < length:
            child = node.children.get(tokens[node.end])
            if child is None:
                child = _Node(node, tokens, node.end, length)
                node.children[tokens[node.end]] = child
            else:
                same = common_length(child.tokens, tokens, node.end, min(child.end, length))
                if same < child.end:
                    child = self._split(child, same)
            child.members.add(seq)
            node = child
        self._ends[seq] = node
        self._lists[seq] = tokens

    def discard(self, seq: int) -> None:
        """Forget ``seq``; nothing happens if it is not there."""
        node = self._ends.pop(seq, None)
        if node is None:
            return
        gone = self._lists.pop(seq)
        while (parent := node.parent) is not None:
            node.members.remove(seq)
            if not node.members:
                del parent.children[node.tokens[node.start]]
            else:
                if node.tokens is gone:  # keep no list alive that its sequence has left
                    node.tokens = self._lists[next(iter(node.members))]
                self._join(node)
            node = parent

    def match(self, tokens: list[int], limit: int) -> list[tuple[int, int]]:
        """Return (common length, seq) of all sequences that share at least one of the first ``limit`` tokens.

        Longest first, then lowest sequence id.
        """
        path: list[tuple[int, set[int]]] = []
        node = self._root
        while node.end < limit and (child := node.children.get(tokens[node.end])) is not None:
            same = common_length(child.tokens, tokens, node.end, min(child.end, limit))
            path.append((same, child.members))
            if same < child.end:
                break
            node = child
        found: list[tuple[int, int]] = []
        deeper: set[int] = set()
        for same, members in reversed(path):
            found.extend((same, seq) for seq in sorted(members - deeper))
            deeper = members
        return found

    def _split(self, node: _Node, at: int) -> _Node:
        """Put a new node above ``node`` that ends at ``at``, and return it."""
        parent = node.parent
        assert parent is not None, "the root has no edge to split"
        upper = _Node(parent, node.tokens, node.start, at)
        upper.members = set(node.members)
        parent.children[node.tokens[node.start]] = upper
        upper.children[node.tokens[at]] = node
        node.parent, node.start = upper, at
        return upper

    def _join(self, node: _Node) -> None:
        """Take out a node that has one child and where nobody ends."""
        if len(node.children) != 1:
            return
        (child,) = node.children.values()
        if len(child.members) < len(node.members):
            return
        parent = node.parent
        assert parent is not None, "only nodes below the root are joined"
        parent.children[node.tokens[node.start]] = child
        child.parent, child.start = parent, node.start

    def check(self) -> None:
        """Assert that each sequence's way from the root spells its tokens and that no node is needless."""
        members: dict[int, list[_Node]] = {}
        todo = [self._root]
        while todo:
            node = todo.pop()
            for first, child in node.children.items():
                assert child.parent is node
                assert child.start == node.end < child.end
                assert child.tokens[child.start] == first
                assert child.members
                assert len(child.children) != 1 or next(iter(child.children.values())).members != child.members
                assert any(self._lists[seq] is child.tokens for seq in child.members), "an edge keeps a dead list"
                for seq in child.members:
                    members.setdefault(seq, []).append(child)
                todo.append(child)
        assert members.keys() == self._ends.keys()
        for seq, way in members.items():
            assert way[-1] is self._ends[seq]
            for node in way:
                assert node.tokens[node.start : node.end] == self._lists[seq][node.start : node.end]
