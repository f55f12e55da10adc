"""JSON Schema as types that people read; schemas may come from anybody."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsocket_mesh.cli.schema import MAX_DEPTH, TypeWriter


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        (None, "any"),
        ({}, "any"),
        ({"type": "integer"}, "integer"),
        ({"type": "string", "format": "date-time"}, "string (date-time)"),
        ({"type": ["string", "null"]}, "string | null"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "string | null"),
        ({"enum": ["a", 2]}, '"a" | 2'),
        ({"const": "x"}, '"x"'),
        ({"type": "array", "items": {"type": "integer"}}, "integer[]"),
        (
            {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "null"}]}},
            "(string | null)[]",
        ),
        (
            {"type": "array", "prefixItems": [{"type": "integer"}, {}], "items": False},
            "[integer, any]",
        ),
        ({"type": "object", "additionalProperties": {"type": "number"}}, "{*: number}"),
        (
            {
                "type": "object",
                "properties": {"a": {"type": "string"}, "b": {"type": "integer", "default": 1}},
                "required": ["a"],
            },
            "{a: string, b?: integer = 1}",
        ),
    ],
)
def test_a_schema_reads_as_a_type(schema: Any, text: str):
    assert TypeWriter().write(schema) == text


def test_named_types_are_written_once_even_if_they_contain_themselves():
    node = {
        "type": "object",
        "properties": {"next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]}},
    }
    writer = TypeWriter()
    assert writer.write({"$ref": "#/$defs/Node", "$defs": {"Node": node}}) == "Node"
    assert writer.named == {"Node": "{next?: Node | null}"}


def test_nesting_ends_at_the_limit():
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(MAX_DEPTH + 1):
        schema = {"type": "array", "items": schema}
    assert TypeWriter().write(schema) == "..." + "[]" * MAX_DEPTH


KEYS = st.sampled_from(
    [
        "$ref",
        "$defs",
        "type",
        "anyOf",
        "enum",
        "const",
        "items",
        "prefixItems",
        "properties",
        "required",
        "additionalProperties",
        "default",
        "format",
        "#/$defs/x",
        "x",
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9) | KEYS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=30,
)


@given(schema=JSON)
def test_whatever_a_peer_announces_is_written_as_one_line(schema: Any):
    text = TypeWriter().write(schema)
    assert text.isprintable()
