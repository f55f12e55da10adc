"""Transports on sockets against peers that are no transports of ours: raw, rude, or gone."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import stat
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rsocket_mesh.errors import ConnectionClosed, Unreachable
from rsocket_mesh.protocol.framing import prefix_lengths
from rsocket_mesh.transport import dial, framed, listen
from tests.support.transport_ends import Place, Recorder, send
from tests.support.waiting import until

MakePlace = Callable[[str], Place]


@pytest.fixture(params=["tcp4", "tcp6", "unix"])
def stream_place(request: pytest.FixtureRequest, make_place: MakePlace) -> Place:
    return make_place(request.param)


@asynccontextmanager
async def raw_peer(
    place: Place, far: Recorder, **options: Any
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Yield a plain connection to a listener whose receiver is *far*."""
    listener = await place.listen(lambda: far, **options)
    if place.kind == "unix":
        reader, writer = await asyncio.open_unix_connection(listener.url.removeprefix("unix://"))
    else:
        host, _, port = listener.url.split("/")[2].rpartition(":")
        reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    try:
        await until(lambda: far.transport is not None, "the accepted end")
        yield reader, writer
    finally:
        await listener.close()
        writer.close()
        far.transport.abort()
        await far.ended()
        with suppress(ConnectionError):
            await writer.wait_closed()


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST, as a machine that lost its memory would."""
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


async def test_frames_sent_byte_by_byte_arrive_whole(stream_place: Place) -> None:
    frames = [b"123456", b"a longer frame", b"x" * 300]
    far = Recorder()
    async with raw_peer(stream_place, far) as (_, writer):
        wire = b"".join(prefix_lengths(frames))
        for number, byte in enumerate(wire):
            writer.write(bytes([byte]))
            await until(lambda sent=number: far.transport.bytes_in > sent)  # type: ignore[misc]  # a lambda's default has no type
        assert far.frames == frames


@settings(
    max_examples=30,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(frames=st.lists(st.binary(min_size=6, max_size=60), max_size=20), data=st.data())
async def test_frames_come_out_whole_however_the_bytes_are_cut(
    make_place: MakePlace, frames: list[bytes], data: st.DataObject
) -> None:
    wire = b"".join(prefix_lengths(frames))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=8)))
    far = Recorder()
    async with raw_peer(make_place("tcp4"), far) as (_, writer):
        for start, stop in zip([0, *cuts], [*cuts, len(wire)], strict=True):
            writer.write(wire[start:stop])
            await until(lambda stop=stop: far.transport.bytes_in == stop)  # type: ignore[misc]  # a lambda's default has no type
        assert far.frames == frames


@pytest.mark.parametrize("length", range(6))
async def test_a_length_below_a_header_is_refused(stream_place: Place, length: int) -> None:
    far = Recorder(last_word=b"ERROR: bad length")
    async with raw_peer(stream_place, far) as (reader, writer):
        writer.write(b"\0\0\x06before" + length.to_bytes(3, "big") + b"never seen")
        assert await reader.read() == b"\0\0\x11ERROR: bad length"
        assert far.frames == [b"before"]
        assert far.violations == [f"frame length {length}, the header alone needs 6"]


async def test_a_length_over_the_limit_is_refused_by_its_prefix_alone(
    stream_place: Place,
) -> None:
    far = Recorder(last_word=b"ERROR: too long")
    async with raw_peer(stream_place, far, max_frame=70_000) as (reader, writer):
        writer.write((70_001).to_bytes(3, "big"))
        assert await reader.read() == b"\0\0\x0fERROR: too long"
        assert far.violations == ["frame length 70001 exceeds the limit of 70000 bytes"]
        assert far.calls[:1] == ["connected"]


async def test_http_on_a_plain_port_is_a_bad_length(stream_place: Place) -> None:
    far = Recorder(last_word=b"ERROR: not RSocket", limit=100_000)
    async with raw_peer(stream_place, far, max_frame=100_000) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
        assert await reader.read() == b"\0\0\x12ERROR: not RSocket"
        assert far.violations == ["frame length 4670804 exceeds the limit of 100000 bytes"]


async def test_a_peer_that_closes_in_order_is_no_error(stream_place: Place) -> None:
    far = Recorder()
    async with raw_peer(stream_place, far) as (_, writer):
        writer.write(b"\0\0\x06123456")
        writer.close()
        assert await far.ended() is None
        assert far.calls == ["connected", "batch_received", "disconnected"]


async def test_a_peer_that_closes_inside_a_frame_is_an_error_with_numbers(
    stream_place: Place,
) -> None:
    far = Recorder()
    async with raw_peer(stream_place, far) as (_, writer):
        writer.write(b"\0\0\x06123")
        writer.close()
        error = await far.ended()
        assert isinstance(error, ConnectionClosed)
        assert error.reason == "truncated-frame"
        assert "after 6 bytes of a frame" in str(error)


@pytest.mark.parametrize("kind", ["tcp4", "tcp6"])
async def test_a_reset_is_an_error(make_place: MakePlace, kind: str) -> None:
    far = Recorder()
    async with raw_peer(make_place(kind), far) as (_, writer):
        reset(writer)
        assert isinstance(await far.ended(), ConnectionResetError)


async def test_a_half_closed_peer_still_gets_what_was_written(stream_place: Place) -> None:
    far = Recorder(echo=True)
    async with raw_peer(stream_place, far) as (reader, writer):
        writer.write(b"\0\0\x06123456")
        writer.write_eof()
        assert await reader.read() == b"\0\0\x06123456"


async def test_the_last_word_reaches_a_peer_that_keeps_sending(stream_place: Place) -> None:
    far = Recorder(last_word=b"ERROR: bad length")
    async with raw_peer(stream_place, far) as (reader, writer):
        # Closing a socket with unread input resets it, and a reset destroys what was written.
        writer.write(b"\0\0\0" + b"x" * 3_000_000)
        assert await reader.read() == b"\0\0\x11ERROR: bad length"


async def test_a_peer_that_never_closes_is_cut_off_after_a_bounded_time(
    stream_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(framed, "CLOSE_TIMEOUT", 0.05)
    far = Recorder()
    async with raw_peer(stream_place, far) as (reader, _):
        send(far.transport, b"goodbye")
        far.transport.close()
        assert await reader.read() == b"\0\0\x07goodbye"
        assert await far.ended() is None


async def test_a_peer_that_does_not_read_cannot_delay_a_close_for_ever(
    stream_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(framed, "CLOSE_TIMEOUT", 0.05)
    far = Recorder()
    async with raw_peer(stream_place, far) as (reader, _):
        reader._transport.pause_reading()  # type: ignore[attr-defined]  # no public way
        send(far.transport, b"x" * 16_000_000)
        far.transport.close()
        error = await far.ended()
        assert isinstance(error, ConnectionClosed)
        assert error.reason == "close-timeout"
        assert "bytes could not be sent within 0.05 s" in str(error)


async def test_tcp_and_tls_do_not_delay_small_writes(make_place: MakePlace) -> None:
    for kind in ("tcp4", "tcp6", "tls", "ws", "wss"):
        async with make_place(kind).pair() as ends:
            for end in ends:
                handle = end.transport._socket.get_extra_info("socket")
                assert handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_a_name_with_two_addresses_listens_on_both_at_one_port() -> None:
    accepted: list[Recorder] = []

    def accept() -> Recorder:
        accepted.append(Recorder())
        return accepted[-1]

    addresses = {str(info[4][0]) for info in socket.getaddrinfo("localhost", 0)}
    listener = await listen("tcp://localhost:0", accept)
    port = listener.url.rpartition(":")[2]
    near = Recorder()
    try:
        for address in addresses:
            host = f"[{address}]" if ":" in address else address
            near = Recorder()
            (await dial(f"tcp://{host}:{port}", near, timeout=5)).close()
            await near.ended()
        assert len(accepted) == len(addresses)
    finally:
        await listener.close()
        for end in accepted:
            await end.ended()


async def test_the_ipv6_wildcard_takes_ipv4_and_shows_its_plain_address() -> None:
    far = Recorder()
    listener = await listen("tcp://[::]:0", lambda: far)
    near = Recorder()
    try:
        port = listener.url.rpartition(":")[2]
        (await dial(f"tcp://127.0.0.1:{port}", near, timeout=5)).close()
        await near.ended()
        await far.ended()
        assert far.transport.peer_address == "127.0.0.1"
        assert far.transport.name.startswith("tcp 127.0.0.1:")
    finally:
        await listener.close()


async def test_an_address_in_use_is_an_error_that_names_the_url() -> None:
    listener = await listen("tcp://127.0.0.1:0", Recorder)
    with pytest.raises(OSError, match=rf"cannot listen on {listener.url}: Address already in use"):
        await listen(listener.url, Recorder)
    await listener.close()


async def test_a_memory_name_in_use_is_an_error() -> None:
    listener = await listen("memory://taken", Recorder)
    with pytest.raises(OSError, match="memory://taken: the name is taken"):
        await listen("memory://taken", Recorder)
    await listener.close()
    again = await listen("memory://taken", Recorder)
    await again.close()


# Unix sockets


async def test_a_unix_socket_is_private_and_goes_with_its_listener(tmp_path: Path) -> None:
    path = tmp_path / "s"
    listener = await listen(f"unix://{path}", Recorder)
    mode = path.lstat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600
    await listener.close()
    assert not path.exists()


async def test_the_socket_file_of_a_dead_process_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    listener = await listen(f"unix://{path}", Recorder)
    await listener.close()


async def test_the_socket_file_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    far = Recorder(echo=True)
    listener = await listen(f"unix://{path}", lambda: far)
    with pytest.raises(OSError, match="another process listens there"):
        await listen(f"unix://{path}", Recorder)
    assert path.exists()
    await listener.close()
    await until(lambda: far.transport is None or far.gone)


async def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(OSError, match="exists and is not a socket"):
        await listen(f"unix://{path}", Recorder)
    assert path.read_text() == "data"


async def test_a_socket_file_that_was_replaced_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    listener = await listen(f"unix://{path}", Recorder)
    os.unlink(path)
    path.write_text("somebody else's")
    await listener.close()
    assert path.exists()


# Dialling


async def test_nobody_there_is_one_error_with_url_and_cause() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
        near = Recorder()
        with pytest.raises(Unreachable, match=f"{url}: .*111") as caught:
            await dial(url, near, timeout=5)
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)
    assert near.calls == []


@pytest.mark.parametrize("scheme", ["tls", "ws", "wss"])
async def test_a_server_that_says_nothing_costs_the_timeout_and_no_more(
    scheme: str, client_context: ssl.SSLContext
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        near = Recorder()
        url = f"{scheme}://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(Unreachable, match=r"no connection within 0\.1 s"):
            await dial(url, near, timeout=0.1, tls=client_context)
        assert near.calls == []
        await asyncio.sleep(0)


async def test_a_cancelled_dial_leaves_nothing_open() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        near = Recorder()
        url = f"ws://127.0.0.1:{silent.getsockname()[1]}"
        task = asyncio.create_task(dial(url, near, timeout=5))
        accepted, _ = await asyncio.to_thread(silent.accept)
        with accepted:
            await asyncio.to_thread(accepted.recv, 65_536)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(accepted.recv, 65_536) == b""
        assert near.calls == []


async def test_a_certificate_that_nobody_vouches_for_is_refused(make_place: MakePlace) -> None:
    far = Recorder()
    listener = await make_place("tls").listen(lambda: far)
    with pytest.raises(Unreachable, match="certificate verify failed"):
        await dial(listener.url, Recorder(), timeout=5)
    await listener.close()
    assert far.calls == []


async def test_a_certificate_for_another_name_is_refused(
    make_place: MakePlace, client_context: ssl.SSLContext
) -> None:
    listener = await make_place("tls").listen(Recorder)
    url = listener.url.replace("127.0.0.1", "127.0.0.2")
    # 127.0.0.2 is this machine too on Linux; the listener has to be there to show its certificate.
    other = await listen(url, Recorder, tls=make_place("tls").server_tls)
    with pytest.raises(Unreachable, match=r"127\.0\.0\.2.*certificate"):
        await dial(other.url, Recorder(), timeout=5, tls=client_context)
    await other.close()
    await listener.close()


async def test_old_tls_is_refused(make_place: MakePlace, authority: Any) -> None:
    listener = await make_place("tls").listen(Recorder)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(old)
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(Unreachable):
        await dial(listener.url, Recorder(), timeout=5, tls=old)
    await listener.close()


async def test_plain_bytes_on_a_tls_port_never_reach_a_receiver(make_place: MakePlace) -> None:
    far = Recorder()
    listener = await make_place("tls").listen(lambda: far)
    port = int(listener.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"\0\0\x06123456" * 10)
    await reader.read()  # an alert, or nothing
    writer.close()
    await writer.wait_closed()
    await listener.close()
    assert far.calls == []


@pytest.mark.parametrize(("url", "tls"), [("tls://127.0.0.1:0", False), ("tcp://[::1]:0", True)])
async def test_a_certificate_is_given_exactly_where_it_is_used(
    url: str, tls: bool, server_context: ssl.SSLContext
) -> None:
    with pytest.raises(ValueError, match="certificate"):
        await listen(url, Recorder, tls=server_context if tls else None)


async def test_who_is_given_a_rest_is_not_read_meanwhile_and_nothing_is_lost(
    stream_place: Place,
) -> None:
    class Resting(Recorder):
        def batch_received(self, data: bytes) -> int:
            if not self.frames:
                assert self.transport.rest(0.01)
                assert not self.transport.rest(0.2)
            return super().batch_received(data)

    far = Resting()
    loop = asyncio.get_running_loop()
    async with raw_peer(stream_place, far) as (_, writer):
        writer.write(b"".join(prefix_lengths([b"first."])))
        await until(lambda: far.frames)
        began = loop.time()
        writer.write(b"".join(prefix_lengths([b"second"])))
        await until(lambda: len(far.frames) == 2)
        assert loop.time() - began > 0.1
        assert far.frames == [b"first.", b"second"]
