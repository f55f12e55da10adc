"""grpc.aio with the same messages in Protobuf.

The message classes come from a descriptor made here, which is what generated code does too; the
serializers are the ones that a generated stub would pass. Under uvloop, where it needs a fifth less
CPU than on the loop of asyncio.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from benchmarks.rpc_peers.messages import (
    INVOICE,
    ORDER,
    Call,
    Invoice,
    Order,
    for_ever,
    listening,
)

USES_UVLOOP: Final = True
_FIELDS: Final[dict[str, dict[str, type]]] = {
    "Order": {"item": int, "quantity": int},
    "Total": {"value": int},
    "Invoice": {"id": int, "customer": str, "note": str, "lines": list},
}


def _messages() -> dict[str, Any]:
    file = FileDescriptorProto(name="bench.proto", package="bench", syntax="proto3")
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields.items(), 1):
            message.field.add(
                name=field,
                number=number,
                type=FieldDescriptorProto.TYPE_STRING
                if kind is str
                else FieldDescriptorProto.TYPE_INT64,
                label=FieldDescriptorProto.LABEL_REPEATED
                if kind is list
                else FieldDescriptorProto.LABEL_OPTIONAL,
            )
    pool = DescriptorPool()
    pool.Add(file)
    return {name: GetMessageClass(pool.FindMessageTypeByName(f"bench.{name}")) for name in _FIELDS}


_MESSAGES: Final = _messages()
_PATHS: Final = {"total": "/bench.Bench/Total", "echo": "/bench.Bench/Echo"}
_TYPES: Final = {"total": ("Order", "Total"), "echo": ("Invoice", "Invoice")}


async def _total(request: Any, _context: Any) -> Any:
    order = Order(request.item, request.quantity)
    return _MESSAGES["Total"](value=order.item * order.quantity)


async def _echo(request: Any, _context: Any) -> Any:
    return _from_invoice(_to_invoice(request))


def _to_invoice(message: Any) -> Invoice:
    return Invoice(message.id, message.customer, message.note, list(message.lines))


def _from_invoice(invoice: Invoice) -> Any:
    return _MESSAGES["Invoice"](
        id=invoice.id, customer=invoice.customer, note=invoice.note, lines=invoice.lines
    )


async def serve(port: int) -> None:
    """Serve both methods on one port, insecure as the others are."""
    import grpc.aio  # heavy, and only there with the extra

    handlers = {}
    for method, function in (("total", _total), ("echo", _echo)):
        request, response = (_MESSAGES[name] for name in _TYPES[method])
        handlers[_PATHS[method].rpartition("/")[2]] = grpc.unary_unary_rpc_method_handler(
            function,
            request_deserializer=request.FromString,
            response_serializer=response.SerializeToString,
        )
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("bench.Bench", handlers),)
    )
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    listening(bound)
    await for_ever()


@asynccontextmanager
async def caller(port: int, method: str) -> AsyncIterator[Call]:
    """Call over one channel, with a deadline, as our library does."""
    import grpc.aio  # heavy, and only there with the extra

    request, response = (_MESSAGES[name] for name in _TYPES[method])
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = channel.unary_unary(
            _PATHS[method],
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )

        async def total() -> object:
            answer = await stub(request(item=ORDER.item, quantity=ORDER.quantity), timeout=10)
            return answer.value

        async def echo() -> object:
            return _to_invoice(await stub(_from_invoice(INVOICE), timeout=10))

        yield total if method == "total" else echo
