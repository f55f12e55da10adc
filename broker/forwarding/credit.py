"""Credit of one direction of a relayed stream: asked, granted, delivered.

The consumer asks, the broker grants to the producer what its policy allows, items are delivered.
The policy here grants everything that was asked; the sum granted can never exceed it.
Source: RSocket Protocol 1.0, "Flow Control"; docs/concepts.md, "Flow control".
"""

from __future__ import annotations

from typing import Final

from rsocket_mesh.protocol.frames import MAX_REQUEST_N

UNLIMITED: Final = MAX_REQUEST_N  # an accumulated credit that reaches this never counts down


class Credit:
    """Items, all three counted from the start of the stream."""

    __slots__ = ("asked", "delivered", "granted")

    def __init__(self, initial: int = 0) -> None:
        self.asked = initial
        self.granted = initial
        self.delivered = 0

    def ask(self, items: int) -> int:
        """The consumer asks for more; return how many to grant to the producer now."""
        self.asked += items
        grant = self.asked - self.granted
        self.granted = self.asked
        return grant
