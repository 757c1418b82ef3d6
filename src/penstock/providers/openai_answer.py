"""Reads the answers of OpenAI-compatible servers: streams are passed on event by event, whole answers as they came.

A stream's events are looked into, not rewritten: each is decoded for what decides something (choices, finish, usage,
error), and a read whose events are all in order goes out as the very bytes that came in. Withheld are the usage event
until the end (clients lose usage when a chunk follows it), and [DONE], which `close` gives only if every choice has had
its finish_reason. Dropped are usage that the caller did not ask for, chunks without a choice, and all after [DONE].
Nor is an event decoded that differs from one that was in order in its text alone (`wire.form`).
An event that cannot be read ends the answer, or is left out where that is configured. What the official clients fail
on is mended (`wire.answer`, and `wire.completion` for whole answers); choices are begun in the order of their indexes.

An error in the answer ends it in ProviderFault. Before the commit point it is raised at once, so that the attempt
can be repeated elsewhere. Afterwards the events that came before it in the same read belong to the client: `feed`
returns them, sets `done`, and `close` raises. Nothing of a broken answer is echoed in a message.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

import msgspec
from msgspec import UNSET

from penstock.errors import Failure, FailureKind, ProviderFault, Refusal
from penstock.providers.openai_errors import failure_in_band
from penstock.types import Usage
from penstock.wire.answer import (
    BROKEN,
    Chunk,
    ChunkChoice,
    Delta,
    Mending,
    decode_chunk,
    decode_error,
    error_of,
    join_content,
    mend_chunk,
    misnamed_reasoning,
    usage_chunk,
)
from penstock.wire.completion import Completion, decode_completion, mend
from penstock.wire.envelope import error_event
from penstock.wire.finish import CUT, DOCUMENTED, finish_reason
from penstock.wire.form import Form, form_of
from penstock.wire.naming import Naming
from penstock.wire.sound import read as read_sound
from penstock.wire.sse import DONE, EventTooLarge, SseReader, event
from penstock.wire.tool_calls import CallMending, ToolCalls
from penstock.wire.usage import usage_of

MAX_STRAY_BYTES = 64 * 1024

_DONE = b"[DONE]"
_NULL_USAGE = b',"usage":null}'
_MOST_LOOKS = 8  # at a server whose events have no form
_AS_IT_IS = Mending()


def _fault(provider: str, words: str, kind: FailureKind = FailureKind.MALFORMED) -> ProviderFault:
    return ProviderFault(Failure(kind, f"The provider {provider!r} {words}."))


def _no_finish(provider: str) -> ProviderFault:
    return _fault(provider, "ended its answer without a finish_reason", FailureKind.INCOMPLETE)


def _given_up(provider: str, reason: str) -> ProviderFault:
    return _fault(provider, f"gave its answer up ({reason.lower()})", FailureKind.INCOMPLETE)


def _not_a_chunk(provider: str) -> ProviderFault:
    return _fault(provider, "sent an event that is not a chunk of a chat completion")


def _with_usage(data: bytes) -> bytes:
    """The chunk with the null that every chunk but the last has where usage was asked for."""
    return data.rstrip()[:-1] + _NULL_USAGE


def _says_something(delta: Delta) -> bool:
    return bool(
        delta.content
        or delta.refusal
        or delta.reasoning_content
        or delta.reasoning
        or delta.tool_calls
        or delta.function_call
    )


class _Body(Enum):
    """What the first bytes of an answer to a streamed request turned out to be."""

    UNKNOWN = 0
    EVENTS = 1
    JSON = 2


class StreamReader:
    """Reads one streamed answer; see `providers.base.Reader`."""

    __slots__ = (
        "_adds_usage",
        "_begun",
        "_beside",
        "_body",
        "_bound",
        "_calls",
        "_fault",
        "_finished",
        "_form",
        "_is_events",
        "_looks",
        "_n",
        "_naming",
        "_ordinary",
        "_provider",
        "_seen_event",
        "_skips",
        "_sse",
        "_stray",
        "_usage_asked",
        "_usage_event",
        "committed",
        "done",
        "finish",
        "usage",
        "whole",
    )

    aborts = False
    head = b""

    def __init__(
        self, provider: str, usage_asked: bool, n: int, naming: Naming, bound: bool = False, skips: bool = False
    ) -> None:
        """`bound`: the caller named a tool to call, and "stop" is then a right end of the call.

        `skips`: an event that cannot be read is left out, instead of ending the answer.
        """
        self.whole = False
        self.committed = False
        self.done = False
        self.usage: Usage | None = None
        self.finish = ""
        self._provider = provider
        self._usage_asked = usage_asked
        self._n = n
        self._naming = naming
        self._bound = bound
        self._skips = skips
        self._sse = SseReader()
        self._body = _Body.UNKNOWN
        self._is_events = False
        self._stray = b""
        self._seen_event = False
        self._begun = False
        self._finished: dict[int, bool] = {}  # the choices seen, by index
        self._usage_event = b""
        self._beside = False  # whether that usage stood beside choices
        self._calls: dict[int, ToolCalls] = {}
        self._fault: ProviderFault | None = None
        self._form: Form | None = None  # of the events that are passed on as they are
        self._adds_usage = False  # they lack the null that stands for it
        self._looks = 0  # how often a form was told from an event
        self._ordinary = False  # the last event added to a choice that is under way, and nothing else was in it

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes; return the events that the client may have now."""
        if self.done:
            return b""
        form = self._form
        if form is not None and self._sse.fresh and form.fits(data):
            return data[:-3] + _NULL_USAGE + b"\n\n" if self._adds_usage else data
        if not self._is_events and self._is_stray(data):
            return b""
        fault = None
        try:
            found = self._sse.feed(data)
        except EventTooLarge as error:
            found = error.events
            fault = _fault(self._provider, "sent an event that is too large")
        events, untouched = [], self._sse.plain
        self._ordinary = False
        try:
            for one in found:
                if len(one) < 16 and one.strip() == _DONE:
                    self.done, fault = True, None
                    untouched = False
                    break
                result = self._read(one)
                if result is not one:
                    untouched = False
                if result:
                    events.append(result)
        except ProviderFault as error:
            fault = error
        if fault is not None:
            if not self.committed:
                raise fault
            self._fault, self.done = fault, True
            untouched = False
        self.committed = self._begun
        if self._ordinary and len(found) == 1 and self._looks < _MOST_LOOKS and self._sse.plain:
            self._looks += 1
            self._adds_usage = not untouched  # the one thing that may be done to an event which is in order
            self._form = form_of(data) if untouched or data.endswith(b"}\n\n") else None
        return data if untouched else b"".join(map(event, events))

    def close(self) -> bytes:
        """The answer ended: return the usage event and [DONE], or raise ProviderFault if it is not whole."""
        if self._fault is not None:
            raise self._fault
        if self._body is _Body.JSON:
            raise self._stray_fault()
        rest = b"" if self.done else self._read_last()
        if not self._seen_event:
            raise _fault(self._provider, "answered a streamed request without any event")
        if not self._finished or not all(self._finished.values()):
            raise _no_finish(self._provider)
        self.done, self.committed = True, self._begun
        return rest + self._last_usage() + DONE

    def _last_usage(self) -> bytes:
        """The event with the usage, if the caller asked for it and the upstream reported any."""
        data = self._usage_event
        if not data:
            return b""
        try:
            return event(self._naming.mend(usage_chunk(data) if self._beside else data))
        except BROKEN:
            raise _not_a_chunk(self._provider) from None

    def error_event(self, refusal: Refusal) -> bytes:
        """The event that ends a stream in an error."""
        return error_event(refusal)

    def _read_last(self) -> bytes:
        """The event that lacks its blank line. Where it was cut off, what counts is whether the choices are whole."""
        finished = dict(self._finished)
        for one in self._sse.close():
            if one == _DONE:
                break
            try:
                result = self._read(one)
            except ProviderFault as fault:
                if fault.failure.kind is not FailureKind.MALFORMED:
                    raise
                self._finished = finished  # as it was: a finish in an event that is left out is none
                break
            return event(result) if result else b""
        return b""

    def _name(self, data: bytes) -> bytes:
        """The chunk under the names of its stream; b"" where it can have none."""
        try:
            return self._naming.mend(data)
        except BROKEN:
            raise _not_a_chunk(self._provider) from None

    def _read(self, data: bytes) -> bytes:
        """Note what one event says; return it, or it mended, or b"" where the client is not to get it."""
        self._seen_event = True
        given = data
        try:
            chunk = decode_chunk(data)
            if not data.isascii():
                data.decode()
        except BROKEN:
            try:
                data, chunk = self._read_parts(data)
            except ProviderFault:
                if self._skips:
                    return b""
                raise
        if chunk.error:
            raise ProviderFault(failure_in_band(self._provider, chunk.error))
        if not chunk.choices:
            return self._read_unchosen(data, chunk)
        naming = self._naming
        if not data.startswith(naming.before) or (naming.after and not data.endswith(naming.after)):
            data = self._name(data)
        usage = chunk.usage
        mendings: Sequence[Mending] = ()
        openings: Sequence[int] = ()
        for choice in chunk.choices:
            delta = choice.delta
            if (
                choice.index not in self._finished
                or delta is None
                or delta.role is not None
                or choice.finish_reason is not None
                or delta.reasoning
                or delta.tool_calls
                or not self._begun
            ):
                mendings, openings = self._study(chunk.choices)
                break
        else:
            self._ordinary = data is given and not usage and chunk.x_groq is None
        beside = False
        if usage or chunk.x_groq is not None:
            beside = self._note_usage(data, chunk)
        if mendings or beside:
            data = self._mend(data, mendings, openings, drop_usage=beside)
        return _with_usage(data) if usage is UNSET and self._usage_asked else data

    def _read_parts(self, data: bytes) -> tuple[bytes, Chunk]:
        """The chunk with its content joined, where what is wrong with it is content in parts."""
        try:
            data.decode()
            data = join_content(data)
            return data, decode_chunk(data)
        except (*BROKEN, ValueError):
            raise _not_a_chunk(self._provider) from None

    def _note_usage(self, data: bytes, chunk: Chunk) -> bool:
        """Note usage beside choices; whether it stands under the name that clients read, and is to be taken out.

        Some servers report running totals, which LangChain adds up; the last of them is given in a chunk of its own.
        """
        if not chunk.usage:
            self.usage = (usage_of(chunk.x_groq.get("usage")) if isinstance(chunk.x_groq, dict) else None) or self.usage
            return False
        counted = usage_of(chunk.usage)
        if counted is not None:
            self.usage = counted
            if self._usage_asked:
                self._usage_event, self._beside = data, True
        return True

    def _mend(
        self, data: bytes, mendings: Sequence[Mending] = (), openings: Sequence[int] = (), drop_usage: bool = False
    ) -> bytes:
        try:
            return mend_chunk(data, mendings, openings, drop_usage)
        except BROKEN:  # in a member that nothing had looked into before
            raise _not_a_chunk(self._provider) from None

    def _read_unchosen(self, data: bytes, chunk: Chunk) -> bytes:
        """A chunk without a choice: the usage event, an upstream's own notice, a bare error, or no chunk at all."""
        usage = None if chunk.usage is UNSET else chunk.usage
        if chunk.choices is None and usage is None:
            error = error_of(decode_error(data), alone=True)
            if error is not None:
                raise ProviderFault(failure_in_band(self._provider, error))
            return b""
        if usage is not None:
            self.usage = usage_of(usage) or self.usage
        if not self._usage_asked:
            return b""  # clients that did not ask for usage index into choices
        if usage is not None:
            self._usage_event, self._beside = (self._mend(data) if chunk.choices is None else data), False
            return b""
        named = self._name(data)
        return _with_usage(named) if named and chunk.usage is UNSET else named

    def _study(self, choices: Sequence[ChunkChoice]) -> tuple[Sequence[Mending], Sequence[int]]:
        """What is wrong with the choices of a chunk, nothing if all are in order, and which have to be begun first."""
        openings: list[int] = []
        mendings = [self._study_choice(choice, place, openings) for place, choice in enumerate(choices)]
        if all(mending is None for mending in mendings):
            return (), ()
        return [mending or _AS_IT_IS for mending in mendings], openings

    def _study_choice(self, choice: ChunkChoice, place: int, openings: list[int]) -> Mending | None:
        """Note a choice's beginning and end; say what is wrong with it, or None. Adds to `openings` what it skips."""
        index, delta = place if choice.index is None else choice.index, choice.delta
        role: bool | None = None
        if index not in self._finished:
            if not 0 <= index < self._n:
                raise _fault(self._provider, "numbered a choice beyond those that were asked for")
            skipped = [i for i in range(index) if i not in self._finished]
            openings += skipped
            self._finished.update(dict.fromkeys([*skipped, index], False))
            if delta is None or delta.role != "assistant":
                role = True
        elif delta is not None and delta.role is not None:
            role = False
        calls = self._study_calls(index, delta.tool_calls) if delta is not None and delta.tool_calls else None
        finish = choice.finish_reason is not None and (not choice.finish_reason or self._finished[index])
        reason: str | None = None
        bare: tuple[int, ...] = ()
        if choice.finish_reason and not finish:
            reason, bare = self._study_end(index, choice.finish_reason)
        self._begun = self._begun or bool(choice.finish_reason) or (delta is not None and _says_something(delta))
        sound = role is None and not finish and reason is None and not openings and calls is None and not bare
        if sound and delta is not None and choice.index is not None and not misnamed_reasoning(delta):
            return None
        return Mending(role, finish, None if choice.index == index else index, reason, calls, bare)

    def _study_end(self, index: int, found: str) -> tuple[str | None, tuple[int, ...]]:
        """Note the end of a choice.

        The finish_reason in place of the server's own, or None where that is right, and the calls whose arguments never
        came: none are an empty object, unless the answer was cut off.
        """
        self._finished[index] = True
        documented = found if found in DOCUMENTED else finish_reason(found)
        if documented is None:
            raise _given_up(self._provider, found)
        calls = self._calls.get(index)
        bare: tuple[int, ...] = ()
        if calls is not None:
            if calls.nameless:
                raise _fault(self._provider, "called a tool without naming it")
            if documented == "stop" and not self._bound:
                documented = "tool_calls"
            bare = calls.bare if documented not in CUT else ()
        self.finish = documented
        self.whole = len(self._finished) == self._n and all(self._finished.values())
        return None if documented == found else documented, bare

    def _study_calls(self, index: int, deltas: Any) -> tuple[CallMending, ...] | None:
        calls = self._calls.get(index)
        if calls is None:
            calls = self._calls[index] = ToolCalls()
        try:
            return calls.study(deltas)
        except ValueError:
            raise _not_a_chunk(self._provider) from None

    def _is_stray(self, data: bytes) -> bool:
        """Whether the answer is a JSON body, which is collected; HTML is refused at once."""
        if self._body is _Body.UNKNOWN:
            first = data.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
            if first == b"<":
                raise _fault(self._provider, "answered with HTML")
            if first:
                self._body = _Body.JSON if first == b"{" else _Body.EVENTS
        if self._body is not _Body.JSON:
            self._is_events = self._body is _Body.EVENTS
            return False
        self._stray += data
        if len(self._stray) > MAX_STRAY_BYTES:
            raise _fault(self._provider, "answered a streamed request with a JSON body")
        return True

    def _stray_fault(self) -> ProviderFault:
        try:
            error = error_of(decode_error(self._stray.lstrip(b"\xef\xbb\xbf")), alone=b'"choices"' not in self._stray)
        except BROKEN:
            error = None
        if error is not None:
            return ProviderFault(failure_in_band(self._provider, error))
        return _fault(self._provider, "answered a streamed request with a JSON body")


