"""The acts about calls: each of the five kinds once, and what flows between them.

An act shows the code, runs it, and checks what it says about it.
"""

import asyncio
import time
from asyncio.subprocess import Process
from pathlib import Path

from msgspec.structs import replace

from examples.demo.show import Show
from examples.demo.stage import Stage
from examples.files import Receipt, pack
from examples.journal import Note
from examples.machine import Load, Watchers
from examples.stdlib_search import Found, Query
from rsocket_mesh import Mesh, NoRoute, Service
from rsocket_mesh.protocol.announce import encode_announcement
from rsocket_mesh.protocol.metadata import ANNOUNCE, encode_entry

MIB = 1024 * 1024
GIB = 1024 * MIB
FILE_SIZE = 64 * MIB
LOOK_AWAY = 0.3  # s in which an endless stream could send 300 items
SOON = 10.0  # s; far longer than anything that is waited for takes

guide = Service("guide", description="The demo itself: whoever calls can serve as well")


@guide.request_response
async def welcome(name: str) -> str:
    """Greet somebody."""
    return f"Welcome, {name}!"


async def who_is_there(show: Show, mesh: Mesh, stage: Stage) -> None:
    show.act(
        "Who is there",
        "Five programs have connected to the broker and said what they serve. The connection"
        " itself is the registration: no port to open, no registry to run, nothing to configure.",
    )
    show.code('services = await mesh.service("mesh.registry").request_response("list")')
    await stage.registered(mesh, machine=1, search=1, journal=1, files=1, guide=1)
    services = await mesh.service("mesh.registry").request_response("list")
    show.table(
        ["service", "methods"], [(each["name"], ", ".join(each["methods"])) for each in services]
    )
    show.fact(f"5 services are registered at {stage.url}", holds=len(services) == 5)
    show.hint(f"the broker's own page, while this runs: {stage.admin}")


async def request_response(show: Show, mesh: Mesh, stage: Stage) -> None:
    show.act(
        "Request-response: one question, one answer",
        "The service has read the sources of this Python's standard library. Question and answer"
        " are plain dataclasses; the handler's type hints are the schema.",
    )
    show.code(
        'search, query = mesh.service("search"), Query("flow control")\n'
        'found = await search.request_response("find", query, returns=Found)'
    )
    search = mesh.service("search")
    began = time.perf_counter()
    found = await search.request_response("find", Query("flow control"), returns=Found)
    milliseconds = 1000 * (time.perf_counter() - began)
    for hit in found.hits:
        show.plain(f"{hit.score:5.1f}  {hit.file}:{hit.lines[0].number}  {hit.lines[0].text}")
    show.fact(
        f"{found.total} of {found.searched} files have both words; {milliseconds:.0f} ms,"
        f" {found.milliseconds:.0f} of them for the search itself",
        holds=found.total >= len(found.hits) > 0,
    )


async def request_stream(show: Show, mesh: Mesh, stage: Stage) -> None:
    show.act(
        "Request-stream: one question, many answers",
        "How busy this machine is, read from /proc, until we have seen enough.",
    )
    show.code(
        'async with machine.request_stream("load", 200, returns=Load) as loads:\n'
        "    async for load in loads: ..."
    )
    machine = mesh.service("machine")
    seen = 0
    async with machine.request_stream("load", 200, returns=Load) as loads:
        async for load in loads:
            seen += 1
            cpu = sum(load.cpu) / len(load.cpu)
            bar = "█" * round(cpu / 5)
            used, total = load.memory_used / GIB, load.memory_total / GIB
            show.plain(f"cpu {cpu:5.1f} % {bar:20}  memory {used:.1f} of {total:.1f} GiB")
            if seen == 5:
                break
    show.fact(f"{seen} measurements, one each 200 ms", holds=seen == 5)


