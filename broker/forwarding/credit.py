"""Credit of one direction of a relayed stream: asked, granted, delivered.

The consumer asks in items, memory counts in bytes, and "unlimited" is a legal wish. So the producer
is never granted more than a window ahead of what has been handed to the consumer's socket, and the
window is as many items as fit into its bytes, by the sizes seen. The sum granted never exceeds the
sum asked. Nothing here knows a clock, a link or a frame.

The inner loop counts `left` down per item and comes back only when it is used up, once per half a
window. What was delivered is not counted but follows from `due`, which saves an addition per item.
Source: RSocket Protocol 1.0, "Flow Control"; docs/concepts.md, "Flow control".
"""

from __future__ import annotations

from typing import Final

from broker.kernel import CreditCore
from rsocket_mesh.protocol.frames import MAX_REQUEST_N

UNLIMITED: Final = MAX_REQUEST_N  # an accumulated credit that reaches this never counts down
EXCESS_TOLERATED: Final = 1  # items over the credit; two libraries overrun by one out of habit

FIRST_ITEMS: Final = 32  # of a new stream at most: what worked for the last need not for this one
MAX_WINDOW: Final = 4096  # items, however small they are: they also cost time to hand over
ITEM_COST: Final = 64  # bytes charged per item at least


def items_in(room: int, item_bytes: int) -> int:
    """Return how many items of *item_bytes* fit into *room* bytes: at least one, and just one as
    long as the size is not known (0)."""
    if not item_bytes:
        return 1
    return min(MAX_WINDOW, max(1, room // max(item_bytes, ITEM_COST)))


def first_grant(asked: int, room: int, item_bytes: int) -> int:
    """Return how much of the *asked* items a request may carry to its provider."""
    return min(asked, FIRST_ITEMS, items_in(room, item_bytes))


class Credit(CreditCore):
    """One direction of one stream; all numbers are items since its start, unless they say bytes.

    Attributes:
        asked: by the consumer; from `UNLIMITED` on there is no limit.
        granted: to the producer.
        settled: what had been delivered at the last `settle`.
        left: items that may pass until the next one. The inner loop counts it down.
        bytes: of the items since the last one. The inner loop counts it up.
        item_bytes: what an item needs, by the sizes seen; 0 if none was seen yet.
        starved_since: when the producer had used up all it was granted, by the hub's clock; None
            while it has some.
        starved_by: whose doing that was, as the label of a metric.
    """

    __slots__ = (
        "_due",
        "asked",
        "granted",
        "item_bytes",
        "settled",
        "starved_by",
        "starved_since",
    )

    def __init__(self, asked: int, granted: int, item_bytes: int) -> None:
        """Begin with what a request asks for, and how much of it goes on to the producer."""
        self.asked = asked
        self.granted = granted
        self.item_bytes = item_bytes
        super().__init__()
        self.settled = 0
        self.starved_since: float | None = None
        self.starved_by = ""
        self._look_again(0, granted)

    @property
    def delivered(self) -> int:
        """Items handed over to the consumer."""
        return self._due - self.left

    @property
    def outstanding(self) -> int:
        """Items that the producer may still send; below 0 if it sent too many."""
        return self.granted - self.delivered

    @property
    def is_overrun(self) -> bool:
        """Whether the producer has sent more beyond its credit than habit explains."""
        return self.outstanding < -EXCESS_TOLERATED

    @property
    def wants_more(self) -> bool:
        """Whether the consumer asked for more than the producer was granted."""
        return self.asked > self.granted or self.asked >= UNLIMITED

    def ask(self, items: int) -> None:
        """The consumer asks for more; `settle` says what becomes of it."""
        self.asked = min(self.asked + items, UNLIMITED)

    def deliver(self, size: int) -> None:
        """Count one item of *size* bytes that the inner loop did not."""
        if self.left:
            self.left -= 1
        else:
            self._due += 1
        self.bytes += size

    def settle(self, room: int, may_grant: bool) -> int:
        """Learn from what has passed, and return how many items to grant now.

        Args:
            room: bytes that this stream may have under way.
            may_grant: False while the consumer does not read what it has, or may not be disturbed.
        """
        delivered = self.delivered
        if delivered > self.settled:
            seen = self.bytes // (delivered - self.settled)
            # Up at once, down slowly: too large a window costs memory, too small a one some time.
            self.item_bytes = max(seen, (3 * self.item_bytes + seen) // 4, 1)
            self.bytes = 0
            self.settled = delivered
        window = items_in(room, self.item_bytes)
        ceiling, half = delivered + window, window // 2
        if self.asked < UNLIMITED and self.asked <= ceiling:
            # The consumer is the narrower: it gets what it asks for at once, however little.
            ceiling, half = self.asked, window
        grant = 0
        if may_grant and ceiling > self.granted and self.outstanding <= half:
            grant = ceiling - self.granted
            self.granted = ceiling
        self._look_again(delivered, window)
        return grant

    def _look_again(self, delivered: int, window: int) -> None:
        """Set how many items may pass before anybody looks: those that leave half a window, or
        those that leave nothing if no more can be granted."""
        keep = window // 2 if self.wants_more else 0
        self.left = max(0, self.granted - delivered - 1 - keep)
        self._due = delivered + self.left
