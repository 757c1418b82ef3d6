"""A stream's body as events, with everything kept that a lenient parser would forgive.

The rules are those of server-sent events (WHATWG, "interpreting an event stream"): lines end by CR, LF or both, a blank
line ends an event, a line that begins with a colon is a comment.
"""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

from penstock.check.client import Answer

DONE = "[DONE]"

_LINE_END = re.compile(rb"\r\n|\r|\n")


class Event(msgspec.Struct, frozen=True):
    """One event. `fields` are its lines by name, comments under the empty name; `whole`: a blank line ended it.

    `end` is the length of the body up to and with this event.
    """

    fields: tuple[tuple[str, str], ...]
    whole: bool
    end: int

    @property
    def data(self) -> str | None:
        """Its data lines joined; None when it has none."""
        lines = [value for name, value in self.fields if name == "data"]
        return "\n".join(lines) if lines else None

    def values(self, name: str) -> list[str]:
        """The values of a field."""
        return [value for key, value in self.fields if key == name]


class Stream(msgspec.Struct, frozen=True):
    """A streamed answer. `chunks` are its JSON objects up to [DONE], in order; `broken` the data that are no object."""

    answer: Answer
    events: tuple[Event, ...]
    chunks: tuple[dict[str, Any], ...]
    broken: tuple[str, ...]
    done: bool

    @property
    def choices(self) -> list[dict[str, Any]]:
        """Every choice of every chunk."""
        found = []
        for chunk in self.chunks:
            choices = chunk.get("choices")
            if isinstance(choices, list):
                found += [choice for choice in choices if isinstance(choice, dict)]
        return found

    @property
    def deltas(self) -> list[dict[str, Any]]:
        """Every delta that is an object."""
        return [choice["delta"] for choice in self.choices if isinstance(choice.get("delta"), dict)]

    def text(self, index: int = 0) -> str:
        """What a choice said."""
        return "".join(
            choice["delta"]["content"]
            for choice in self.choices
            if choice.get("index", 0) == index
            and isinstance(choice.get("delta"), dict)
            and isinstance(choice["delta"].get("content"), str)
        )

    def finishes(self, index: int = 0) -> list[Any]:
        """Every finish_reason of a choice that is not null."""
        reasons = [choice.get("finish_reason") for choice in self.choices if choice.get("index", 0) == index]
        return [reason for reason in reasons if reason is not None]


def parse_events(body: bytes) -> tuple[Event, ...]:
    """Cut a body into events; what is left at its end is an event that is not whole."""
    events = []
    fields: list[tuple[str, str]] = []
    start = 0
    for match in _LINE_END.finditer(body):
        line = body[start : match.start()]
        start = match.end()
        if line:
            fields.append(_field(line))
        elif fields:
            events.append(Event(tuple(fields), True, start))
            fields = []
    if start < len(body):
        fields.append(_field(body[start:]))
    if fields:
        events.append(Event(tuple(fields), False, len(body)))
    return tuple(events)


def parse_stream(answer: Answer) -> Stream:
    """Read an answer as a stream; what is no JSON object is kept apart, for the row that is about it."""
    events = parse_events(answer.body.removeprefix(b"\xef\xbb\xbf"))
    chunks: list[dict[str, Any]] = []
    broken = []
    done = False
    for event in events:
        data = event.data
        if data is None or done:
            continue
        if data.strip() == DONE:
            done = True
            continue
        try:
            chunk = json.loads(data)
        except ValueError:
            chunk = None
        if isinstance(chunk, dict):
            chunks.append(chunk)
        else:
            broken.append(data)
    return Stream(answer, events, tuple(chunks), tuple(broken), done)


def _field(line: bytes) -> tuple[str, str]:
    name, _, value = line.decode("utf-8", "replace").partition(":")
    return name, value.removeprefix(" ")
