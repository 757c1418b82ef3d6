"""Reads the answers of OpenAI-compatible servers: streams are passed on event by event, whole answers as they came.

A stream's events are looked into, not rewritten: each is decoded for what decides something (choices, finish, usage,
error), and a read whose events are all in order goes out as the very bytes that came in. Withheld are the usage event
until the end (clients lose usage when a chunk follows it), and [DONE], which `close` gives only if every choice has had
its finish_reason. Dropped are usage that the caller did not ask for, chunks without a choice, and all after [DONE].
What the official clients fail on is mended (`wire.answer`, and `wire.completion` for whole answers); choices are begun
in the order of their indexes.

An error in the answer ends it in ProviderFault. Before the commit point it is raised at once, so that the attempt
can be repeated elsewhere. Afterwards the events that came before it in the same read belong to the client: `feed`
returns them, sets `done`, and `close` raises. Nothing of a broken answer is echoed in a message.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

from msgspec import UNSET

from penstock.errors import Failure, FailureKind, ProviderFault, Refusal
from penstock.providers.openai_errors import failure_in_band
from penstock.types import Usage
from penstock.wire.answer import (
    BROKEN,
    Chunk,
    ChunkChoice,
    Mending,
    decode_chunk,
    error_of,
    mend_chunk,
    misnamed_reasoning,
)
from penstock.wire.completion import Completion, decode_completion, is_sound, mend
from penstock.wire.envelope import error_event
from penstock.wire.finish import DOCUMENTED, finish_reason
from penstock.wire.naming import Naming
from penstock.wire.sse import DONE, EventTooLarge, SseReader, event
from penstock.wire.tool_calls import CallMending, ToolCalls
from penstock.wire.usage import usage_of

MAX_STRAY_BYTES = 64 * 1024

_DONE = b"[DONE]"
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
    return data.rstrip()[:-1] + b',"usage":null}'


class _Body(Enum):
    """What the first bytes of an answer to a streamed request turned out to be."""

    UNKNOWN = 0
    EVENTS = 1
    JSON = 2


class StreamReader:
    """Reads one streamed answer; see `providers.base.Reader`."""

    __slots__ = (
        "_begun",
        "_body",
        "_calls",
        "_fault",
        "_finished",
        "_n",
        "_naming",
        "_provider",
        "_seen_event",
        "_sse",
        "_stray",
        "_usage_asked",
        "_usage_event",
        "committed",
        "done",
        "usage",
    )

    aborts = False
    head = b""

    def __init__(self, provider: str, usage_asked: bool, n: int, naming: Naming) -> None:
        self.committed = False
        self.done = False
        self.usage: Usage | None = None
        self._provider = provider
        self._usage_asked = usage_asked
        self._n = n
        self._naming = naming
        self._sse = SseReader()
        self._body = _Body.UNKNOWN
        self._stray = b""
        self._seen_event = False
        self._begun = False
        self._finished: dict[int, bool] = {}  # the choices seen, by index
        self._usage_event = b""
        self._calls: dict[int, ToolCalls] = {}
        self._fault: ProviderFault | None = None

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes; return the events that the client may have now."""
        if self.done:
            return b""
        if self._body is not _Body.EVENTS and self._is_stray(data):
            return b""
        fault = None
        try:
            found = self._sse.feed(data)
        except EventTooLarge as error:
            found = error.events
            fault = _fault(self._provider, "sent an event that is too large")
        events, untouched, naming = [], self._sse.plain, self._naming
        try:
            for one in found:
                if len(one) < 16 and one.strip() == _DONE:
                    self.done, fault = True, None
                    untouched = False
                    break
                result = self._read(one)
                if result and not (result.startswith(naming.before) and result.endswith(naming.after)):
                    result = self._name(result)
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
        usage = event(self._name(self._usage_event)) if self._usage_event else b""
        return rest + usage + DONE

    def error_event(self, refusal: Refusal) -> bytes:
        """The event that ends a stream in an error."""
        return error_event(refusal)

    def _read_last(self) -> bytes:
        """The event that lacks its blank line. Where it was cut off, what counts is whether the choices are whole."""
        for one in self._sse.close():
            if one == _DONE:
                break
            try:
                result = self._read(one)
            except ProviderFault as fault:
                if fault.failure.kind is not FailureKind.MALFORMED:
                    raise
                break
            return event(self._name(result)) if result else b""
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
        try:
            chunk = decode_chunk(data)
            if not data.isascii():
                data.decode()
        except BROKEN:
            raise _not_a_chunk(self._provider) from None
        if chunk.error or chunk.object == "error":
            raise ProviderFault(failure_in_band(self._provider, error_of(chunk)))
        usage = None if chunk.usage is UNSET else chunk.usage
        if usage is not None:
            self.usage = usage_of(usage) or self.usage
        elif isinstance(chunk.x_groq, dict):
            self.usage = usage_of(chunk.x_groq.get("usage")) or self.usage
        if not chunk.choices:
            return self._read_unchosen(data, chunk)
        mendings: list[Mending] | None = None
        openings: list[int] = []
        for place, choice in enumerate(chunk.choices):
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
                mending = self._study(choice, openings)
                if mending is not None:
                    if mendings is None:
                        mendings = [_AS_IT_IS] * len(chunk.choices)
                    mendings[place] = mending
        drop_usage = usage is not None and not self._usage_asked
        if mendings is not None or drop_usage:
            data = self._mend(data, mendings or (), openings, drop_usage)
        return _with_usage(data) if chunk.usage is UNSET and self._usage_asked else data

    def _mend(
        self, data: bytes, mendings: Sequence[Mending] = (), openings: Sequence[int] = (), drop_usage: bool = False
    ) -> bytes:
        try:
            return mend_chunk(data, mendings, openings, drop_usage)
        except BROKEN:  # in a member that nothing had looked into before
            raise _not_a_chunk(self._provider) from None

    def _read_unchosen(self, data: bytes, chunk: Chunk) -> bytes:
        """A chunk without a choice: the usage event, an upstream's own notice, or no chunk at all."""
        if not self._usage_asked:
            return b""  # clients that did not ask for usage index into choices
        if chunk.usage is not UNSET and chunk.usage is not None:
            self._usage_event = self._mend(data) if chunk.choices is None else data
            return b""
        if chunk.choices is None:
            return b""
        return _with_usage(data) if chunk.usage is UNSET else data

    def _study(self, choice: ChunkChoice, openings: list[int]) -> Mending | None:
        """Note a choice's beginning and end; say what is wrong with it, or None. Adds to `openings` what it skips."""
        index, delta = choice.index, choice.delta
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
        finish = choice.finish_reason is not None and (not choice.finish_reason or self._finished[index])
        reason = None
        if choice.finish_reason:
            if choice.finish_reason not in DOCUMENTED:
                reason = self._documented(choice.finish_reason)
            self._finished[index] = True
        if not self._begun:
            self._begun = bool(choice.finish_reason) or (
                delta is not None
                and bool(
                    delta.content
                    or delta.refusal
                    or delta.reasoning_content
                    or delta.reasoning
                    or delta.tool_calls
                    or delta.function_call
                )
            )
        calls = self._study_calls(index, delta.tool_calls) if delta is not None and delta.tool_calls else None
        sound = role is None and not finish and reason is None and not openings and calls is None
        if sound and delta is not None and not misnamed_reasoning(delta):
            return None
        return Mending(role, finish, reason, calls)

    def _documented(self, reason: str) -> str:
        documented = finish_reason(reason)
        if documented is None:
            raise _given_up(self._provider, reason)
        return documented

    def _study_calls(self, index: int, deltas: Any) -> tuple[CallMending, ...] | None:
        try:
            return self._calls.setdefault(index, ToolCalls()).study(deltas)
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
            return False
        self._stray += data
        if len(self._stray) > MAX_STRAY_BYTES:
            raise _fault(self._provider, "answered a streamed request with a JSON body")
        return True

    def _stray_fault(self) -> ProviderFault:
        try:
            error = error_of(decode_completion(self._stray.lstrip(b"\xef\xbb\xbf")))
        except BROKEN:
            error = None
        if error is not None:
            return ProviderFault(failure_in_band(self._provider, error))
        return _fault(self._provider, "answered a streamed request with a JSON body")


