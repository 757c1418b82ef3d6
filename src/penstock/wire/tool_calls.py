"""The tool calls of a streamed choice, brought to the form that clients can put together.

Clients join the deltas of a call by its `index`, take id, type and name from the first and concatenate the rest. Some
servers send no index, begin at 1, give two calls the same one, leave the id out or repeat it with the name on every
delta. `ToolCalls` follows the calls of one choice and says what is wrong with a delta: a call is known by its index as
the server gave it, unless its id says otherwise. Where a server gives no ids at all, or all calls the same, a call ends
where the next name comes with arguments of its own. A call is begun for the client once it has a name; what came before
is held until then.
"""

from __future__ import annotations

import secrets
from typing import Any

import msgspec

MAX_CALLS = 1024
MAX_WAITING = 64 * 1024  # letters of arguments whose calls have no name yet

_json = msgspec.json.Encoder()
RawObject = dict[str, msgspec.Raw]

_raw_object = msgspec.json.Decoder(RawObject)
_raw_objects = msgspec.json.Decoder(list[RawObject] | None)
_text_of = msgspec.json.Decoder(str)

_NOTHING = msgspec.Raw(b"null")


class CallMending(msgspec.Struct, frozen=True):
    """What one delta of a call must become. `begins`: it is the first of its call, and has id, type and name.

    `made_id`: the id, where the server gave none of its own. `waited`: arguments that came before the name. `withheld`:
    the client gets nothing of it now.
    """

    index: int = 0
    begins: bool = False
    made_id: str = ""
    waited: str = ""
    withheld: bool = False


class _Call:
    """One call: as the server names it, how the client knows it, and what waits for its name."""

    __slots__ = ("id", "name", "number", "place", "started", "waiting")

    def __init__(self, place: int) -> None:
        self.place = place  # among all calls
        self.id: str | None = None
        self.name: str | None = None
        self.number: int | None = None  # None until it is begun for the client
        self.started = False  # whether some of its arguments have come
        self.waiting = ""


