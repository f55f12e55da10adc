"""JSON Schema as people write types: `Order`, `string | null`, `{sku: string, quantity?: integer}`.

For `describe` only, so what has no short form here is shown as `any` or left out (bounds of
numbers, patterns); `-o json` has the schema itself. Schemas come from announcements, which anybody
may have written: nothing in them is trusted, and nesting and size are bounded.
"""

from __future__ import annotations

from typing import Any, Final

from rsocket_mesh.cli.output import cell

MAX_DEPTH: Final = 8  # nested types in one expression; deeper ones are shown as `...`
MAX_PARTS: Final = 40  # fields or alternatives of one type
MAX_TYPES: Final = 100  # named types behind one method

_REFERENCE: Final = "#/$defs/"


class TypeWriter:
    """Writes the types of one schema after the other and collects the named ones.

    Attributes:
        named: what each named type stands for, in the order they were met.
    """

    def __init__(self) -> None:
        self.named: dict[str, str] = {}

    def write(self, schema: Any) -> str:
        """Return *schema* as an expression; `any` if there is none."""
        if not isinstance(schema, dict):
            return "any"
        definitions = schema.get("$defs")
        return self._type(schema, definitions if isinstance(definitions, dict) else {}, 0)

    def _type(self, schema: Any, definitions: dict[str, Any], depth: int) -> str:
        if not isinstance(schema, dict) or schema == {}:
            return "any"
        if depth >= MAX_DEPTH:
            return "..."
        reference = schema.get("$ref")
        if isinstance(reference, str):
            return self._reference(reference, definitions)
        if "const" in schema:
            return _literal(schema["const"])
        for key in ("anyOf", "oneOf"):
            if isinstance(schema.get(key), list):
                return self._any_of(schema[key], definitions, depth)
        if isinstance(schema.get("enum"), list):
            return " | ".join(map(_literal, schema["enum"][:MAX_PARTS]))
        kind = schema.get("type")
        if isinstance(kind, list):
            return " | ".join(cell(part, nested=True) for part in kind[:MAX_PARTS])
        if kind == "array":
            return self._array(schema, definitions, depth)
        if kind == "object":
            return self._object(schema, definitions, depth)
        if not isinstance(kind, str):
            return "any"
        form = schema.get("format") or schema.get("contentEncoding")
        return cell(f"{kind} ({form})" if isinstance(form, str) else kind, nested=True)

    def _reference(self, reference: str, definitions: dict[str, Any]) -> str:
        name = reference.removeprefix(_REFERENCE)
        shown = cell(name, nested=True)
        if name in definitions and shown not in self.named and len(self.named) < MAX_TYPES:
            self.named[shown] = "..."  # so that a type which contains itself ends here
            self.named[shown] = self._type(definitions[name], definitions, 0)
        return shown

    def _any_of(self, parts: list[Any], definitions: dict[str, Any], depth: int) -> str:
        texts = [self._type(part, definitions, depth + 1) for part in parts[:MAX_PARTS]]
        return " | ".join(dict.fromkeys(texts)) or "any"

    def _array(self, schema: dict[str, Any], definitions: dict[str, Any], depth: int) -> str:
        places = schema.get("prefixItems")
        if isinstance(places, list):
            texts = (self._type(place, definitions, depth + 1) for place in places[:MAX_PARTS])
            return f"[{', '.join(texts)}]"
        item = self._type(schema.get("items"), definitions, depth + 1)
        return f"({item})[]" if " " in item and not item.startswith("{") else f"{item}[]"

    def _object(self, schema: dict[str, Any], definitions: dict[str, Any], depth: int) -> str:
        properties = schema.get("properties")
        if not isinstance(properties, dict):
            value = self._type(schema.get("additionalProperties"), definitions, depth + 1)
            return f"{{*: {value}}}"
        required = schema.get("required")
        needed = required if isinstance(required, list) else []
        fields = []
        for name, part in list(properties.items())[:MAX_PARTS]:
            mark = "" if name in needed else "?"
            text = f"{cell(name, nested=True)}{mark}: {self._type(part, definitions, depth + 1)}"
            if isinstance(part, dict) and part.get("default") is not None:
                text += f" = {_literal(part['default'])}"
            fields.append(text)
        if len(properties) > MAX_PARTS:
            fields.append("...")
        return f"{{{', '.join(fields)}}}"


def _literal(value: Any) -> str:
    return f'"{cell(value, nested=True)}"' if isinstance(value, str) else cell(value)