class BodyReader:
    """Reads one whole answer; see `providers.base.Reader`. The caller bounds how much it feeds."""

    __slots__ = ("_model", "_now", "_parts", "_provider", "committed", "done", "usage")

    aborts = False
    head = b""

    def __init__(self, provider: str, model: str, now: Callable[[], float]) -> None:
        self.committed = False
        self.done = False
        self.usage: Usage | None = None
        self._provider = provider
        self._model = model
        self._now = now
        self._parts: list[bytes] = []

    def feed(self, data: bytes) -> bytes:
        """Keep the bytes until the answer is whole."""
        self._parts.append(data)
        return b""

    def close(self) -> bytes:
        """The answer ended: return it, or raise ProviderFault if it is no chat completion."""
        parts = self._parts
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        try:
            answer = decode_completion(body)
            if not body.isascii():
                body.decode()
        except BROKEN:
            raise _fault(self._provider, _name_body(body)) from None
        error = error_of(answer)
        if error is not None:
            raise ProviderFault(failure_in_band(self._provider, error))
        self._check(answer)
        if not is_sound(answer):
            try:
                body = mend(body, answer, self._model, self._now())
            except BROKEN:
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
            if finish_reason(choice.finish_reason) is None:
                raise _given_up(self._provider, choice.finish_reason)


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
