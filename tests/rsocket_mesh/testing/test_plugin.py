"""The fixtures, as somebody else's tests use them: runs of pytest inside this one."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

ORDERS = """
    import asyncio
    import pytest
    from rsocket_mesh import Service

    orders = Service("orders")

    @orders.request_response
    async def total(quantity: int) -> int:
        return 6 * quantity
"""
STRICT = "-p pytest_asyncio --asyncio-mode=strict -o asyncio_default_fixture_loop_scope=function"
AUTO = STRICT.replace("strict", "auto")
ALONE = "-p no:asyncio -p no:anyio"


def run(pytester: pytest.Pytester, options: str, body: str) -> pytest.RunResult:
    pytester.makepyfile(ORDERS + body)
    return pytester.runpytest_subprocess(*options.split(), "-W", "error", "-p", "no:cacheprovider")


@pytest.mark.parametrize("options", [STRICT.split(" ", 2)[2], AUTO.split(" ", 2)[2]])
def test_fixtures_work_in_both_modes_of_pytest_asyncio(pytester: pytest.Pytester, options: str):
    result = run(
        pytester,
        options,
        """
    @pytest.mark.asyncio
    async def test_total(mesh_broker, mesh, mesh_clock):
        await mesh_broker.serve(orders)
        assert await mesh.service("orders").request_response("total", 7, returns=int) == 42
        assert mesh_broker.calls[0].route == "orders.total"
        await mesh_clock.advance(3600)
        assert mesh_clock.now == 3600

    @pytest.mark.asyncio
    async def test_again(mesh_broker):
        assert mesh_broker.url == "memory://mesh"
        assert mesh_broker.calls == []
    """,
    )
    result.assert_outcomes(passed=2)
