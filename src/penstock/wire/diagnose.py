"""Says in OpenAI's words what is wrong with a body that does not have the shape of a request.

The typed decoder stops at the first fault and tells its place and kind in a sentence. Only then, off the hot path, is
that sentence read and turned into the `message`, `param` and `code` that the hosted API would give. A sentence of
another form still becomes a 400 that names the place.
"""

from __future__ import annotations

import re
from functools import cache

import msgspec
from msgspec import inspect

from penstock.errors import InvalidRequest
from penstock.wire.params import Params

_PLACE = re.compile(r" - at (?:`key` in )?`\$\.?([^`]*)`\Z")
_EXPECTED = re.compile(r"Expected `([^`]+)`(?:, got `(\w+)`)?")
_MISSING = re.compile(r"Object missing required field `([^`]+)`")
_VALUE = re.compile(r"Invalid (?:enum )?value (.+)", re.DOTALL)
_INDEX = re.compile(r"\[[^\]]*\]")
_CONTENT = re.compile(r"messages\[(\d+)\]\.content")
_NOUNS = {
    "str": "a string",
    "int": "an integer",
    "float": "a decimal",
    "bool": "a boolean",
    "array": "an array",
    "object": "an object",
    "null": "null",
}


def misshapen(error: msgspec.ValidationError) -> InvalidRequest:
    """What the decoder of `Params` found wrong."""
    reason = str(error)
    place = _PLACE.search(reason)
    path = ""
    if place is not None:
        reason, path = reason[: place.start()], place[1].replace("[...]", "")
    if match := _MISSING.fullmatch(reason):
        name = f"{path}.{match[1]}" if path else match[1]
        return InvalidRequest(f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter")
    if match := _EXPECTED.fullmatch(reason):
        return _wrong_type(path, match[1], match[2])
    if match := _VALUE.fullmatch(reason):
        return _unsupported(path, match[1][1:-1])
    return InvalidRequest(f"Invalid value for '{path}': out of range.", param=path or None, code="invalid_value")


def excerpt(text: str) -> str:
    """At most 64 characters of the caller's text, on one line."""
    shown = text if len(text) <= 64 else text[:61] + "..."
    return shown if shown.isprintable() else repr(shown)[1:-1]


def listed(values: tuple[str, ...]) -> str:
    """'a', 'b', and 'c'."""
    quoted = [f"'{value}'" for value in values]
    if len(quoted) < 3:
        return " and ".join(quoted)
    return f"{', '.join(quoted[:-1])}, and {quoted[-1]}"


def _wrong_type(path: str, expected: str, got: str | None) -> InvalidRequest:
    if not path:
        found = f", but got {_NOUNS.get(got or '', 'something else')} instead"
        return InvalidRequest(f"Invalid body: expected a JSON object{found}.", code="invalid_type")
    content = _CONTENT.fullmatch(path)
    if content is not None and got == "null":
        return InvalidRequest(
            "Invalid value for 'content': expected a string, got null.", param=f"messages.[{content[1]}].content"
        )
    kinds = [kind for kind in expected.split(" | ") if kind != "null"]
    if "int" in kinds and "float" in kinds:  # how `Params` writes an integer
        kinds.remove("float")
    nouns = " or ".join(_NOUNS.get(kind, kind) for kind in kinds)
    several = "one of " if len(kinds) > 1 else ""
    found = f", but got {_NOUNS.get(got, got)} instead" if got else ""
    message = f"Invalid type for '{path}': expected {several}{nouns}{found}."
    if path == "response_format":  # a bare "json_object" means the type
        return InvalidRequest(message, param="response_format.type", code="invalid_value")
    return InvalidRequest(message, param=path, code="invalid_type")


def _unsupported(path: str, value: str) -> InvalidRequest:
    supported = _choices().get(_INDEX.sub("", path), ())
    values = f" Supported values are: {listed(supported)}." if supported else ""
    return InvalidRequest(f"Invalid value: '{excerpt(value)}'.{values}", param=path, code="invalid_value")


@cache
def _choices() -> dict[str, tuple[str, ...]]:
    """The values that each place with a fixed set of them supports, by its path without indexes."""
    found: dict[str, tuple[str, ...]] = {}
    _collect(inspect.type_info(Params), "", found)
    return found


def _collect(kind: inspect.Type, path: str, found: dict[str, tuple[str, ...]]) -> None:
    if isinstance(kind, inspect.UnionType):
        for member in kind.types:
            _collect(member, path, found)
    elif isinstance(kind, inspect.LiteralType):
        found[path] = tuple(str(value) for value in kind.values)
    elif isinstance(kind, inspect.VarTupleType):
        _collect(kind.item_type, path, found)
    elif isinstance(kind, inspect.StructType):
        if kind.tag_field is not None:
            place = f"{path}.{kind.tag_field}"
            found[place] = tuple(dict.fromkeys((*found.get(place, ()), str(kind.tag))))
        for field in kind.fields:
            _collect(field.type, f"{path}.{field.encode_name}" if path else field.encode_name, found)
