"""C-105 to C-112: requests that wait for permission."""

from __future__ import annotations

import asyncio

from rsocket_mesh.errors import ErrorCode
from rsocket_mesh.protocol.frames import (
    ERROR,
    LEASE,
    PAYLOAD,
    REQUEST_RESPONSE,
    Lease,
    encode_lease,
    encode_payload,
    encode_request_n,
    encode_setup,
)
from rsocket_mesh.testing.conformance.bench import Bench, Caller
from rsocket_mesh.testing.conformance.cases.stream_ids import answer_one
from rsocket_mesh.testing.conformance.raw_peer import SETUP, RawPeer
from rsocket_mesh.testing.conformance.registry import accepting, asking, dialling, serving
from rsocket_mesh.testing.conformance.subjects import LIBRARY_SETUP, ServerSubject
from rsocket_mesh.testing.conformance.verdicts import NotApplicable, check

LEASED = SETUP._replace(lease=True)
LONG = 60_000  # ms; longer than a case lasts
SHORT = 50  # ms
TRIED = 100_000  # requests; who leases more cannot be asked for one too many


def grant(requests: int, ttl_ms: int = LONG) -> bytes:
    """Return a LEASE frame."""
    return encode_lease(Lease(ttl_ms, requests))


async def quiet(peer: RawPeer) -> None:
    """Show that no request is sent: the answers to two KEEPALIVEs, and nothing else."""
    peer.can_echo = False  # an echo would be a request beyond the lease
    await peer.silence()


async def leased_client(bench: Bench) -> tuple[RawPeer, Caller]:
    """Return a connection of a client that asked for leases and was granted none yet."""
    peer, client = await bench.accept(LIBRARY_SETUP._replace(lease=True))
    peer.passes_over.add(LEASE)
    await peer.frame("SETUP")
    await client.confirmed
    return peer, Caller(client.requester, "leased")


async def leased_server(bench: Bench) -> tuple[RawPeer, SeenLease]:
    """Return a connection to a server that leases, with what it leased."""
    peer = await bench.dial()
    await peer.send(encode_setup(LEASED))
    frame = await peer.expect(LEASE, 0)
    peer.passes_over.add(LEASE)
    return peer, SeenLease(frame.raw)


class SeenLease:
    """What a LEASE frame grants."""

    def __init__(self, raw: bytes) -> None:
        self.ttl_ms = int.from_bytes(raw[6:10], "big")
        self.requests = int.from_bytes(raw[10:14], "big")


@dialling("C-105", "lease")
async def a_client_waits_for_its_first_lease(bench: Bench) -> None:
    peer, caller = await leased_client(bench)
    call = bench.task(caller.response())
    await quiet(peer)
    await peer.send(grant(1))
    await answer_one(peer)
    await call


@accepting("C-106", "lease", "server")
async def a_server_waits_for_its_first_lease(bench: Bench) -> None:
    peer, _ = await leased_server(bench)
    assert isinstance(bench.subject, ServerSubject)
    server = bench.subject.peers.get_nowait()
    bench.task(Caller(server.requester, "leased").response())
    await quiet(peer)
    await peer.send(grant(1))
    await peer.expect(REQUEST_RESPONSE, 2)


@accepting("C-107", "lease")
async def a_server_leases_to_who_asked_for_it(bench: Bench) -> None:
    _, lease = await leased_server(bench)
    check(lease.ttl_ms > 0 and lease.requests > 0, "both numbers above 0", vars(lease))


@accepting("C-107", "no-lease")
async def a_server_without_lease_refuses_the_flag(bench: Bench) -> None:
    peer = await bench.dial()
    await peer.send(encode_setup(LEASED))
    await peer.expect_end(
        ErrorCode.UNSUPPORTED_SETUP, ErrorCode.REJECTED_SETUP, ErrorCode.INVALID_SETUP
    )


