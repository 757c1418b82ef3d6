"""Reads the answers of OpenAI-compatible servers to embeddings, legacy completions and responses.

Whole answers go out as they came, once it is certain that they are what was asked for. Streams go out event by event,
each one's data byte for byte; nothing is mended in them, since no client was seen to fail on what servers send here.
Withheld are the usage event and ``[DONE]`` of completions, and the terminal event of responses, so that what a client
has whole is on record. As in chat (see `openai_answer`), an error before the commit point is raised at once, one after
it once the events before it are delivered, and a stream that stops without its end is an error, never an answer.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import msgspec

from penstock.errors import Failure, FailureKind, InvalidRequest, ProviderFault, Refusal
from penstock.providers.base import Reader
from penstock.providers.openai_errors import failure_in_band
from penstock.types import Usage
from penstock.wire.answer import BROKEN, decode_any
from penstock.wire.envelope import envelope, error_event
from penstock.wire.finish import finish_reason
from penstock.wire.neighbours import NeighbourRequest
from penstock.wire.patch import patch
from penstock.wire.response import (
    ERROR,
    FAILED,
    NULL,
    OPENING,
    TERMINAL,
    ResponseEvent,
    decode_event,
    decode_response,
    response_usage,
    typed_error,
    typed_event,
)
from penstock.wire.sse import DONE, EventTooLarge, SseReader, event
from penstock.wire.usage import usage_of

MAX_STRAY_BYTES = 64 * 1024
MAX_CHOICES = 8192  # of a stream: what is known of each is kept to its end

_DONE = b"[DONE]"
_NO_USAGE = Usage()
_SOME = re.compile(rb"\[[ \t\r\n]*[^\] \t\r\n]")  # how an array begins that holds something


class _TextChoice(msgspec.Struct, gc=False):
    text: Any = None
    index: int = 0
    finish_reason: Any = None


class _Text(msgspec.Struct, gc=False):
    """A text completion or a chunk of one: OpenAI gives both the same shape."""

    choices: list[_TextChoice] | None = None
    usage: Any = None
    error: Any = None


class _Embeddings(msgspec.Struct, gc=False):
    data: msgspec.Raw = NULL
    usage: Any = None
    error: Any = None


_decode_text = msgspec.json.Decoder(_Text).decode
_decode_embeddings = msgspec.json.Decoder(_Embeddings).decode


def neighbour_reader(provider: str, asked: NeighbourRequest) -> Reader:
    """A reader for the answer to this request."""
    if not asked.stream:
        return WholeReader(provider, _WHOLE[asked.endpoint])
    if asked.endpoint == "responses":
        return ResponseStream(provider)
    return TextStream(provider, asked.include_usage)


def _fault(provider: str, words: str, kind: FailureKind = FailureKind.MALFORMED) -> ProviderFault:
    return ProviderFault(Failure(kind, f"The provider {provider!r} {words}."))


def _incomplete(provider: str, lacks: str) -> ProviderFault:
    return _fault(provider, f"ended its answer without {lacks}", FailureKind.INCOMPLETE)


def _finish(provider: str, choice: _TextChoice) -> str:
    """How a choice ended, empty if it did not say. Refuses one that was given up: its text is not whole."""
    found = choice.finish_reason
    if not found or not isinstance(found, str):
        return ""
    documented = finish_reason(found)
    if documented is None:
        raise _fault(provider, f"gave its answer up ({found.lower()})", FailureKind.INCOMPLETE)
    return documented


def _reported(provider: str, error: Any) -> Failure:
    """What an error in an answer means. One that is the caller's own is told in the whole of OpenAI's envelope."""
    failure = failure_in_band(provider, error)
    text = error.get("message") if isinstance(error, dict) else None
    if failure.kind is not FailureKind.INVALID or not isinstance(text, str):
        return failure
    param, code = (value if isinstance(value, str) else None for value in (error.get("param"), error.get("code")))
    return msgspec.structs.replace(failure, body=envelope(InvalidRequest(text, param=param, code=code)))


# -- whole answers: what each must hold, what it cost, and how its last choice ended

_Read = tuple[Usage | None, str]


def _read_embeddings(provider: str, body: bytes) -> _Read:
    found = _decode_embeddings(body)
    if found.error:
        raise ProviderFault(_reported(provider, found.error))
    if _SOME.match(memoryview(found.data)) is None:
        raise _fault(provider, "answered without embeddings")
    return usage_of(found.usage), ""


def _read_text(provider: str, body: bytes) -> _Read:
    found = _decode_text(body)
    if found.error:
        raise ProviderFault(_reported(provider, found.error))
    if not found.choices:
        raise _fault(provider, "answered without choices")
    finish = ""
    for choice in found.choices:
        if not choice.finish_reason:
            raise _incomplete(provider, "a finish_reason")
        finish = _finish(provider, choice)
    return usage_of(found.usage), finish


def _read_response(provider: str, body: bytes) -> _Read:
    found = decode_response(body)
    if found is not None and found.error:
        raise ProviderFault(_reported(provider, found.error))
    if found is None or found.output == NULL:
        raise _fault(provider, "answered without output")
    return response_usage(found.usage), ""


_WHOLE: dict[str, Callable[[str, bytes], _Read]] = {
    "embeddings": _read_embeddings,
    "completions": _read_text,
    "responses": _read_response,
}


class WholeReader:
    """Reads one whole answer; see `providers.base.Reader`. The caller bounds how much it feeds."""

    __slots__ = ("_body", "_provider", "_read", "committed", "done", "finish", "usage")

    aborts = False
    head = b""
    whole = False

    def __init__(self, provider: str, read: Callable[[str, bytes], _Read]) -> None:
        self.committed = False
        self.done = False
        self.usage: Usage | None = None
        self.finish = ""
        self._provider = provider
        self._read = read
        self._body = bytearray()

    def feed(self, data: bytes) -> bytes:
        """Keep the bytes until the answer is whole."""
        self._body += data
        return b""

    def close(self) -> bytes:
        """The answer ended: return it, or raise ProviderFault if it is not what was asked for."""
        body = bytes(self._body)
        try:
            self.usage, self.finish = self._read(self._provider, body)
            if not body.isascii():
                body.decode()
        except BROKEN:
            raise _fault(self._provider, "gave an answer that is cut short or not of the form asked for") from None
        self.committed = self.done = True
        return body

    def error_event(self, refusal: Refusal) -> bytes:
        """The event that ends a stream in an error."""
        return error_event(refusal)


# -- streams


class _Stream(ABC):
    """What both kinds of stream have in common; see `providers.base.Reader`."""

    aborts = False
    finish = ""
    head = b""
    whole = False

    def __init__(self, provider: str) -> None:
        self.committed = False
        self.done = False
        self.usage: Usage | None = None
        self._provider = provider
        self._sse = SseReader()
        self._begun = False
        self._seen_event = False
        self._stray = b""  # what came while it was not sure that this is a stream of events
        self._fault: ProviderFault | None = None

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes; return the events that the client may have now."""
        if self.done:
            return b""
        if not self._seen_event and len(self._stray) < MAX_STRAY_BYTES:
            self._stray += data
        fault = None
        try:
            found = self._sse.feed(data)
        except EventTooLarge as error:
            found, fault = error.events, _fault(self._provider, "sent an event that is too large")
        events = []
        try:
            for one in found:
                events.append(self._take(one))
                if self.done:
                    fault = None
                    break
        except ProviderFault as error:
            fault = error
        if fault is not None:
            if not self.committed:
                raise fault
            self._fault, self.done = fault, True
        self.committed = self._begun
        return b"".join(events)

    def close(self) -> bytes:
        """The answer ended: return its end, or raise ProviderFault if it is not whole."""
        if self._fault is not None:
            raise self._fault
        rest = b"" if self.done else self._take_last()
        if not self._seen_event:
            raise self._stray_fault()
        end = self._end()
        self.done, self.committed = True, self._begun
        return rest + end

    def _take_last(self) -> bytes:
        """The event that lacks its blank line. Where it was cut off, what counts is whether the answer is whole."""
        for one in self._sse.close():
            try:
                return self._take(one)
            except ProviderFault as fault:
                if fault.failure.kind is not FailureKind.MALFORMED:
                    raise
        return b""

    def _take(self, data: bytes) -> bytes:
        if data == b"null":  # how llama.cpp begins where several prompts are completed
            return b""
        self._seen_event = True
        if len(data) < 16 and data.strip() == _DONE:
            self.done = True
            return b""
        try:
            if not data.isascii():
                data.decode()
            return self._read(data)
        except BROKEN:
            raise _fault(self._provider, "sent an event that cannot be read") from None

    def _stray_fault(self) -> ProviderFault:
        try:
            found = decode_any(self._stray)
        except BROKEN:
            found = None
        if isinstance(found, dict) and found.get("error"):
            return ProviderFault(_reported(self._provider, found["error"]))
        return _fault(self._provider, "answered a streamed request without any event")

    @abstractmethod
    def _read(self, data: bytes) -> bytes:
        """Note what one event says; return what the client is to get. Raises ProviderFault for an error."""

    @abstractmethod
    def _end(self) -> bytes:
        """The withheld end; raises ProviderFault where the answer is not whole."""


