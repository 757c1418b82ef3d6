"""The tool calls of a streamed choice, brought to the form that clients can put together.

Clients join the deltas of a call by its `index` and concatenate what is repeated. Some servers send no index, begin at
1, give two calls the same one, or repeat id and name on every delta. `ToolCalls` follows the calls of one choice and
says what is wrong with a delta: a call is known by its index as the server gave it, unless its id says otherwise.
"""

from __future__ import annotations

from typing import Any

import msgspec

MAX_CALLS = 1024

_json = msgspec.json.Encoder()
_raw_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_raw_objects = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])


class CallMending(msgspec.Struct, frozen=True):
    """What one delta of a call must become: its `index`, and what was said before and is left out."""

    index: int
    drop_id: bool
    drop_name: bool


class ToolCalls:
    """The calls of one choice so far."""

    __slots__ = ("_ids", "_names", "_places")

    def __init__(self) -> None:
        self._ids: list[str | None] = []
        self._names: list[str | None] = []
        self._places: dict[int, int] = {}  # the server's index -> ours

    def study(self, deltas: Any) -> tuple[CallMending, ...] | None:
        """Note the deltas of calls in one chunk; None if all are in order. Raises ValueError if they are no calls."""
        if not isinstance(deltas, list):
            raise ValueError("tool_calls is not a list")
        mendings = []
        sound = True
        for delta in deltas:
            if not isinstance(delta, dict):
                raise ValueError("a tool call is not an object")
            given, call_id = delta.get("index"), _text(delta.get("id"))
            function = delta.get("function")
            members = function if isinstance(function, dict) else {}
            name = _text(members.get("name"))
            place = self._find(given, call_id)
            if place is None:
                place = self._begin()
            if type(given) is int and len(self._places) < MAX_CALLS:
                self._places[given] = place
            known_id, known_name = self._ids[place], self._names[place]
            mending = CallMending(
                place,
                drop_id=call_id is not None and known_id is not None,
                drop_name=name is not None and known_name == name,
            )
            self._ids[place], self._names[place] = known_id or call_id, known_name or name
            mendings.append(mending)
            whole = isinstance(function, dict) or "custom" in delta
            written = isinstance(members.get("arguments", ""), str)
            sound = sound and whole and written and given == place and not (mending.drop_id or mending.drop_name)
        return None if sound else tuple(mendings)

    def _begin(self) -> int:
        if max(len(self._ids), len(self._places)) >= MAX_CALLS:
            raise ValueError("too many tool calls")
        self._ids.append(None)
        self._names.append(None)
        return len(self._ids) - 1

    def _find(self, given: Any, call_id: str | None) -> int | None:
        """The place of the call that a delta continues, or None where it begins one."""
        numbered = type(given) is int
        place = self._places.get(given) if numbered else None
        if place is not None and (call_id is None or self._ids[place] in (None, call_id)):
            return place
        if call_id is not None:
            return self._ids.index(call_id) if call_id in self._ids else None
        return len(self._ids) - 1 if self._ids and not numbered else None


def mend_calls(deltas: bytes, mendings: tuple[CallMending, ...]) -> bytes:
    """The list of deltas, each mended as told; arguments that are no string become one, and a `function` is put in."""
    calls = _raw_objects.decode(deltas)
    mended = []
    for call, mending in zip(calls, mendings, strict=True):
        call.pop("index", None)
        if mending.drop_id:
            call.pop("id", None)
            call.pop("type", None)
        if "custom" not in call:
            call["function"] = msgspec.Raw(_json.encode(_mend_function(call.get("function"), mending.drop_name)))
        mended.append({"index": msgspec.Raw(b"%d" % mending.index), **call})
    return _json.encode(mended)


def _mend_function(function: msgspec.Raw | None, drop_name: bool) -> dict[str, msgspec.Raw]:
    members = {} if function is None or bytes(function) == b"null" else _raw_object.decode(function)
    if drop_name:
        members.pop("name", None)
    arguments = bytes(members.get("arguments", msgspec.Raw(b'""')))
    if not arguments.startswith(b'"'):
        text = "" if arguments == b"null" else arguments.decode()
        members["arguments"] = msgspec.Raw(_json.encode(text))
    return members


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