@dialling("C-108", "lease")
async def no_more_than_leased_is_sent_and_none_after_the_time(bench: Bench) -> None:
    peer, caller = await leased_client(bench)
    for _ in range(4):
        bench.task(caller.response())
    await peer.send(grant(2))
    for _ in range(2):
        await answer_one(peer)
    await quiet(peer)
    await peer.send(grant(3, SHORT))
    for _ in range(2):
        await answer_one(peer)
    await asyncio.sleep(2 * SHORT / 1000)  # the law is about time: one unit is left, and too old
    bench.task(caller.response())
    await quiet(peer)


@dialling("C-94", "lease")
async def a_fragmented_request_costs_one_unit(bench: Bench) -> None:
    peer, caller = await leased_client(bench)
    await peer.send(grant(1))
    await peer.fence()
    for _ in range(2):
        bench.task(caller.response(bytes(200_000)))
    request = await peer.frame("a request in fragments")
    while (fragment := await peer.expect(PAYLOAD, request.stream_id)).follows:
        pass
    check(fragment.next, "NEXT on the last fragment", fragment)
    await quiet(peer)


@dialling("C-109", "lease")
async def a_new_lease_replaces_the_old(bench: Bench) -> None:
    peer, caller = await leased_client(bench)
    await peer.send(grant(5), grant(1))
    await peer.fence()
    for _ in range(3):
        bench.task(caller.response())
    await answer_one(peer)
    await quiet(peer)


@dialling("C-110", "lease")
async def a_lease_of_0_stops_new_requests_only(bench: Bench) -> None:
    peer, caller = await leased_client(bench)
    await peer.send(grant(5))
    await peer.fence()
    open_call = bench.task(caller.response())
    request = await peer.frame("a request")
    await peer.send(encode_lease(Lease(LONG, 0)))
    await peer.fence()
    bench.task(caller.response())
    await quiet(peer)
    await peer.send(encode_payload(request.stream_id, None, b"answer", complete=True))
    answer = await open_call
    check(answer.data == b"answer", "the answer", repr(answer))


@accepting("C-111", "lease")
async def a_request_beyond_the_lease_is_rejected(bench: Bench) -> None:
    peer, lease = await leased_server(bench)
    if lease.requests > TRIED:
        raise NotApplicable(f"the subject leases {lease.requests} requests, too many to use up")
    ids = [peer.next_id() for _ in range(lease.requests + 1)]
    beyond = ids[-1]
    texts = [b"within"] * lease.requests + [b"beyond"]
    requests = zip(ids, texts, strict=True)
    await peer.send(*(peer.request("echo", text, stream_id=i) for i, text in requests))
    while (frame := await peer.frame("ERROR[REJECTED]")).stream_id != beyond:
        check(frame.kind == PAYLOAD, "answers", frame)
    if frame.kind == PAYLOAD and peer.passed_over:
        raise NotApplicable("the subject grants more before what it granted is used up")
    is_rejected = frame.kind == ERROR and frame.number == ErrorCode.REJECTED
    check(is_rejected, "ERROR[REJECTED]", frame)
    if not bench.subject.is_foreign:
        check(b"beyond" not in bench.seen.data(), "no handler for it", "one")


@serving("C-112")
async def a_lease_out_of_place_changes_nothing(bench: Bench) -> None:
    peer = await bench.caller()
    stream_id = 0
    if "stream" in bench.subject.routes:
        stream_id = await peer.ask("stream", b"2", n=1)
        await peer.expect_items(stream_id, [b"1"])
    await peer.send(grant(0), grant(1, 1))
    await peer.silence()
    if stream_id:
        await peer.send(encode_request_n(stream_id, 1))
        await peer.expect_items(stream_id, [b"2"])


@asking("C-112")
async def nor_for_the_requests_of_the_subject(bench: Bench) -> None:
    peer, caller = await bench.responder()
    await peer.send(grant(0))
    await peer.fence()
    for _ in range(3):
        call = bench.task(caller.response())
        await answer_one(peer)
        await call
