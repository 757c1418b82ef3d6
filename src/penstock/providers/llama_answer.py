"""Reads the engine's native stream and writes OpenAI's chunks, or the whole answer of a request that is not streamed.

The engine sends one event per token: its text (UTF-8 whole; empty while a character is unfinished), the choice's
index, and the counts so far; then one last event per choice that says what stopped it. Choices come interleaved and
in any order, so the first event with text begins all of them, in order.

Stop strings are cut here, not by the engine, which loses text that looks like the beginning of one when the token
limit comes next (build 2026.10.11549). A choice that is cut is finished at once, whatever the engine still sends for
it; when all are, `done` says so, and `aborts` that the connection is to be given up, which frees the engine.

The text of one token costs a decode, an encode of the text and a join: everything else in a chunk is prepared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from penstock.errors import Failure, FailureKind, ProviderFault, Refusal
from penstock.providers.llama_logprobs import Chosen, Logprobs
from penstock.providers.stops import StopCutter
from penstock.types import Usage
from penstock.wire.answer import BROKEN
from penstock.wire.envelope import error_event
from penstock.wire.sse import DONE, EventTooLarge, SseReader, event
from penstock.wire.usage import usage_object

STOPPED = "The local model's engine stopped while answering; it is being restarted."

_FINISH = {"eos": "stop", "word": "stop", "limit": "length"}

_encode = msgspec.json.Encoder().encode


class Progress(msgspec.Struct, gc=False):
    """How far the prompt has been read; `cache` counts the tokens that were known from before."""

    cache: int = 0


class EngineError(msgspec.Struct, gc=False):
    """What the engine says when it fails in the middle."""

    message: str = ""


class Event(msgspec.Struct, gc=False):
    """One event of the native stream, as far as it matters."""

    index: int = 0
    content: str = ""
    stop: bool = False
    stop_type: str = ""
    tokens_predicted: int = 0
    tokens_evaluated: int = 0
    prompt_progress: Progress | None = None
    completion_probabilities: tuple[Chosen, ...] = ()
    error: EngineError | None = None


_decode = msgspec.json.Decoder(Event).decode

# What the engine is asked to put into its last event, which otherwise holds the whole prompt.
LAST_EVENT_FIELDS = ("index", "content", "stop", "stop_type", "tokens_predicted", "tokens_evaluated")


class Answer(msgspec.Struct, frozen=True):
    """What an answer says of itself. `created` in whole Unix seconds; `extra`: further members of a whole answer.

    `logprobs`: how many alternatives each token is reported with, None where log probabilities were not asked for.
    """

    id: str
    created: int
    model: str
    fingerprint: str
    n: int
    stops: Sequence[str]
    stream: bool
    usage_asked: bool
    logprobs: int | None
    extra: dict[str, Any]


class _Choice:
    __slots__ = ("before", "cutter", "entries", "finish", "index", "logprobs", "parts", "tokens")

    def __init__(self, index: int, before: bytes, answer: Answer) -> None:
        self.index = index
        self.before = before  # of a chunk, up to its text
        self.cutter = StopCutter(answer.stops) if answer.stops else None
        self.logprobs = Logprobs(answer.logprobs) if answer.logprobs is not None else None
        self.entries: list[dict[str, Any]] = []  # of log probabilities, for a whole answer
        self.finish: str | None = None
        self.parts: list[str] = []
        self.tokens = 0


class LlamaReader:
    """Reads one answer; see `providers.base.Reader`."""

    __slots__ = (
        *("_after", "_answer", "_begun", "_cached", "_choices", "_fault", "_head", "_open", "_prompt", "_sse"),
        *("aborts", "committed", "done", "finish", "usage"),
    )

    head = b""
    whole = False

    def __init__(self, answer: Answer) -> None:
        self.aborts = False
        self.committed = False
        self.done = False
        self.usage: Usage | None = None
        self.finish = ""
        self._answer = answer
        self._sse = SseReader()
        self._fault: ProviderFault | None = None
        self._begun = False
        self._prompt = 0
        self._cached = 0
        members = {
            "id": answer.id,
            "object": "chat.completion.chunk" if answer.stream else "chat.completion",
            "created": answer.created,
            "model": answer.model,
            "system_fingerprint": answer.fingerprint,
        }
        self._head = _encode(members)[:-1]
        self._after = b"," + _encode({"usage": None})[1:] if answer.usage_asked else b"}"
        self._choices = [
            _Choice(index, b'data: %b,"choices":[{"index":%d,"delta":{"content":' % (self._head, index), answer)
            for index in range(answer.n)
        ]
        self._open = answer.n

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes; return the chunks that the client may have now."""
        if self.done:
            return b""
        out: list[bytes] = []
        try:
            for one in self._sse.feed(data):
                self._take(_decode(one), out)
                if self.done:
                    break
        except ProviderFault as fault:
            self._fault = fault
        except (*BROKEN, EventTooLarge):
            self._fault = _fault("The local model's engine sent an event that cannot be read.")
        if self._fault is not None:
            if not self.committed:
                raise self._fault
            self.done = True
        if not self._answer.stream:
            return b""
        return out[0] if len(out) == 1 else b"".join(out)

    def close(self) -> bytes:
        """The end of the answer, or the whole of it; raises ProviderFault if the engine did not finish."""
        if self._fault is not None:
            raise self._fault
        if self._open:
            raise ProviderFault(Failure(FailureKind.INCOMPLETE, STOPPED))
        usage = usage_object(self.usage or Usage())
        if self._answer.stream:
            last = self._head + b',"choices":[],' + _encode({"usage": usage})[1:]
            return (event(last) if self._answer.usage_asked else b"") + DONE
        choices: list[dict[str, Any]] = [
            {
                "index": choice.index,
                "message": {
                    "role": "assistant",
                    "content": "".join(choice.parts),
                    "refusal": None,
                    "annotations": [],
                },
                "logprobs": None if choice.logprobs is None else _logprobs(choice.entries),
                "finish_reason": choice.finish,
            }
            for choice in self._choices
        ]
        return self._head + b"," + _encode({"choices": choices, "usage": usage, **self._answer.extra})[1:]

    def error_event(self, refusal: Refusal) -> bytes:
        """The event that ends a stream in an error."""
        return error_event(refusal)

    def _take(self, found: Event, out: list[bytes]) -> None:
        if found.error is not None:
            raise _fault(f"The local model's engine failed: {found.error.message[:300]}", FailureKind.UNAVAILABLE)
        if not 0 <= found.index < len(self._choices):
            raise _fault("The local model's engine numbered a choice beyond those that were asked for.")
        choice = self._choices[found.index]
        if choice.finish is not None:
            return
        choice.tokens = found.tokens_predicted
        if found.prompt_progress is not None and found.index == 0:
            self._cached = found.prompt_progress.cache
        self._prompt = found.tokens_evaluated
        text = found.content
        if choice.logprobs is not None:
            choice.logprobs.add(found.completion_probabilities)
        cutter = choice.cutter
        if cutter is not None and text:
            text = cutter.feed(text)
            if cutter.cut:
                choice.finish = "stop"
                self.aborts = True
        if found.stop and choice.finish is None:
            choice.finish = _FINISH.get(found.stop_type)
            if choice.finish is None:
                raise ProviderFault(Failure(FailureKind.INCOMPLETE, STOPPED))
            if cutter is not None:
                text += cutter.flush()
        self.usage = self._usage()
        if text or choice.finish is not None:
            self._write(choice, text, out)

    def _write(self, choice: _Choice, text: str, out: list[bytes]) -> None:
        """The chunks of one event that has text or is a choice's last."""
        self.committed = self._answer.stream
        is_last = choice.finish is not None
        if is_last:
            self.finish = choice.finish or ""
            self._open -= 1
            self.done = not self._open
        entries = [] if choice.logprobs is None else choice.logprobs.release(text, is_last)
        if not self._answer.stream:
            choice.parts.append(text)
            choice.entries += entries
            return
        if not self._begun:
            self._begun = True
            out += [self._chunk(each.index, {"role": "assistant", "content": ""}) for each in self._choices]
        if text:
            logprobs = b"null" if choice.logprobs is None else _encode(_logprobs(entries))
            out.append(
                b'%b%b},"logprobs":%b,"finish_reason":null}]%b\n\n'
                % (choice.before, _encode(text), logprobs, self._after)
            )
            entries = []
        if is_last:
            out.append(self._chunk(choice.index, {}, choice.finish, entries))

    def _chunk(
        self, index: int, delta: dict[str, str], finish: str | None = None, entries: Sequence[dict[str, Any]] = ()
    ) -> bytes:
        logprobs = _logprobs(entries) if entries else None
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return b'data: %b,"choices":%b%b\n\n' % (self._head, _encode([choice]), self._after)

    def _usage(self) -> Usage:
        if len(self._choices) == 1:
            return Usage(self._prompt, self._choices[0].tokens, self._cached)
        return Usage(self._prompt, sum(choice.tokens for choice in self._choices), self._cached)


def _logprobs(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"content": entries, "refusal": None}


def _fault(message: str, kind: FailureKind = FailureKind.MALFORMED) -> ProviderFault:
    return ProviderFault(Failure(kind, message))