class ToolCalls:
    """The calls of one choice so far."""

    __slots__ = ("_begun", "_by_id", "_calls", "_places", "_shared", "_waiting")

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._by_id: dict[str, _Call] = {}  # the last one with an id
        self._shared: set[str] = set()  # ids of more than one
        self._waiting = 0  # letters, of all calls
        self._places: dict[int, _Call] = {}  # by the server's index
        self._begun = 0

    @property
    def nameless(self) -> bool:
        """Whether there is a call that never got a name, so that the client does not know of it."""
        return self._begun < len(self._calls)

    @property
    def bare(self) -> tuple[int, ...]:
        """The indexes of function calls whose arguments have not come."""
        return tuple(call.number for call in self._calls if call.number is not None and not call.started)

    def study(self, deltas: Any) -> tuple[CallMending, ...] | None:
        """Note the deltas of calls in one chunk; None if all are in order. Raises ValueError if they are no calls."""
        if not isinstance(deltas, list):
            raise ValueError("tool_calls is not a list")
        if len(deltas) == 1 and self._continues(deltas[0]):
            return None
        found = [self._study(delta) for delta in deltas]
        return None if all(sound for _, sound in found) else tuple(mending for mending, _ in found)

    def _continues(self, delta: Any) -> bool:
        """Whether a delta is of the plainest form: more arguments for a call that has begun. Nearly all are."""
        if type(delta) is not dict or len(delta) != 2:
            return False
        given, function = delta.get("index"), delta.get("function")
        if type(given) is not int or type(function) is not dict or len(function) != 1:
            return False
        call = self._places.get(given)
        if call is None or call.number != given or type(function.get("arguments")) is not str:
            return False
        call.started = call.started or bool(function["arguments"])
        return True

    def _study(self, delta: Any) -> tuple[CallMending, bool]:
        """What a delta must become, and whether it is that already."""
        if not isinstance(delta, dict):
            raise ValueError("a tool call is not an object")
        kind = "custom" if "custom" in delta else "function"
        function = delta.get(kind)
        members = function if isinstance(function, dict) else {}
        given, call_id, name = delta.get("index"), _text(delta.get("id")), _text(members.get("name"))
        arguments = members.get("input" if kind == "custom" else "arguments")
        call = self._find(given, call_id, name, arguments) or self._begin()
        if type(given) is int and len(self._places) < MAX_CALLS:
            self._places[given] = call
        if call_id is not None and call.id is None:
            self._identify(call, call_id)
        call.name = call.name or name
        call.started = call.started or kind == "custom" or bool(_written(arguments))
        sound = isinstance(arguments, str) and given == call.number
        if call.number is not None:
            sound = sound and delta.get("id") is None and members.get("name") is None
            return CallMending(call.number), sound and delta.get("type", kind) in (kind, None)
        if call.name is None and kind == "function":
            written = _written(arguments)
            call.waiting += written
            self._waiting += len(written)
            if self._waiting > MAX_WAITING:
                raise ValueError("a tool call without a name")
            return CallMending(withheld=True), False
        call.number, self._begun = self._begun, self._begun + 1
        self._waiting -= len(call.waiting)
        unique = call.id is not None and call.id not in self._shared
        made_id = "" if unique else f"call_{secrets.token_hex(12)}"
        sound = isinstance(arguments, str) and given == call.number and call_id is not None and unique
        sound = sound and not call.waiting
        mending = CallMending(call.number, True, made_id or ("" if call_id else call.id or ""), call.waiting)
        return mending, sound and delta.get("type") == kind

    def _begin(self) -> _Call:
        if max(len(self._calls), len(self._places)) >= MAX_CALLS:
            raise ValueError("too many tool calls")
        self._calls.append(_Call(len(self._calls)))
        return self._calls[-1]

    def _identify(self, call: _Call, call_id: str) -> None:
        call.id = call_id
        other = self._by_id.get(call_id)
        if other is not None:
            self._shared.add(call_id)
        if other is None or other.place < call.place:
            self._by_id[call_id] = call

    def _find(self, given: Any, call_id: str | None, name: str | None, arguments: Any) -> _Call | None:
        """The call that a delta continues, or None where it begins one."""
        numbered = type(given) is int
        call = self._places.get(given) if numbered else None
        if call is not None and call_id is not None and call.id not in (None, call_id):
            call = None
        if call is None and call_id is not None:
            # The last one, since some servers give all calls the same.
            call = self._by_id.get(call_id)
            if call is not None and numbered and name is not None and call.started:
                return call if _written(arguments).lstrip()[:1] not in ("", "{") else None
            return call
        if call is None and not numbered and self._calls:
            call = self._calls[-1]
        if call is None or call_id is not None or call.id is not None or name is None or call.name is None:
            return call
        anew = name != call.name or (call.started and _written(arguments).lstrip().startswith("{"))
        return None if anew else call


def mend_calls(deltas: bytes, mendings: tuple[CallMending, ...] | None) -> list[RawObject]:
    """The deltas, each mended as told; arguments that are no string become one, and a `function` is put in.

    `deltas` is a list in JSON, or null; without `mendings` all are as they should be.
    """
    calls = _raw_objects.decode(deltas) or []
    if mendings is None:
        return calls
    mended = []
    for call, mending in zip(calls, mendings, strict=True):
        if mending.withheld:
            continue
        custom = "custom" in call
        call.pop("index", None)
        if not mending.begins:
            call.pop("id", None)
            call.pop("type", None)
        elif mending.made_id:
            call["id"] = _raw(mending.made_id)
        if mending.begins:
            call["type"] = _raw("custom" if custom else "function")
        if not custom:
            call["function"] = _raw(_mend_function(call.get("function", _NOTHING), mending))
        mended.append({"index": msgspec.Raw(b"%d" % mending.index), **call})
    return mended


def without_arguments(indexes: tuple[int, ...]) -> list[RawObject]:
    """Deltas that give these calls an empty object for arguments."""
    return [{"index": _raw(index), "function": _raw({"arguments": "{}"})} for index in indexes]


def _mend_function(function: msgspec.Raw, mending: CallMending) -> RawObject:
    members = {} if bytes(function) == b"null" else _raw_object.decode(function)
    if not mending.begins:
        members.pop("name", None)
    arguments = bytes(members.get("arguments", _NOTHING))
    if not arguments.startswith(b'"'):
        members["arguments"] = _raw(mending.waited + ("" if arguments == b"null" else arguments.decode()))
    elif mending.waited:
        members["arguments"] = _raw(mending.waited + _text_of.decode(arguments))
    return members


def _written(arguments: Any) -> str:
    """Arguments as a string of JSON."""
    if arguments is None:
        return ""
    return arguments if isinstance(arguments, str) else _json.encode(arguments).decode()


def _raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(_json.encode(value))


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
