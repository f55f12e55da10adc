"""`examples.journal`: notes arrive without an answer."""

from __future__ import annotations

from collections.abc import Callable

from examples.journal import Note
from rsocket_mesh import Mesh
from tests.support.processes import Process


async def test_notes_that_nobody_waited_for_are_there_in_order(
    start: Callable[..., Process], mesh: Mesh
) -> None:
    start("journal")
    journal = mesh.service("journal")
    for text in ("one", "two", "x" * 1000):
        await journal.fire_and_forget("note", "test", text)
    assert await journal.request_response("latest", 2, returns=list[Note]) == [
        Note("test", "two"),
        Note("test", "x" * 500),
    ]
