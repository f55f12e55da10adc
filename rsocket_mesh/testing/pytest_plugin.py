"""The pytest plugin: fixtures of the kit, and the trace of the mesh in the report of a failure.

Loaded by its entry point in every test run of an environment that has this package, so it imports
nothing that only a test with these fixtures needs. The fixtures themselves are made when pytest
starts, since how depends on who runs coroutines here: pytest-asyncio wants its own kind in its
strict mode; others, such as anyio's plugin, take plain ones.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from rsocket_mesh.rpc.mesh import Mesh
    from rsocket_mesh.testing.clock import ManualClock
    from rsocket_mesh.testing.mesh_broker import MeshBroker

LINES_SHOWN: Final = 200  # of the trace, its last ones, where a test has failed

_traced: Final = pytest.StashKey["MeshBroker"]()


def pytest_configure(config: pytest.Config) -> None:
    """Make the fixtures known."""
    fixture: Callable[[Any], Any] = pytest.fixture
    if config.pluginmanager.hasplugin("asyncio"):
        import pytest_asyncio  # which is loaded by now

        fixture = pytest_asyncio.fixture
    config.pluginmanager.register(_fixtures(fixture), "rsocket-mesh-fixtures")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what happened on the mesh of a test that has failed."""
    if call.when == "call" and call.excinfo is not None:
        traced = item.stash.get(_traced, None)
        if traced is not None:
            title = f"mesh trace, seed {traced.seed}"
            item.add_report_section("call", title, "\n".join(traced.trace[-LINES_SHOWN:]))
    return (yield)


def _fixtures(asynchronous: Callable[[Any], Any]) -> object:
    """Return a plugin with the fixtures; *asynchronous* decorates those that are coroutines."""

    class Fixtures:
        @pytest.fixture
        def mesh_seed(self) -> int:
            """The seed of `mesh_broker`; parametrize or override it to have another one."""
            return 0

        @pytest.fixture
        def mesh_config(self) -> None:
            """The config of `mesh_broker`, a `broker.config.Config`; None means the defaults."""

        @asynchronous
        async def mesh_broker(
            self, request: pytest.FixtureRequest, mesh_seed: int, mesh_config: Any
        ) -> AsyncIterator[MeshBroker]:
            """A broker in memory with a manual clock; see `rsocket_mesh.testing.MeshBroker`."""
            from rsocket_mesh.testing import broker  # here, so that only those who use it pay

            async with broker(seed=mesh_seed, config=mesh_config) as started:
                request.node.stash[_traced] = started
                yield started

        @pytest.fixture
        def mesh_clock(self, mesh_broker: MeshBroker) -> ManualClock:
            """The clock of `mesh_broker`: `await mesh_clock.advance(seconds)`."""
            return mesh_broker.clock

        @asynchronous
        async def mesh(self, mesh_broker: MeshBroker) -> AsyncIterator[Mesh]:
            """A connection to `mesh_broker` to call services with, as app `test`."""
            async with mesh_broker.connect() as connected:
                yield connected

    return Fixtures()