async def backpressure(show: Show, mesh: Mesh, stage: Stage) -> None:
    show.act(
        "Backpressure: nobody is sent more than was asked for",
        "The same stream, endless, now each millisecond. We ask for 5 and look away for"
        f" {LOOK_AWAY:g} s. Then we ask the service how often it has measured for us.",
    )
    show.code(
        'async with machine.request_stream("load", 1, prefetch=5):\n'
        f"    await asyncio.sleep({LOOK_AWAY})\n"
        '    watchers = await machine.request_response("watchers", returns=Watchers)'
    )
    machine = mesh.service("machine")
    before = await machine.request_response("watchers", returns=Watchers)
    async with machine.request_stream("load", 1, prefetch=5):
        await asyncio.sleep(LOOK_AWAY)
        watchers = await machine.request_response("watchers", returns=Watchers)
        measured = watchers.measured - before.measured
        show.fact(
            f"{measured} times, and now its generator stands still at `yield`",
            holds=measured == 5,
        )
    async with asyncio.timeout(SOON):
        while watchers.now > before.now:
            watchers = await machine.request_response("watchers", returns=Watchers)
    show.fact("we left the block, and there the generator's `finally` has run")


async def request_channel(show: Show, mesh: Mesh, stage: Stage) -> None:
    show.act(
        "Request-channel: streams in both directions",
        f"A file of {FILE_SIZE // MIB} MiB goes one way while receipts come back. It is read as"
        " fast as the other side writes, so it could be of any size: nothing on the way keeps it.",
    )
    show.code(
        'receipts = files.request_channel("upload", pack(path), returns=Receipt)\n'
        "async for receipt in receipts: ..."
    )
    path = stage.directory / "report.bin"
    path.write_bytes(bytes(range(256)) * (FILE_SIZE // 256))
    files = mesh.service("files")
    memory = memory_of(stage.broker)
    began = time.perf_counter()
    async with files.request_channel("upload", pack(path), returns=Receipt) as channel:
        receipts = [receipt async for receipt in channel]
    last = receipts[-1]
    seconds = time.perf_counter() - began
    grown = (memory_of(stage.broker) - memory) / MIB
    show.plain(f"{last.name}  {last.written} bytes  sha256 {last.sha256[:16]}...")
    show.fact(
        f"both sides computed the same checksum; {len(receipts)} receipts, {seconds:.1f} s,"
        f" {FILE_SIZE / MIB / seconds:.0f} MiB/s",
        holds=last.written == FILE_SIZE and last.sha256 != "",
    )
    show.fact(f"meanwhile the broker's memory grew by {max(grown, 0):.1f} MiB", holds=grown < 32)


async def fire_and_forget(show: Show, mesh: Mesh, stage: Stage) -> None:
    show.act(
        "Fire-and-forget: said, and not waited for",
        "A note for the journal. No answer will come, good or bad, and none is waited for.",
    )
    show.code('await journal.fire_and_forget("note", "demo", "I was here")')
    journal = mesh.service("journal")
    began = time.perf_counter()
    await journal.fire_and_forget("note", "demo", "I was here")
    microseconds = 1e6 * (time.perf_counter() - began)
    notes = await journal.request_response("latest", 1, returns=list[Note])
    show.fact(
        f"gone after {microseconds:.0f} µs; asked later, the journal has it",
        holds=notes == [Note("demo", "I was here")],
    )


async def metadata_push(show: Show, mesh: Mesh, stage: Stage) -> None:
    show.act(
        "Metadata-push: a word about the connection itself",
        "This demo serves too: `guide`, over the connection that it calls with. It now tells the"
        " broker, without waiting for an answer, that it carries the tag mood=curious.",
    )
    show.code(
        'tagged = replace(mesh.announcement, tags={"mood": "curious"})\n'
        "entry = encode_entry(ANNOUNCE, encode_announcement(tagged))\n"
        "await mesh.metadata_push(entry)"
    )
    curious = mesh.service("guide", mood="curious")
    show.plain('before, mesh.service("guide", mood="curious") finds nobody:')
    with show.expected(NoRoute):
        await curious.request_response("welcome", "newcomer")
    tagged = replace(mesh.announcement, tags={"mood": "curious"})
    entry = encode_entry(ANNOUNCE, encode_announcement(tagged))
    await mesh.metadata_push(entry)
    answer = await curious.request_response("welcome", "newcomer", returns=str)
    show.fact(f"after it, the answer is {answer!r}", holds=answer == "Welcome, newcomer!")


def memory_of(process: Process) -> int:
    """The memory of a process that is in use now, in bytes."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024
