"""JSON Schemas of the API's types, each property with its meaning; examples that fit a schema."""

from __future__ import annotations

from typing import Any

import msgspec

from coinspace.endpoint.meanings import PARAMETERS, Meaning, of_field
from coinspace.endpoint.values import Instant

PREFIX = "#/components/schemas/"
Schema = dict[str, Any]


def _schema_hook(kind: type) -> Schema:
    if kind is Instant:
        return {
            "type": "string",
            "description": "epoch milliseconds, or ISO 8601 with a zone",
            "examples": ["1767225600000", "2026-01-01T00:00:00Z"],
            "pattern": r"^([0-9]{1,13}|[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+(Z|[+-][0-9:]+))$",
        }
    raise NotImplementedError(f"no schema for {kind}")


def components(answers: list[Any], parameters: list[Any]) -> dict[str, Schema]:
    """Return the schemas behind some types by name: of answers and events, and of parameters."""
    _, found = msgspec.json.schema_components(
        [*answers, *parameters], schema_hook=_schema_hook, ref_template=PREFIX + "{name}"
    )
    asked = {one.__name__ for one in parameters}
    for name, schema in found.items():
        for field, one in schema.get("properties", {}).items():
            if name in asked:
                meaning = PARAMETERS.get(field)
                if meaning is not None and not _described(one):
                    one["description"] = meaning.text
            elif (meaning := of_field(name, field)) is not None:
                one["description"] = meaning.text
                if meaning.example is not None:
                    one["examples"] = [_example(name, field, one, found)]
    return found


def _described(schema: Schema) -> bool:
    # the description of an instant is that of its type
    parts = [schema, *schema.get("anyOf", ())]
    return any("description" in one and "examples" not in one for one in parts)


def reference(kind: type) -> Schema:
    """Return the reference to a type's schema."""
    return {"$ref": PREFIX + kind.__name__}


def example(name: str, found: dict[str, Schema]) -> dict[str, Any]:
    """Return an example of a schema. Args: found: all schemas by name."""
    return {
        field: _example(name, field, one, found)
        for field, one in found[name].get("properties", {}).items()
    }


def _example(name: str, field: str, schema: Schema, found: dict[str, Schema]) -> Any:
    given = (of_field(name, field) or Meaning("")).example
    derived = _of_schema(schema, found)
    if given is None:
        return derived
    if isinstance(given, list) and derived and isinstance(derived[0], dict):
        return [{**derived[0], **one} for one in given]
    if isinstance(given, dict) and isinstance(derived, dict):
        parts = _values(schema)
        if parts is None:
            return {**derived, **given}
        one = _of_schema(parts, found)
        return {
            key: {**one, **value} if isinstance(one, dict) else value
            for key, value in given.items()
        }
    return given


def _values(schema: Schema) -> Schema | None:
    values = schema.get("additionalProperties")
    return values if isinstance(values, dict) else None


def _of_schema(schema: Schema, found: dict[str, Schema]) -> Any:
    """Return the example of a schema whose field gives none."""
    for one in schema.get("anyOf", ()):
        if "$ref" in one:
            return _of_schema(one, found)
    if "$ref" in schema:
        return example(schema["$ref"].removeprefix(PREFIX), found)
    if "anyOf" in schema:
        return None
    match schema.get("type"):
        case "array":
            items = schema.get("items")
            return [_of_schema(items, found)] if isinstance(items, dict) and items else []
        case "object":
            return {}
    return schema["enum"][0] if "enum" in schema else None