class TextStream(_Stream):
    """A streamed legacy completion: chunks, a usage event if that was asked for, ``[DONE]``."""

    def __init__(self, provider: str, usage_asked: bool) -> None:
        super().__init__(provider)
        self._usage_asked = usage_asked
        self._usage_event = b""
        self._finished: dict[int, bool] = {}  # the choices seen, by index
        self._usages: dict[int, Usage] = {}  # what was reported with each choice, while nothing is for all

    def error_event(self, refusal: Refusal) -> bytes:
        """The event that ends the stream in an error."""
        return error_event(refusal)

    def _read(self, data: bytes) -> bytes:
        chunk = _decode_text(data)
        if chunk.error:
            raise ProviderFault(_reported(self._provider, chunk.error))
        usage = usage_of(chunk.usage)
        if usage is not None:
            self._count(usage, chunk.choices)
        if not chunk.choices:
            if not self._usage_asked:
                return b""  # clients that did not ask for usage index into choices
            if chunk.usage is not None:
                self._usage_event = event(data)
                return b""
        for choice in chunk.choices or ():
            self.finish = _finish(self._provider, choice) or self.finish
            self._finished[choice.index] = bool(choice.finish_reason) or self._finished.get(choice.index, False)
            self._begun = self._begun or bool(choice.text or choice.finish_reason)
        if len(self._finished) > MAX_CHOICES:
            raise _fault(self._provider, "gave more choices than anyone asks for", FailureKind.INCOMPLETE)
        if chunk.usage is not None and not self._usage_asked:
            data = patch(data, {"usage": b"null"})
        return event(data)

    def _count(self, usage: Usage, choices: list[_TextChoice] | None) -> None:
        """Usage without a choice is that of all; llama.cpp reports each choice's with its last chunk, and no more."""
        if not choices:
            self.usage, self._usages = usage, {}
        elif self._usages or self.usage is None:
            before = self._usages.get(choices[0].index, _NO_USAGE)
            self._usages[choices[0].index] = usage
            so_far = self.usage or _NO_USAGE
            self.usage = Usage(
                so_far.prompt_tokens + usage.prompt_tokens - before.prompt_tokens,
                so_far.completion_tokens + usage.completion_tokens - before.completion_tokens,
                so_far.cached_tokens + usage.cached_tokens - before.cached_tokens,
                so_far.reasoning_tokens + usage.reasoning_tokens - before.reasoning_tokens,
            )

    def _end(self) -> bytes:
        if not self._finished or not all(self._finished.values()):
            raise _incomplete(self._provider, "a finish_reason")
        return self._usage_event + DONE


