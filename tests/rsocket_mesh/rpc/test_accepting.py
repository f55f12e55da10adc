"""Codecs per service, method and call, and answers in what the caller accepts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.protobuf import wrappers_pb2

from rsocket_mesh import DecodeError, Invalid, Payload, Service, connect
from rsocket_mesh.codec import find_codec
from rsocket_mesh.protocol.metadata import (
    ACCEPT_MIME_TYPES,
    DATA_MIME_TYPE,
    decode_mime,
    encode_entry,
    encode_mimes,
    find_entry,
)
from rsocket_mesh.rpc.accepting import MAX_ACCEPTED, answer_decoder
from tests.support.small_server import SmallServer, request_metadata

JSON = "application/json"
CBOR = "application/cbor"
MSGPACK = "application/msgpack"


def shop() -> Service:
    service = Service("shop", codecs=["cbor", "json", "msgpack"])

    @service.request_response
    async def double(number: int) -> int:
        return 2 * number

    @service.request_response
    def blocking(number: int) -> int:
        return 2 * number

    @service.request_response(codecs=["json"])
    async def only_json(number: int) -> int:
        return number

    @service.request_response
    async def as_it_is(payload: Payload) -> Payload:
        return Payload(payload.data, b"of the handler's own")

    @service.request_stream
    async def count(most: int) -> AsyncIterator[int]:
        for number in range(most):
            yield number

    @service.request_channel
    async def doubled(numbers: AsyncIterator[int]) -> AsyncIterator[int]:
        async for number in numbers:
            yield 2 * number

    return service


def asking(route: str, *accepted: str, mime: str | None = None) -> bytes:
    entry = encode_entry(ACCEPT_MIME_TYPES, encode_mimes(accepted)) if accepted else b""
    return request_metadata(route, mime=mime) + entry


@pytest.mark.parametrize("method", ["double", "blocking"])
@pytest.mark.parametrize(
    ("accepted", "mime", "answered"),
    [
        ((), None, None),
        ((), JSON, None),
        ((JSON,), None, JSON),
        (("text/plain", JSON, MSGPACK), None, JSON),
        ((CBOR, JSON), JSON, CBOR),
        ((JSON, CBOR), JSON, None),
        (("text/plain",), None, None),
        (("application/x-unknown", "*/*", JSON), None, None),
        (("application/x-msgpack",), None, MSGPACK),
        ((*["application/x-other"] * MAX_ACCEPTED, JSON), None, None),
    ],
)
async def test_the_answer_is_in_the_first_accepted_type_that_the_method_has(
    method: str, accepted: tuple[str, ...], mime: str | None, answered: str | None
):
    async with SmallServer() as server, connect(server.url, serve=[shop()]):
        sent = find_codec(mime or CBOR)
        metadata = asking(f"shop.{method}", *accepted, mime=mime)
        for _ in range(2):  # the second time from the cache
            answer = await server.peers[-1].requester.request_response(
                Payload(sent.encode(21), metadata), timeout=5.0
            )
            entry = find_entry(answer.metadata or b"", DATA_MIME_TYPE)
            assert (None if entry is None else decode_mime(entry)) == answered
            assert find_codec(answered or mime or CBOR).decode(answer.data) == 42


@pytest.mark.parametrize("accept", [["json"], ["msgpack", "json"], "json", ["text"]])
@pytest.mark.parametrize("codec", [None, "json", "msgpack"])
async def test_a_caller_reads_what_it_accepts_in_every_model(accept: Any, codec: str | None):
    async with SmallServer(shop()) as server, connect(server.url) as mesh:
        handle = mesh.service("shop").using(codec, accept=accept)
        assert await handle.request_response("double", 21, returns=int) == 42
        async with handle.request_stream("count", 3, returns=int) as numbers:
            assert [number async for number in numbers] == [0, 1, 2]
        async with handle.request_channel("doubled", [1, 2], returns=int) as numbers:
            assert [number async for number in numbers] == [2, 4]
        with pytest.raises(DecodeError, match=r"the answer of shop.double: \$: expected str"):
            await handle.request_response("double", 21, returns=str)


async def test_a_codec_that_the_method_does_not_take_is_refused_with_those_it_takes():
    async with SmallServer(shop()) as server, connect(server.url) as mesh:
        handle = mesh.service("shop")
        assert await handle.request_response("only_json", 1, codec="json") == 1
        with pytest.raises(
            Invalid, match=r"'application/cbor' is not taken.*takes application/json"
        ):
            await handle.request_response("only_json", 1)
        with pytest.raises(Invalid, match="takes application/cbor, application/json"):
            await handle.request_response("double", b"x", codec="raw")


async def test_metadata_of_the_handlers_own_stays_and_is_no_data_type():
    async with SmallServer(shop()) as server, connect(server.url) as mesh:
        handle = mesh.service("shop").using(accept=["json"])
        assert await handle.request_response("as_it_is", 5) == 5


async def test_protobuf_messages_go_natively_or_as_json():
    service = Service("numbers")

    @service.request_response
    async def double(number: wrappers_pb2.Int64Value) -> wrappers_pb2.Int64Value:
        return wrappers_pb2.Int64Value(value=2 * number.value)

    async with SmallServer(service) as server, connect(server.url) as mesh:
        numbers = mesh.service("numbers")
        one = wrappers_pb2.Int64Value(value=1)
        for codec in ("protobuf", "application/x-protobuf", "cbor", "json", "msgpack"):
            answer = await numbers.request_response(
                "double", one, returns=wrappers_pb2.Int64Value, codec=codec
            )
            assert answer == wrappers_pb2.Int64Value(value=2)
        mixed = numbers.using("protobuf", accept=["json"])
        assert await mixed.request_response("double", one) == "2"  # its JSON mapping
    assert "application/vnd.google.protobuf" in service.methods["double"].info().mime


def test_a_codec_that_is_not_there_is_found_when_the_service_is_made():
    with pytest.raises(ValueError, match="no codec 'yaml'"):
        Service("shop", codecs=["yaml"])
    with pytest.raises(ValueError, match="codecs is empty"):
        Service("shop", codecs=[])
    service = Service("shop")
    with pytest.raises(ValueError, match="no codec 'yaml'"):
        service.request_response(codecs="yaml")(print)


def test_an_answer_in_an_unknown_type_is_a_decode_error():
    decode = answer_decoder(find_codec("cbor"), int)
    metadata = encode_entry(DATA_MIME_TYPE, b"\x06text/xy")
    with pytest.raises(DecodeError, match="it is 'text/xy'; there are application/cbor"):
        decode(Payload(b"1", metadata))
