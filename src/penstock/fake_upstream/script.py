"""Scripts: what the fake upstream answers, as values that come from a TOML or JSON file or from Python.

A script maps a model's name, or a path, to a list of answers that are used in turn; the last one repeats. It may limit
the rate of requests, too.
Waits are numbers (seconds), the name of a gate that a test opens, or "forever". Reading a file collects every
error, each with the place where it stands; an unknown field is an error.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from penstock.fake_upstream.faults import FAULTS
from penstock.fake_upstream.pieces import Wait

FOREVER = "forever"
ANY = "*"

_WAITS = ("wait", "wait_first", "between")

Sizes = tuple[int, ...]


class ScriptError(Exception):
    """A script that cannot be used; `errors` names every place at fault."""

    def __init__(self, errors: list[str]) -> None:
        super().__init__("\n".join(errors))
        self.errors = errors


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What every part of a script has in common."""


class Tokens(Strict, frozen=True):
    """The usage that an answer reports; `total_tokens` is the sum of the first two."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    reasoning: int = 0


class Fault(Strict, frozen=True):
    """OpenAI's error envelope."""

    message: str
    type: str = "invalid_request_error"
    param: str | None = None
    code: str | None = None


class Chunk(Strict, frozen=True):
    """One event of a stream, after `wait`: a text or reasoning delta, or bytes of the script's own.

    `data` is sent as ``data: ...`` and a blank line, `raw` verbatim: any chunk, an in-band error, a comment.
    """

    text: str | None = None
    reasoning: str | None = None
    data: str | None = None
    raw: str | None = None
    wait: Wait = 0.0

    def __post_init__(self) -> None:
        if sum(field is not None for field in (self.text, self.reasoning, self.data, self.raw)) != 1:
            raise ValueError("a chunk has exactly one of text, reasoning, data and raw")
        check_wait("wait", self.wait)


class Cut(Strict, frozen=True):
    """Break the body off after so many bytes or events, and `wait`: close, reset (RST) or stall (send nothing more).

    Counted before HTTP chunk framing. A body that ends sooner is cut at its end, before the framing's own end.
    """

    after_bytes: int | None = None
    after_events: int | None = None
    how: Literal["close", "reset", "stall"] = "close"
    wait: Wait = 0.0

    def __post_init__(self) -> None:
        check_wait("wait", self.wait)
        given = [count for count in (self.after_bytes, self.after_events) if count is not None]
        if len(given) != 1 or given[0] < 0:
            raise ValueError("a cut has exactly one of after_bytes and after_events, 0 or more")


class ToolCall(Strict, frozen=True):
    """One call that an answer makes. `name`: default, the request's tools in turn; `id`: made.

    `kind`: a custom tool's call has `arguments` as its input; a legacy one is the message's `function_call`.
    """

    name: str | None = None
    arguments: str = "{}"
    id: str | None = None
    kind: Literal["function", "custom", "legacy"] = "function"


