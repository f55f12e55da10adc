"""The pytest plugin, as somebody else's tests see it: runs of pytest inside this one."""

from __future__ import annotations

import re

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
SCOPE = "-o asyncio_default_fixture_loop_scope=function"
MODES = {mode: f"--asyncio-mode={mode} {SCOPE}" for mode in ("strict", "auto")}
# Names of modules that only a test which uses the kit may load.
HEAVY = ("broker", "rsocket_mesh.rpc", "rsocket_mesh.peer", "rsocket_mesh.transport", "msgspec")


def run(pytester: pytest.Pytester, options: str, body: str) -> pytest.RunResult:
    pytester.makepyfile(ORDERS + body)
    return pytester.runpytest_subprocess(*options.split(), "-W", "error", "-p", "no:cacheprovider")


@pytest.mark.parametrize("mode", MODES)
def test_the_fixtures_work_in_both_modes_of_pytest_asyncio(pytester: pytest.Pytester, mode: str):
    result = run(
        pytester,
        MODES[mode],
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


def test_seed_and_config_are_fixtures_of_their_own(pytester: pytest.Pytester):
    result = run(
        pytester,
        MODES["auto"],
        """
    from broker.config import Config, Limits

    @pytest.fixture
    def mesh_config():
        return Config(limits=Limits(connections=7))

    @pytest.mark.parametrize("mesh_seed", [5, 6])
    async def test_seed(mesh_broker, mesh_seed):
        assert mesh_broker.seed == mesh_seed
        assert mesh_broker.broker.config.limits.connections == 7
    """,
    )
    result.assert_outcomes(passed=2)


def test_a_failure_shows_the_trace(pytester: pytest.Pytester):
    result = run(
        pytester,
        MODES["auto"],
        """
    async def test_total(mesh_broker, mesh):
        await mesh_broker.serve(orders)
        assert await mesh.service("orders").request_response("total", 7) == 43
    """,
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*mesh trace, seed 0*", "*#1 test calls orders.total (request-response)", "*#1 ok"]
    )


def test_a_test_that_waits_for_ever_fails_and_the_next_one_runs(pytester: pytest.Pytester):
    result = run(
        pytester,
        MODES["auto"],
        """
    async def test_stuck(mesh_broker, mesh_clock):
        mesh_clock.patience = 0.05
        await asyncio.sleep(10)

    async def test_total(mesh_broker, mesh):
        await mesh_broker.serve(orders)
        assert await mesh.service("orders").request_response("total", 7) == 42
    """,
    )
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["*Stuck: at 0 s nothing is left to do*advance*test_stuck*"])


def test_tests_that_do_not_use_it_are_not_burdened(pytester: pytest.Pytester):
    pytester.makepyfile(
        f"""
    import sys

    def test_nothing_was_loaded():
        heavy = {HEAVY!r}
        assert "rsocket_mesh.testing.pytest_plugin" in sys.modules
        assert [name for name in sys.modules if name.startswith(heavy)] == []
    """
    )
    for options in ("-p no:asyncio", SCOPE):
        result = pytester.runpytest_subprocess(
            *options.split(), "-W", "error", "-p", "no:cacheprovider"
        )
        result.assert_outcomes(passed=1)


def test_without_a_plugin_that_runs_coroutines_tests_run_them_themselves(
    pytester: pytest.Pytester,
):
    result = run(
        pytester,
        "-p no:asyncio",
        """
    from rsocket_mesh import testing

    def test_total():
        async def main():
            async with testing.broker() as mesh_broker:
                await mesh_broker.serve(orders)
                async with mesh_broker.connect() as mesh:
                    assert await mesh.service("orders").request_response("total", 7) == 42
                    await mesh_broker.clock.advance(3600)
                return mesh_broker.clock.now

        assert testing.run(main()) == 3600
        assert asyncio.run(main()) == 3600
    """,
    )
    result.assert_outcomes(passed=1)


def test_the_fixtures_are_listed_with_what_they_are(pytester: pytest.Pytester):
    result = pytester.runpytest_subprocess("--fixtures", *SCOPE.split(), "-p", "no:cacheprovider")
    ours = result.stdout.str().partition("from rsocket_mesh.testing.pytest_plugin")[2]
    listed = set(re.findall(r"^(mesh\w*)", ours, re.MULTILINE))
    assert listed == {"mesh", "mesh_broker", "mesh_clock", "mesh_config", "mesh_seed"}
    assert "no docstring available" not in ours
