"""Values that bring their own validation: pydantic models and Protobuf messages in any codec.

`msgspec` hands over what it does not know, and this module says how such a value becomes builtins
and comes back. Neither library is imported here: a value of theirs can only exist where the program
has imported it. A pydantic model travels as the dictionary of its fields (by alias); a Protobuf
message as its own JSON mapping, and natively only in the Protobuf codec.
Source: Protocol Buffers, "ProtoJSON Format".
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import UnionType
from typing import Any, Final, Union, get_args, get_origin

import msgspec

Convert = Callable[[Any], Any]

_UNIONS: Final = (Union, UnionType)


class Misfit(ValueError):
    """What came does not fit a foreign type; `place` is where, below that value."""

    def __init__(self, place: str, text: str) -> None:
        super().__init__(text)
        self.place = place


def is_model(wanted: Any) -> bool:
    """Return whether *wanted* is a class of pydantic models."""
    pydantic = sys.modules.get("pydantic")
    return (
        pydantic is not None and isinstance(wanted, type) and issubclass(wanted, pydantic.BaseModel)
    )


def is_message(wanted: Any) -> bool:
    """Return whether *wanted* is a class of Protobuf messages."""
    protobuf = sys.modules.get("google.protobuf.message")
    return (
        protobuf is not None and isinstance(wanted, type) and issubclass(wanted, protobuf.Message)
    )


def to_builtins(value: Any) -> Any:
    """Return a foreign *value* as what codecs know; the hook for their encoders.

    Raises:
        TypeError: it is of no kind that is known here.
        ValueError: it is a message without a JSON mapping, such as a date out of range.
    """
    kind = type(value)
    if is_model(kind):
        return value.model_dump(by_alias=True)
    if is_message(kind):
        from google.protobuf.json_format import Error, MessageToDict  # loaded by who uses messages

        try:
            return MessageToDict(value)
        except Error as exc:
            raise ValueError(str(exc)) from exc
    raise TypeError(f"encoding objects of type {kind.__qualname__} is not supported")


def to_json_builtins(value: Any) -> Any:
    """The same for JSON, where a pydantic model says itself how its fields are written."""
    if is_model(type(value)):
        return value.model_dump(mode="json", by_alias=True)
    return to_builtins(value)


def from_builtins(wanted: type, value: Any) -> Any:
    """Return *value* as a *wanted*; the hook for decoders. Unknown types are left to msgspec.

    Raises:
        Misfit: it does not fit.
    """
    return _convert(wanted, value, from_json=False)


def from_json_builtins(wanted: type, value: Any) -> Any:
    """The same for JSON."""
    return _convert(wanted, value, from_json=True)


def _convert(wanted: type, value: Any, *, from_json: bool) -> Any:
    if isinstance(value, wanted):
        return value
    if is_model(wanted):
        return _validated(wanted.__pydantic_validator__, value, from_json)  # type: ignore[attr-defined]  # of every model
    if is_message(wanted):
        return _message(wanted, value)
    return value


def _validated(validator: Any, value: Any, from_json: bool) -> Any:
    from pydantic import ValidationError  # loaded by who uses models

    try:
        if from_json:  # by its own rules for JSON: bytes from text, dates in strict mode
            return validator.validate_json(msgspec.json.encode(value))
        return validator.validate_python(value)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_context=False, include_input=False)[0]
        more = exc.error_count() - 1
        text = first["msg"][:1].lower() + first["msg"][1:]
        raise Misfit(
            place_of(first["loc"]), text + (f" (and {more} more)" if more else "")
        ) from exc


def _message(wanted: type, value: Any) -> Any:
    from google.protobuf.json_format import ParseDict, ParseError

    try:
        return ParseDict(value, wanted())
    except (ParseError, TypeError, ValueError, AttributeError) as exc:  # it trusts in the form
        raise Misfit("", f"no {wanted.__name__}: {exc}") from exc


def place_of(parts: tuple[int | str, ...]) -> str:
    """Return the steps to a place inside a value, as `.lines[2].sku`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)


def union_of_models(wanted: Any, *, from_json: bool = False) -> Convert | None:
    """Return the function from builtins to a union with pydantic models in it, or None if *wanted*
    is no such union: msgspec can't tell models apart, pydantic can.

    The function raises `Misfit`.
    """
    if get_origin(wanted) not in _UNIONS:
        return None
    members = [member for member in get_args(wanted) if member is not type(None)]
    if len(members) < 2 or not any(map(is_model, members)):
        return None
    from pydantic import TypeAdapter

    validator = TypeAdapter(wanted).validator
    return lambda value: _validated(validator, value, from_json)


def schema_of(wanted: type) -> dict[str, Any]:
    """Return the JSON Schema of a foreign type; the hook of `msgspec.json.schema`.

    Raises:
        NotImplementedError: it is of no kind that is known here.
    """
    if is_model(wanted):
        return wanted.model_json_schema()  # type: ignore[attr-defined, no-any-return]  # of every model
    if is_message(wanted):
        return {"type": "object", "title": wanted.DESCRIPTOR.full_name}  # type: ignore[attr-defined]  # of every message
    raise NotImplementedError(f"{wanted} has no schema")