class Answer(Strict, frozen=True):
    """One answer; every field has a default, so that ``Answer()`` is a plain, correct one.

    What is said:  `status`; `headers` (added to ours, replacing those of the same name; an empty value removes
        one); `retry_after` (seconds); `error` (default for a status of 400 and more: OpenAI's for that status);
        `body` or `body_bytes` (base64 in a file) instead of an OpenAI object; `raw` or `raw_bytes`: every byte of
        the answer, head included.
    Of a completion: `content`; `chunks` (default: a chunk per word); `tool_calls` (then without content, if none is
        given, and "stop" becomes "tool_calls"); `finish_reason` ("" for none); `usage`
        (default: counted by words) and whether it is reported when asked, always or never; `id`; `model`; `role`
        (whether the first delta has it); `done` (``[DONE]``); `final_blank_line` (after the last event);
        `faults`: what else is wrong with it, by the names of `fake_upstream.faults`; `prefix`: what is made of a
        conversation whose last message is the assistant's: an answer to it like to any other, the rest of this answer,
        or a refusal.
    When:  `wait` before the head, `wait_first` between head and body, `between` chunks.
    How it is cut up:  `http` version; `framing` by content-length, chunked or close; `chunk_sizes` of HTTP chunks;
        `write`: a write per event, one for the whole answer, or of given sizes (the last repeats, and a wait
        flushes what is held).
    How it ends:  `cut`; `end`: keep the connection, announce and close, drop it unannounced, or reset it.
    """

    status: int = 200
    headers: dict[str, str] = {}
    retry_after: float | None = None
    error: Fault | None = None
    body: str | None = None
    body_bytes: bytes | None = None
    raw: str | None = None
    raw_bytes: bytes | None = None
    content: str | None = None
    chunks: tuple[str | Chunk, ...] | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str = "stop"
    usage: Tokens | None = None
    report_usage: Literal["asked", "always", "never"] = "asked"
    id: str | None = None
    model: str | None = None
    role: bool = True
    done: bool = True
    final_blank_line: bool = True
    faults: tuple[str, ...] = ()
    prefix: Literal["ignore", "continue", "refuse"] = "ignore"
    wait: Wait = 0.0
    wait_first: Wait = 0.0
    between: Wait = 0.0
    http: Literal["1.1", "1.0"] = "1.1"
    framing: Literal["auto", "length", "chunked", "close"] = "auto"
    chunk_sizes: Sizes = ()
    write: Literal["events", "whole"] | Sizes = "events"
    cut: Cut | None = None
    end: Literal["keep", "close", "drop", "reset"] = "keep"

    def __post_init__(self) -> None:
        for name in _WAITS:
            check_wait(name, getattr(self, name))
        if not 100 <= self.status <= 999:
            raise ValueError("status must be a number of three digits")
        for size in (*self.chunk_sizes, *(self.write if isinstance(self.write, tuple) else ())):
            if size < 1:
                raise ValueError("sizes must be 1 or more")
        sources = {"body": self.body, "body_bytes": self.body_bytes, "raw": self.raw, "raw_bytes": self.raw_bytes}
        given = [name for name, value in sources.items() if value is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other")
        for name in self.faults:
            if name not in FAULTS:
                raise ValueError(f"there is no fault {name!r}")
        for name, value in self.headers.items():
            if not name or not f"{name}{value}".isprintable():
                raise ValueError(f"header {name!r}: neither name nor value may hold control characters; use raw")


class Rate(Strict, frozen=True):
    """How many requests to models are answered; the others get 429.

    `burst`: how many at once (default: those of a second); `refill`: steadily, or all of them again with each window,
    which is as long as `burst` lasts. `retry_after`: whether a 429 says when to come back; `headers`: whether answers
    say what is left, in `x-ratelimit-*-requests`.
    """

    per_second: float
    burst: int | None = None
    refill: Literal["steady", "window"] = "steady"
    retry_after: bool = True
    headers: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.per_second < float("inf"):
            raise ValueError("per_second must be above 0")
        if self.burst is not None and self.burst < 1:
            raise ValueError("burst must be 1 or more")


class Script(Strict, frozen=True):
    """Answers by model name (exact, then ``*``) for chat completions, and by path for any other request.

    A path is looked up first, so that it can answer for every model. `rate` limits the requests to models.
    """

    models: dict[str, tuple[Answer, ...]] = {}
    paths: dict[str, tuple[Answer, ...]] = {}
    rate: Rate | None = None


def check_wait(name: str, wait: Wait) -> None:
    """Raise ValueError for a time that cannot pass, or a gate without a name."""
    if wait == "" or (not isinstance(wait, str) and not 0 <= wait < float("inf")):
        raise ValueError(f"{name} must be seconds, a gate's name or {FOREVER!r}")


_Part = TypeVar("_Part")


def load(path: Path) -> Script:
    """Read a script from a .toml or .json file; raises ScriptError. Its waits are numbers, or "forever"."""
    try:
        text = path.read_text("utf-8")
        data = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise ScriptError([f"{path}: {error}"]) from error
    try:
        script = parse(data)
    except ScriptError as error:
        raise ScriptError([f"{path}: {line}" for line in error.errors]) from None
    gates = [
        f"{path}: {where}: a wait is a number of seconds, or {FOREVER!r}, not {name!r}"
        for where, name in _gates(data, "")
    ]
    if gates:  # only a test that holds the server can open one
        raise ScriptError(gates)
    return script


def _gates(value: Any, where: str) -> Iterator[tuple[str, str]]:
    """The waits, in the plain values of a script, that are names of gates."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        at = f"{where}.{key}" if where else str(key)
        if key in _WAITS and isinstance(inner, str):
            if inner != FOREVER:
                yield at, inner
        elif key != "headers":
            yield from _gates(inner, at)


def parse(data: Any) -> Script:
    """Validate plain values; raises ScriptError with every error in them."""
    if not isinstance(data, dict):
        raise ScriptError(["a script is a table with `models`, `paths` and `rate`"])
    known = {"models", "paths", "rate"}
    errors = [f"unknown table `{name}`: a script has `models`, `paths` and `rate`" for name in data.keys() - known]
    groups = {name: _group(name, data.get(name, {}), errors) for name in ("models", "paths")}
    rate = _rate(data.get("rate"), errors)
    if errors:
        raise ScriptError(errors)
    return Script(**groups, rate=rate)


def _rate(table: Any, errors: list[str]) -> Rate | None:
    try:
        return None if table is None else msgspec.convert(table, Rate)
    except msgspec.ValidationError as error:
        errors.append(f"rate: {error}")
        return None


def _group(group: str, table: Any, errors: list[str]) -> dict[str, tuple[Answer, ...]]:
    if not isinstance(table, dict):
        errors.append(f"{group}: must be a table")
        return {}
    return {str(name): tuple(_answers(f"{group}.{json.dumps(name)}", items, errors)) for name, items in table.items()}


def _answers(place: str, items: Any, errors: list[str]) -> Iterator[Answer]:
    if not isinstance(items, list) or not items:
        errors.append(f"{place}: must be a list of at least one answer")
        return
    for index, item in enumerate(items):
        try:
            answer = msgspec.convert(item, Answer)
        except msgspec.ValidationError as error:
            errors.append(f"{place}[{index}]: {error}")
        else:
            yield answer
