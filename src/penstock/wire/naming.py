"""What the chunks of one stream call themselves: `id`, `object`, `created` and `model`, the same on every chunk.

Some servers give each chunk an id or a time of its own, or leave members out; clients then take one answer for
several, or fail on the types. The first chunk decides what the answer is called, and those that differ are mended.

Nearly every stream is in order, so looking must cost nothing. In one server's chunks the four members stand in the same
place, before `choices` or behind it: `before` and `after` are the bytes of the last good chunk there. Whatever valid
JSON begins and ends with them has the same four members, and needs no decoding. `mend` is for all others.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import msgspec

OBJECT = "chat.completion.chunk"

_LONGEST = 512  # a name above it would be put into every chunk that lacks it
_MOST_LOOKS = 8  # a server whose chunks never begin and end alike is not looked at for ever

_BROKEN = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Names(msgspec.Struct, frozen=True, gc=False):
    """What one chunk calls itself, of whatever type."""

    id: Any = None
    object: Any = None
    created: Any = None
    model: Any = None


class _Chunk(Names, frozen=True, gc=False):
    choices: msgspec.Raw = msgspec.Raw()


_names = msgspec.json.Decoder(Names).decode
_chunk = msgspec.json.Decoder(_Chunk).decode
_raw_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


class Naming:
    """The names of one stream. `model`: the one that was asked for, for a server that names none; `now`: Unix seconds.

    A chunk of which ``data.startswith(before) and data.endswith(after)`` is named like the others.
    """

    __slots__ = ("_found", "_looks", "_model", "_now", "after", "before")

    def __init__(self, model: str, now: Callable[[], float]) -> None:
        self.before = b"\0"  # no JSON begins with it
        self.after = b""
        self._model = model
        self._now = now
        self._found: Names | None = None
        self._looks = 0

    def mend(self, data: bytes) -> bytes:
        """The chunk, a valid JSON object, under the names of its stream.

        Nothing is left of one that has neither an id nor a choice and comes before the first that has: it could only be
        given a name that the answer will not have. Azure begins its streams with one. Raises what decoding raises.
        """
        given = _chunk(data)
        if self._found is None:
            if not _is_text(given.id) and bytes(given.choices).strip() in (b"[]", b"null", b""):
                return b""
            self._found = self._settle(given)
        found = self._found
        if (given.id, given.object, given.created, given.model) != (found.id, OBJECT, found.created, found.model) or (
            type(given.created) is not int
        ):
            names = _raw_object(_encode(found))
            return _encode({**names, **_raw_object(data), **names})
        if self._looks < _MOST_LOOKS:
            self._looks += 1
            self.before, self.after = _alike(data, found)
        return data

    def _settle(self, given: Names) -> Names:
        created = given.created
        if type(created) not in (int, float) or not 0 < created < 2**53:
            created = self._now()
        return Names(
            given.id if _is_text(given.id) else f"chatcmpl-{secrets.token_hex(16)}",
            OBJECT,
            int(created),
            given.model if _is_text(given.model) else self._model,
        )


def _alike(data: bytes, names: Names) -> tuple[bytes, bytes]:
    """What a chunk of these names begins and ends with; where nothing holds all four, what no chunk begins with."""
    head, tail = data[: data.find(b'"choices"')], data[data.rfind(b"]") + 1 :]
    first, last = _part(head.rstrip().removesuffix(b",") + b"}"), _part(b"{" + tail.lstrip().removeprefix(b","))
    if first == names:
        return head, b""
    if last == names:
        return b"", tail
    both = Names(*(one if one is not None else other for one, other in zip(_values(first), _values(last), strict=True)))
    return (head, tail) if both == names else (b"\0", b"")


def _part(data: bytes) -> Names:
    try:
        return _names(data)
    except _BROKEN:
        return Names()


def _values(names: Names) -> tuple[Any, ...]:
    return (names.id, names.object, names.created, names.model)


def _is_text(value: Any) -> bool:
    return type(value) is str and 0 < len(value) <= _LONGEST
