"""Which types are simple enough for the short cuts of a codec, found out once per type.

Read from the annotations by `msgspec.inspect`, so this module knows no encoding: it answers two
questions about a type, and "no" is always a safe answer.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from msgspec import inspect

# Values of these have one form in every encoding, and are their own builtins.
_SCALARS: Final = (
    inspect.IntType,
    inspect.StrType,
    inspect.FloatType,
    inspect.BoolType,
    inspect.NoneType,
    inspect.BytesType,
)
_WITH_FIELDS: Final = (
    inspect.DataclassType,
    inspect.StructType,
    inspect.TypedDictType,
    inspect.NamedTupleType,
)


def plain_fields(kind: type) -> int:
    """Return how many fields *kind* has, if it is a dataclass whose `__dict__` can be encoded as it
    stands: scalars, and lists and dictionaries of them. Otherwise 0."""
    if not dataclasses.is_dataclass(kind) or not getattr(kind, "__dictoffset__", 0):
        return 0
    info = _info(kind)
    if not isinstance(info, inspect.DataclassType):
        return 0
    fields = info.fields
    # msgspec leaves out what a subclass without the decorator, or a slot, keeps elsewhere.
    if len(fields) != len(dataclasses.fields(kind)):
        return 0
    if any(
        field.name != field.encode_name or not _is_builtin(field.type, set()) for field in fields
    ):
        return 0
    return len(fields)


def same_in_msgpack(wanted: Any) -> bool:
    """Return whether a value without dates, numbers of any length and the like is read as *wanted*
    by MessagePack exactly as `msgspec.convert` reads it: the same values, the same refusals."""
    info = _info(wanted)
    return info is not None and _is_common(info, set())


def _info(wanted: Any) -> inspect.Type | None:
    try:
        return inspect.type_info(wanted)
    except Exception:  # nothing for msgspec, or a class that is not defined yet, or whatever else
        return None


def _parts(info: inspect.Type) -> list[inspect.Type] | None:
    """The types inside a container, or None if it is none that both questions know."""
    if isinstance(info, inspect.ListType):
        return [info.item_type]
    if isinstance(info, inspect.DictType):
        return [info.key_type, info.value_type]
    if isinstance(info, inspect.UnionType):
        return list(info.types)
    return None


def _is_builtin(info: inspect.Type, seen: set[Any]) -> bool:
    if isinstance(info, _SCALARS):
        return True
    parts = _parts(info)
    return parts is not None and all(_is_builtin(part, seen) for part in parts)


def _is_common(info: inspect.Type, seen: set[Any]) -> bool:
    if isinstance(info, (*_SCALARS, inspect.EnumType, inspect.LiteralType)):
        return True
    if isinstance(info, _WITH_FIELDS):
        if info.cls in seen:  # it contains itself
            return True
        seen.add(info.cls)
        return all(_is_common(field.type, seen) for field in info.fields)
    if isinstance(info, inspect.VarTupleType):
        return _is_common(info.item_type, seen)
    if isinstance(info, inspect.TupleType):
        return all(_is_common(item, seen) for item in info.item_types)
    parts = _parts(info)
    return parts is not None and all(_is_common(part, seen) for part in parts)
