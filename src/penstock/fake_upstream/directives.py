"""Answers by model name, for users without a script: ``fake-chunks-20-every-50ms-reset-5``.

After ``fake-`` come words, each with one value: a row of the table below.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from penstock.fake_upstream.faults import FAULTS
from penstock.fake_upstream.script import FOREVER, Answer, Cut, ToolCall

PREFIX = "fake-"
MAX_CHUNKS = 100_000
MAX_CALLS = 128


class DirectiveError(Exception):
    """A name that begins with ``fake-`` and is not understood."""


def _count(value: str) -> int:
    if not value.isascii() or not value.isdigit() or len(value) > 9:
        raise DirectiveError(f"{value!r} is not a number")
    return int(value)


def _seconds(value: str) -> float | str:
    if value == FOREVER:
        return FOREVER
    match = re.fullmatch(r"(\d{1,9})(ms|s)", value, re.ASCII)
    if match is None:
        raise DirectiveError(f"{value!r} is not a time: write 500ms, 2s or {FOREVER}")
    return int(match[1]) / (1000 if match[2] == "ms" else 1)


def _status(value: str) -> dict[str, Any]:
    status = _count(value)
    if not 200 <= status <= 599:
        raise DirectiveError(f"{value!r} is not a status")
    return {"status": status}


def _chunks(value: str) -> dict[str, Any]:
    count = _count(value)
    if not 1 <= count <= MAX_CHUNKS:
        raise DirectiveError(f"chunks must be 1 to {MAX_CHUNKS}")
    return {"chunks": tuple(f"word{number} " for number in range(1, count + 1))}


def _calls(value: str) -> dict[str, Any]:
    count = _count(value)
    if not 1 <= count <= MAX_CALLS:
        raise DirectiveError(f"calls must be 1 to {MAX_CALLS}")
    return {"tool_calls": (ToolCall(),) * count}


def _faults(value: str) -> dict[str, Any]:
    names = tuple(value.split("+"))
    for name in names:
        if name not in FAULTS:
            raise DirectiveError(f"there is no fault {name!r}")
    return {"faults": names}


WORDS: dict[str, tuple[Callable[[str], dict[str, Any]], str]] = {
    "status": (_status, "answer with this status and OpenAI's error for it"),
    "after": (lambda value: {"retry_after": _count(value)}, "retry-after, in seconds"),
    "slow": (lambda value: {"wait": _seconds(value)}, "wait before the response head"),
    "first": (lambda value: {"wait_first": _seconds(value)}, "wait between the head and the first event"),
    "every": (lambda value: {"between": _seconds(value)}, "wait between chunks"),
    "chunks": (_chunks, "answer in so many chunks"),
    "calls": (_calls, "call so many of the request's tools, in turn"),
    "fault": (_faults, "do these things wrong, by name, joined by +"),
    "cut": (lambda value: {"cut": Cut(after_events=_count(value))}, "close the connection after so many events"),
    "reset": (lambda value: {"cut": Cut(after_events=_count(value), how="reset")}, "reset it after so many events"),
    "stall": (lambda value: {"cut": Cut(after_events=_count(value), how="stall")}, "fall silent after so many events"),
}


def _changes(text: str) -> Iterator[dict[str, Any]]:
    parts = text.split("-")
    if len(parts) % 2:
        raise DirectiveError("every word takes one value")
    for word, value in zip(parts[::2], parts[1::2], strict=True):
        if word not in WORDS:
            raise DirectiveError(f"unknown word {word!r}: the words are {', '.join(WORDS)}")
        yield WORDS[word][0](value)


def answer(name: str, default: Answer) -> Answer | None:
    """The answer that the model `name` asks for, or None when it is no directive; raises DirectiveError."""
    if not name.startswith(PREFIX):
        return None
    for change in _changes(name.removeprefix(PREFIX)):
        default = msgspec.structs.replace(default, **change)
    return default