class BodyReader(msgspec.Struct, eq=False, gc=False):
    """Reads one whole answer; see `providers.base.Reader`. The caller bounds how much it feeds.

    `_model`: the one asked for; `_now`: Unix seconds; `_bound`: see `StreamReader`.
    """

    aborts = False
    head = b""
    whole = False

    _provider: str
    _model: str
    _now: Callable[[], float]
    _bound: bool = False
    committed: bool = False
    done: bool = False
    usage: Usage | None = None
    finish: str = ""
    _first: bytes = b""
    _rest: bytearray | None = None  # not a list of pieces, whose number the upstream decides

    def feed(self, data: bytes) -> bytes:
        """Keep the bytes until the answer is whole."""
        if not self._first:
            self._first = data
        elif self._rest is None:
            self._rest = bytearray(data)
        else:
            self._rest += data
        return b""

    def close(self) -> bytes:
        """The answer ended: return it, or raise ProviderFault if it is no chat completion."""
        body = self._first + self._rest if self._rest else self._first
        sound = read_sound(body, self._bound)
        if sound is not None:
            self.usage, self.finish = sound
            self.committed = self.done = True
            return body
        try:
            answer = decode_completion(body)
            if not body.isascii():
                body.decode()
        except BROKEN:
            raise _fault(self._provider, _name_body(body)) from None
        error = error_of(answer, alone=answer.choices is None)
        if error is not None:
            raise ProviderFault(failure_in_band(self._provider, error))
        self._check(answer)
        try:
            body = mend(body, answer, self._model, self._now(), self._bound)
        except (*BROKEN, ValueError):
            raise _fault(self._provider, _name_body(body)) from None
        self.usage = usage_of(answer.usage)
        self.committed = self.done = True
        return body

    def error_event(self, refusal: Refusal) -> bytes:
        """The event that ends a stream in an error."""
        return error_event(refusal)

    def _check(self, answer: Completion) -> None:
        """Refuse an answer that is not whole."""
        if not answer.choices:
            raise _fault(self._provider, "answered without choices")
        for choice in answer.choices:
            if choice.message is None:
                raise _fault(self._provider, "answered with a choice that has no message")
            if not choice.finish_reason:
                raise _no_finish(self._provider)
            documented = finish_reason(choice.finish_reason)
            if documented is None:
                raise _given_up(self._provider, choice.finish_reason)
            self.finish = documented


def _name_body(body: bytes) -> str:
    """What an unusable body looks like, in words."""
    start = body.lstrip(b"\xef\xbb\xbf \t\r\n")
    if not start:
        return "gave an empty answer"
    if start.startswith(b"<"):
        return "answered with HTML"
    if start.startswith(b"data:"):
        return "answered with an event stream where a JSON body was asked for"
    if start.startswith(b"{"):
        return "gave an answer that is cut short or is not a chat completion"
    return "gave an answer that is not JSON"
