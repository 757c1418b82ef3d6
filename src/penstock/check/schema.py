"""Whether a value keeps a JSON schema, for the schemas that the rows send: no more of the standard than these use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Schema = dict[str, Any]

_KINDS: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: type(value) is int,
    "number": lambda value: type(value) in (int, float),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
}


def complaint(value: Any, schema: Schema, root: Schema | None = None, where: str = "it") -> str | None:
    """What is wrong with a value, or None."""
    root = root or schema
    if "$ref" in schema:
        name = schema["$ref"].removeprefix("#/$defs/")
        return complaint(value, root["$defs"][name], root, where)
    if "anyOf" in schema:
        wrong = [complaint(value, one, root, where) for one in schema["anyOf"]]
        return None if None in wrong else wrong[0]
    if "enum" in schema and value not in schema["enum"]:
        return f"{where} is none of {schema['enum']}"
    kind = schema.get("type")
    if kind is not None and not _KINDS[kind](value):
        return f"{where} is not of type {kind}"
    if isinstance(value, dict):
        return _of_object(value, schema, root, where)
    if isinstance(value, list) and "items" in schema:
        wrong = [complaint(item, schema["items"], root, f"{where}[{number}]") for number, item in enumerate(value)]
        return next((one for one in wrong if one), None)
    return None


def _of_object(value: dict[str, Any], schema: Schema, root: Schema, where: str) -> str | None:
    properties = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            return f"{where} has no {name}"
    for name, item in value.items():
        if name not in properties:
            if schema.get("additionalProperties") is False:
                return f"{where} has {name}, which the schema does not know"
            continue
        wrong = complaint(item, properties[name], root, f"{where}.{name}")
        if wrong:
            return wrong
    return None
