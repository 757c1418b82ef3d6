"""A whole chat completion put together from the chunks of its stream, as it went out.

Each chunk adds to what its predecessors said: text is appended, tool calls and what else has an index are matched by
it, log probabilities follow each other, members that nobody here knows are treated likewise. A name, an id, a role or a
type is said once: the first stays. What is above a bound is given up, and then nothing is remembered.
"""

from __future__ import annotations

import io
from typing import Any

import msgspec

from penstock.types import JSON, Usage
from penstock.wire.answer import BROKEN
from penstock.wire.usage import usage_object

_ONCE = frozenset(("id", "type", "role", "name", "index"))
_APART = frozenset(("choices", "object", "usage", "obfuscation"))
_PIECE = 64  # about what a member costs beside its text

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode


class Assembly:
    """One stream. `most`: about the bytes that may be remembered; above, it is given up, and `failed` says so."""

    __slots__ = ("_choices", "_left", "_names", "_usage", "failed")

    def __init__(self, most: int) -> None:
        self.failed = False
        self._left = most
        self._names: JSON = {}
        self._choices: dict[int, JSON] = {}
        self._usage: JSON | None = None

    def note(self, events: bytes) -> None:
        """Take whole events, framed plainly."""
        if self.failed:
            return
        try:
            for one in events.split(b"\n\n"):
                if one and one != b"data: [DONE]":
                    self._read(_decode(one[6:]))
        except (*BROKEN, AttributeError, KeyError, TypeError):  # in a member that nobody had looked into before
            self._give_up()
        if self._left < 0:
            self._give_up()

    def body(self, usage: Usage | None) -> bytes:
        """The completion, with the usage that went out, or else with this."""
        if self._usage is None and usage is not None:
            self._usage = usage_object(usage)
        whole = {**self._names, "object": "chat.completion"}
        whole["choices"] = [_choice(index, said) for index, said in sorted(self._choices.items())]
        if self._usage is not None:
            whole["usage"] = self._usage
        return _encode(whole)

    def _read(self, chunk: JSON) -> None:
        for name, value in chunk.items():
            if name not in _APART and value is not None:
                self._names[name] = value
        self._usage = chunk.get("usage") or self._usage
        for choice in chunk.get("choices") or ():
            said = self._choices.setdefault(choice["index"], {})
            for name, value in choice.items():
                if name in ("delta", "logprobs"):
                    if value is not None:
                        self._add(said.setdefault(name, {}), value)
                elif value is not None:
                    said[name] = value

    def _add(self, said: JSON, more: JSON) -> None:
        """What a step adds to what was said before it."""
        for name, value in more.items():
            before = said.get(name)
            if value is None or (name in _ONCE and before):
                continue
            if isinstance(value, str) and name not in _ONCE:
                if not isinstance(before, io.StringIO):
                    before = said[name] = io.StringIO()
                    self._left -= _PIECE
                before.write(value)
                self._left -= len(value)
            elif isinstance(value, dict):
                self._add(said.setdefault(name, {}), value)
            elif isinstance(value, list):
                self._extend(said.setdefault(name, []), value)
            else:
                said[name] = value

    def _extend(self, said: list[Any], more: list[Any]) -> None:
        for item in more:
            if not isinstance(item, dict) or "index" not in item:
                said.append(item)
                self._left -= len(_encode(item))
                continue
            found = next((one for one in said if isinstance(one, dict) and one.get("index") == item["index"]), None)
            if found is None:
                found = {}
                said.append(found)
                self._left -= _PIECE
            self._add(found, item)

    def _give_up(self) -> None:
        self.failed = True
        self._choices.clear()
        self._names.clear()


def _choice(index: int, said: JSON) -> JSON:
    """A choice of the whole answer, its required members first."""
    found = _settled(said)
    message: JSON = {"role": "assistant", "content": None, "refusal": None, **found.pop("delta", {})}
    calls = message.get("tool_calls")
    if calls:
        message["tool_calls"] = [{name: value for name, value in call.items() if name != "index"} for call in calls]
        message["content"] = message["content"] or None
    else:
        message.pop("tool_calls", None)
    return {"index": index, "message": message, "logprobs": None, "finish_reason": None, **found}


def _settled(value: Any) -> Any:
    """The same with all that was said piece by piece as text."""
    if isinstance(value, io.StringIO):
        return value.getvalue()
    if isinstance(value, dict):
        return {name: _settled(one) for name, one in value.items()}
    return [_settled(one) for one in value] if isinstance(value, list) else value
