"""What is called: `total(Order) -> int`, and `echo(Invoice) -> Invoice` with about 128 bytes.

Every contender sends the same values, in the encoding that its users would take.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

Call = Callable[[], Awaitable[object]]


@dataclass
class Order:
    """The argument of the typed call in the README."""

    item: int
    quantity: int


@dataclass
class Invoice:
    """An argument and result of about 128 bytes."""

    id: int
    customer: str
    note: str
    lines: list[int]


METHODS: Final = ("total", "echo")
ORDER: Final = Order(6, 7)
INVOICE: Final = Invoice(1, "a customer's name", "x" * 64, [1, 2, 3, 4, 5, 6, 7, 8])
ANSWERS: Final[dict[str, object]] = {"total": 42, "echo": INVOICE}


def listening(port: int) -> None:
    """Tell the runner that the service can be called on *port*."""
    print(f"listening 127.0.0.1:{port}", flush=True)
    print("ready", flush=True)


async def for_ever() -> None:
    """Serve until this process is told to end."""
    await asyncio.Event().wait()
