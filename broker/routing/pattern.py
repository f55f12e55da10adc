"""Announced route patterns, and which of them a route belongs to.

A pattern is a route as peers outside the `service.method` custom write it: `a/b`, `echo`,
`items.{id}`. Segments end at `.` and `/`; `{name}` stands for exactly one segment that is not
empty. Patterns sit in a tree by segment, so a route costs its own length however many patterns
were announced; only those that differ in wildcards alone are compared.
"""

from __future__ import annotations

import re
from typing import Final, Generic, TypeVar

T = TypeVar("T")

_TOKENS: Final = re.compile(r"[^./]+|[./]")  # separators are tokens too: `a.b` is not `a/b`
_WILDCARD: Final = re.compile(r"\{[^{}./]+\}")
_ANY: Final = "{}"


def canonical(pattern: str) -> str:
    """Return *pattern* without the names of its wildcards: those only tell people something.

    So `items.{id}` and `items.{name}` are one pattern, `items.{}`.
    """
    return _WILDCARD.sub(_ANY, pattern)


def has_wildcard(pattern: str) -> bool:
    """Return whether a canonical *pattern* matches more than itself."""
    return _ANY in pattern


class _Node(Generic[T]):
    """One place in the tree; `value` None means that no pattern ends here."""

    __slots__ = ("branches", "literals", "value")

    def __init__(self, literals: int) -> None:
        self.branches: dict[str, _Node[T]] = {}
        self.literals = literals  # tokens on the way here that are no wildcard
        self.value: T | None = None


class PatternTree(Generic[T]):
    """A mapping from canonical patterns to values that is looked up by routes."""

    def __init__(self) -> None:
        self._root: _Node[T] = _Node(0)

    def set(self, pattern: str, value: T) -> None:
        """Store *value* under *pattern*, in place of what was there."""
        node = self._root
        for token in _TOKENS.findall(pattern):
            child = node.branches.get(token)
            if child is None:
                child = node.branches[token] = _Node(node.literals + (token != _ANY))
            node = child
        node.value = value

    def remove(self, pattern: str) -> None:
        """Forget *pattern*, if it is there, and the branches that only it needed."""
        way: list[tuple[_Node[T], str]] = []
        node = self._root
        for token in _TOKENS.findall(pattern):
            if token not in node.branches:
                return
            way.append((node, token))
            node = node.branches[token]
        node.value = None
        for parent, token in reversed(way):
            child = parent.branches[token]
            if child.value is not None or child.branches:
                return
            del parent.branches[token]

    def match(self, route: str) -> T | None:
        """Return the value of the most literal pattern that *route* belongs to, or None.

        Of patterns with equally many literal segments the one wins that is literal further left.
        """
        nodes = [self._root]
        for token in _TOKENS.findall(route):
            # Literal branches first keeps the list ordered by "literal further left".
            following = []
            for node in nodes:
                if (child := node.branches.get(token)) is not None:
                    following.append(child)
                if token not in "./" and (child := node.branches.get(_ANY)) is not None:
                    following.append(child)
            nodes = following
        ends = [node for node in nodes if node.value is not None]
        return max(ends, key=lambda node: node.literals).value if ends else None
