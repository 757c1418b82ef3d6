"""The members of a JSON object as the bytes they came in, each name once."""

from __future__ import annotations

import re
from collections.abc import Collection

import msgspec

from penstock.errors import InvalidRequest

_DECODER = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ENCODER = msgspec.json.Encoder()
_KEY = re.compile(rb'[ \t\r\n]*[{,][ \t\r\n]*"([^"\\]*+(?:\\.[^"\\]*+)*+)"[ \t\r\n]*:[ \t\r\n]*', re.DOTALL)


def split(body: bytes) -> dict[str, msgspec.Raw]:
    """The members of the object, in order, of a repeated name the last.

    Raises InvalidRequest for what is not JSON, or nested too deeply, and msgspec.ValidationError for JSON that is
    no object. The values are checked to be JSON but for the encoding of their strings.
    """
    try:
        return _DECODER.decode(body)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise not_json() from error
    except RecursionError as error:
        raise nested_too_deeply() from error


def join(members: dict[str, msgspec.Raw]) -> bytes:
    """The object of these members, without white space between them, every value's bytes as they are."""
    return _ENCODER.encode(members)


def compact_size(names: Collection[str]) -> int:
    """The bytes of an object beside its values, at least: quotes, colons, commas, braces, a byte for each character."""
    return sum(map(len, names)) + 4 * len(names) + 1


def refuse_repeats(body: bytes, members: dict[str, msgspec.Raw], prefix: str = "") -> None:
    """Refuse an object, of which `members` is the split, that has a name twice.

    We act on the last one. An upstream that acts on the first would see another model, or another limit, than
    the one that was authorised and accounted for.
    """
    if join(members) == body:  # the usual case, at a tenth of the cost: written compactly, each name once
        return
    at, found = 0, ""
    for name, raw in members.items():
        # So far the body's members and those of the split are the same. They part where a name comes again, or
        # where the split has the value of a later member of that name; 1 is then found where 12 stands.
        key = _KEY.match(body, at)
        if key is None:
            break
        found = name if key[1] == name.encode() else _decoded(key[1])
        value = bytes(raw)
        at = key.end() + len(value)
        if found != name or not body.startswith(value, key.end()):
            raise _repeated(prefix + found)
    if body[at:].strip() != b"}" and members:
        key = _KEY.match(body, at)
        raise _repeated(prefix + (found if key is None else _decoded(key[1])))


def not_json() -> InvalidRequest:
    """The body is not JSON in UTF-8."""
    return InvalidRequest(
        "We could not parse the JSON body of your request. The API expects a JSON payload in UTF-8, "
        "but what was sent was not valid JSON."
    )


def nested_too_deeply() -> InvalidRequest:
    """The body is JSON of a depth that no request needs."""
    return InvalidRequest("The JSON body of your request is nested too deeply.")


def _decoded(name: bytes) -> str:
    return msgspec.json.decode(b'"%b"' % name, type=str)


def _repeated(name: str) -> InvalidRequest:
    shown = name[:64]
    return InvalidRequest(f"Duplicate parameter: '{shown}' is given more than once.", param=shown)