class ResponseStream(_Stream):
    """A streamed response: typed events, numbered, of which the last says how it ended."""

    def __init__(self, provider: str) -> None:
        super().__init__(provider)
        self._next = 0  # the number of the next event
        self._last = b""  # the terminal event, where it is a good one
        self._failed = b""  # the terminal event that says that the response failed

    def error_event(self, refusal: Refusal) -> bytes:
        """The event that ends the stream in an error: the upstream's own, where it ended by saying so."""
        return self._failed or typed_error(refusal, self._next)

    def _read(self, data: bytes) -> bytes:
        found = decode_event(data)
        number = found.sequence_number
        self._next = (number if type(number) is int and 0 <= number < 2**53 else self._next) + 1
        kind = found.type if isinstance(found.type, str) else None
        if kind == ERROR or (found.error and kind is None):
            error = found.error or {"message": found.message, "code": found.code, "param": found.param}
            raise ProviderFault(_reported(self._provider, error))
        if kind in TERMINAL:
            self._finish(data, found)
            return b""
        self._begun = self._begun or kind not in OPENING
        return typed_event(kind, data)

    def _finish(self, data: bytes, found: ResponseEvent) -> None:
        response = decode_response(found.response)
        if response is not None:
            self.usage = response_usage(response.usage)
        if found.type != FAILED:
            self._begun = self.done = True
            self._last = typed_event(found.type, data)
            return
        error = response.error if response is not None else None
        failure = _reported(self._provider, error)
        if response is not None and failure.kind is not FailureKind.INVALID:
            # The upstream's words may name the operator's organisation; the response around them is the caller's.
            code = error.get("code") if isinstance(error, dict) else None
            told = msgspec.json.encode({"code": code, "message": failure.message})
            data = patch(data, {"response": patch(bytes(found.response), {"error": told})})
        self._failed = typed_event(found.type, data)
        raise ProviderFault(failure)

    def _end(self) -> bytes:
        if not self._last:
            raise _incomplete(self._provider, "an event that says how it ended")
        return self._last
