"""The acts about what goes wrong: mistakes, a service that dies, a broker that dies."""

import asyncio
import time

from examples.demo.calls import SOON
from examples.demo.show import Show
from examples.demo.stage import Stage
from examples.machine import Load
from examples.stdlib_search import Found, Query
from rsocket_mesh import DeadlineExceeded, Invalid, Mesh, NoRoute, PeerLost


async def mistakes(show: Show, mesh: Mesh, stage: Stage) -> None:
    show.act(
        "Mistakes have types",
        "Every error is a class of its own, and says whether the work may have been done. So a"
        " program knows what it may try again.",
    )
    show.code(
        'await search.request_response("find", {"text": "a", "limit": "many"})\n'
        'await search.request_response("guess", "a")\n'
        'await machine.request_response("now", timeout=0.02)  # it takes 0.1 s'
    )
    search, machine = mesh.service("search"), mesh.service("machine")
    with show.expected(Invalid):
        await search.request_response("find", {"text": "a", "limit": "many"})
    with show.expected(NoRoute):
        await search.request_response("guess", "a")
    with show.expected(DeadlineExceeded):
        await machine.request_response("now", timeout=0.02)
    show.fact(
        "NoRoute is safe to retry: nothing was begun. After a deadline, who knows?",
        holds=NoRoute.safe_to_retry and not DeadlineExceeded.safe_to_retry,
    )


async def a_service_dies(show: Show, mesh: Mesh, stage: Stage) -> None:
    show.act(
        "kill -9 for a service",
        "A second `machine` is started: it connects and shares the work, that is all. Then the"
        " first one is killed in the middle of a stream that we read from it.",
    )
    registry = mesh.service("mesh.registry")
    (only,) = (await registry.request_response("describe", "machine"))["instances"]
    await stage.start("machine")
    await stage.registered(mesh, machine=2)
    first = mesh.service("machine", instance=only["instance"])
    async with first.request_stream("load", 50, returns=Load) as loads:
        await anext(loads)
        stage.named("machine").kill()
        began = time.perf_counter()
        with show.expected(PeerLost):
            async with asyncio.timeout(SOON):
                async for _ in loads:
                    pass
    milliseconds = 1000 * (time.perf_counter() - began)
    show.fact(f"{milliseconds:.0f} ms after the kill the stream had ended, in a typed error")
    load = await mesh.service("machine").request_response("now", returns=Load)
    show.fact("the next call was answered, by the second instance", holds=len(load.cpu) > 0)


async def the_broker_dies(show: Show, mesh: Mesh, stage: Stage) -> None:
    show.act(
        "kill -9 for the broker",
        "Now the broker itself is killed, and started again. Nobody tells the services: they"
        " notice, come back and say again what they serve.",
    )
    began = time.perf_counter()
    stage.broker.kill()
    await stage.broker.wait()
    await stage.start_broker()
    started = time.perf_counter()
    await stage.registered(mesh, machine=1, search=1, journal=1, files=1, guide=1)
    back = time.perf_counter()
    show.fact(
        f"the new broker was ready after {started - began:.1f} s, and {back - started:.1f} s later"
        " it had all 5 services"
    )
    found = await mesh.service("search").request_response("find", Query("asyncio"), returns=Found)
    show.fact(
        f"they lost nothing: the search still has its index of {found.searched} files",
        holds=found.total > 0,
    )
