"""Edits the texts of an OpenAI-compatible answer: cuts them at stop strings, takes reasoning out from between tags.

It stands behind a reader of `openai_answer`, for targets that refuse `stop` or that may leave think tags in the
content, and sees only chunks in order: mended, framed plainly, roles and finishes where they belong. A chunk whose text
stays as it is keeps its bytes; so does all that follows once every choice has been seen to need no edit.

Text that may be the beginning of a stop string or of a tag is held back until it is sure. A choice that is cut is
finished at once with finish_reason "stop", and what the upstream still sends for it is dropped, tool calls included,
since a model that stops there would not have made them. When every choice has ended and one of them by a cut, the
answer is whole although the upstream is not done: the reader is `done`, says that the upstream is to be aborted, and
ends the stream itself. Then nobody reports usage, and it is estimated, or marked so where figures came with the chunks.
A whole answer is cut after the fact; its usage is the upstream's.

Log probabilities follow their text: a token's go out with the text that it is part of, and those of a token that is cut
away, even in part, do not. Those that wait for text which never comes end the answer once there are too many.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec

from penstock.errors import Failure, FailureKind, ProviderFault, Refusal
from penstock.providers.base import Reader
from penstock.providers.stops import StopCutter
from penstock.providers.think_tags import ThinkSplitter
from penstock.types import Usage
from penstock.wire.answer import BROKEN, ChunkChoice, Delta, decode_chunk
from penstock.wire.estimate import estimate
from penstock.wire.sse import DONE, MAX_EVENT_BYTES, event
from penstock.wire.usage import usage_object

RawObject = dict[str, msgspec.Raw]

_NULL = msgspec.Raw(b"null")
_EMPTY = msgspec.Raw(b'""')
_NOTHING = msgspec.Raw(b"{}")
_STOP = msgspec.Raw(b'"stop"')
_SILENT = (b"null", b'""', b"[]")

_encode = msgspec.json.Encoder().encode
_object = msgspec.json.Decoder(RawObject)
_objects = msgspec.json.Decoder(list[RawObject])
_list = msgspec.json.Decoder(list[msgspec.Raw])
_string = msgspec.json.Decoder(str)


class Edits(msgspec.Struct, frozen=True):
    """What is to be done to one answer of `provider`. `prompt_bytes`: the request's size; `head`: see `base.Reader`."""

    provider: str
    stops: tuple[str, ...]
    tags: bool
    n: int
    usage_asked: bool
    prompt_bytes: int
    head: bytes = b""


class _Token(msgspec.Struct):
    token: str = ""
    bytes: list[int] | None = None


_token = msgspec.json.Decoder(_Token)


class _Choice:
    """One choice's text on its way."""

    __slots__ = ("_covered", "_logprobs", "_waiting", "cutter", "ended", "splitter")

    def __init__(self, edits: Edits) -> None:
        self.cutter = StopCutter(edits.stops) if edits.stops else None
        self.splitter = ThinkSplitter() if edits.tags else None
        self.ended = False
        self._logprobs: deque[msgspec.Raw] = deque()  # of text that is held back
        self._waiting = 0  # bytes of them
        self._covered = 0  # bytes of text that went out before the log probabilities of their token

    @property
    def settled(self) -> bool:
        return self.ended or (self.cutter is None and (self.splitter is None or self.splitter.settled))

    @property
    def waits(self) -> bool:
        """Whether log probabilities are held back."""
        return bool(self._logprobs)

    def take(self, content: str, last: bool) -> tuple[str, str, bool]:
        """The reasoning and the text that may go out by now, and whether a stop string was met."""
        reasoning, text = "", content
        if self.splitter is not None:
            reasoning, text = self.splitter.feed(content)
            if last:
                more, rest = self.splitter.flush()
                reasoning, text = reasoning + more, text + rest
        if self.cutter is None:
            return reasoning, text, False
        text = self.cutter.finish(text) if last else self.cutter.feed(text)
        return reasoning, text, self.cutter.cut

    def release(self, logprobs: msgspec.Raw, text: str, last: bool) -> msgspec.Raw:
        """The log probabilities that go out with `text`: those of tokens that are now out whole.

        Raises what decoding raises, and ValueError where too many wait for their text.
        """
        members = _object.decode(logprobs) if bytes(logprobs) != b"null" else {}
        given = members.get("content", _NULL)
        if bytes(given) != b"null":
            self._logprobs += _list.decode(given)
            self._waiting += len(memoryview(given))
        if not self._logprobs:
            return logprobs
        self._covered += len(text.encode())
        released = []
        while self._logprobs:
            token = _token.decode(self._logprobs[0])
            size = len(token.bytes) if token.bytes is not None else len(token.token.encode())
            if size > self._covered and not last:
                break
            self._covered -= size
            released.append(self._logprobs.popleft())
        self._waiting = self._waiting - sum(len(memoryview(one)) for one in released) if self._logprobs else 0
        if self._waiting > MAX_EVENT_BYTES:
            raise ValueError("log probabilities of no text")
        if not released:
            return _NULL
        return msgspec.Raw(_encode({"refusal": None, **members, "content": released}))


class _Take(msgspec.Struct, frozen=True):
    """What becomes of one choice of a chunk: None in its place means that it stays as it is."""

    choice: _Choice
    reasoning: str
    text: str
    cut: bool
    last: bool


class StreamRewriter:
    """Edits one streamed answer; see `providers.base.Reader`."""

    __slots__ = (
        *("_base", "_bytes", "_choices", "_cut", "_edits", "_inner", "_open", "_settled"),
        *("aborts", "committed", "done", "head", "usage"),
    )

    def __init__(self, inner: Reader, edits: Edits) -> None:
        self.committed = False
        self.done = False
        self.aborts = False
        self.usage: Usage | None = None
        self.head = edits.head
        self._inner = inner
        self._edits = edits
        self._settled = not edits.stops and not edits.tags
        self._choices: dict[int, _Choice] = {}
        self._open = edits.n
        self._cut = False
        self._bytes = 0  # of text that the upstream has sent
        self._base: RawObject = {}  # the members of the last chunk

    @property
    def finish(self) -> str:
        """How the answer ended, here or upstream."""
        return "stop" if self._cut else self._inner.finish

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes; return the events that the client may have now."""
        inner = self._inner
        if self.done:
            return b""
        out = inner.feed(data)
        self.usage = inner.usage
        self.done = inner.done
        if self._settled:
            self.committed = inner.committed
            return out
        if out:
            out = self._rewrite(out)
            if self._cut and not self._open and not inner.done:
                self.done = self.aborts = True
        return out

    @property
    def whole(self) -> bool:
        """See `providers.base.Reader`."""
        return self._inner.whole

    def close(self) -> bytes:
        """The answer ended: return what was withheld, or raise ProviderFault if it is not whole."""
        whole = self._cut and not self._open  # whatever the upstream still says
        if self.aborts:
            return self._end()
        try:
            tail = self._inner.close()
        except ProviderFault:
            if whole:
                return self._end()
            raise
        self.done = self.committed = True
        self.usage = self._inner.usage
        return tail if self._settled else self._rewrite(tail)

    def error_event(self, refusal: Refusal) -> bytes:
        """The event that ends the stream in an error."""
        return self._inner.error_event(refusal)

    def _end(self) -> bytes:
        """The end of an answer that was cut short."""
        self.done = True
        if self.usage is not None:
            self.usage = msgspec.structs.replace(self.usage, source="estimated")
        else:
            self.usage = estimate(self._edits.prompt_bytes, self._bytes)
        if not self._edits.usage_asked:
            return DONE
        return event(_encode({**self._base, "choices": [], "usage": usage_object(self.usage)})) + DONE

    def _rewrite(self, events: bytes) -> bytes:
        try:
            out = b"".join([self._edit(one[6:]) for one in events.split(b"\n\n") if one])
        except (*BROKEN, ValueError):  # in log probabilities, which nothing had looked into before
            raise _unreadable(self._edits.provider) from None
        if len(self._choices) == self._edits.n and all(choice.settled for choice in self._choices.values()):
            self._settled = not self._edits.stops
        return out

    def _edit(self, data: bytes) -> bytes:
        """One event, as it is or edited: framed, and cut into two where a choice has both text and a finish."""
        if data == b"[DONE]":
            return DONE
        chunk = decode_chunk(data)
        takes = [self._study(choice) for choice in chunk.choices or ()]
        if all(take is None for take in takes):
            return event(data)
        self._base = base = _object.decode(data)
        first: list[RawObject] = []
        second: list[RawObject] = []
        for choice, take in zip(_objects.decode(base["choices"]), takes, strict=True):
            edited = [choice] if take is None else _edit_choice(choice, take)
            first += edited[:1]
            second += edited[1:]
        return b"".join([event(_encode({**base, "choices": choices})) for choices in (first, second) if choices])

    def _study(self, found: ChunkChoice) -> _Take | None:
        """Note what a chunk says of one choice."""
        index = found.index or 0  # what a reader gives out has one
        choice = self._choices.get(index)
        if choice is None:
            choice = self._choices[index] = _Choice(self._edits)
        delta = found.delta if found.delta is not None else Delta()
        self._bytes += _size(delta)
        last = bool(found.finish_reason)
        if choice.ended:
            return _Take(choice, "", "", cut=False, last=False)
        if delta.reasoning_content or delta.reasoning:
            choice.splitter = None  # the server has told them apart
        content = delta.content or ""
        reasoning, text, cut = choice.take(content, last)
        if last or cut:
            choice.ended = True
            self._open -= 1
            self._cut = self._cut or cut
        if text or reasoning or choice.ended or _tells(delta):
            self.committed = True
        if text == content and not reasoning and not cut and not choice.waits:
            return None
        return _Take(choice, reasoning, text, cut, last)


class BodyRewriter:
    """Edits one whole answer; see `providers.base.Reader`."""

    __slots__ = ("_edits", "_inner", "aborts", "committed", "done", "head", "usage")

    whole = False

    def __init__(self, inner: Reader, edits: Edits) -> None:
        self.committed = False
        self.done = False
        self.aborts = False
        self.usage: Usage | None = None
        self.head = edits.head
        self._inner = inner
        self._edits = edits

    @property
    def finish(self) -> str:
        """That of the answer as it came."""
        return self._inner.finish

    def feed(self, data: bytes) -> bytes:
        """Keep the bytes until the answer is whole."""
        return self._inner.feed(data)

    def close(self) -> bytes:
        """The answer ended: return it, or raise ProviderFault if it is no chat completion."""
        body = self._inner.close()
        self.usage = self._inner.usage
        self.committed = self.done = True
        # Some servers escape the angle brackets.
        if not self._edits.stops and not (self._edits.tags and b"think" in body):
            return body
        base = _object.decode(body)
        choices = _objects.decode(base["choices"])
        try:
            edited = [_edit_message(choice, _Choice(self._edits)) for choice in choices]
        except (*BROKEN, ValueError):
            raise _unreadable(self._edits.provider) from None
        if not any(edited):
            return body
        base["choices"] = msgspec.Raw(_encode(choices))
        return _encode(base)

    def error_event(self, refusal: Refusal) -> bytes:
        """The event that ends a stream in an error."""
        return self._inner.error_event(refusal)


def _edit_choice(raw: RawObject, take: _Take) -> list[RawObject]:
    """What goes out in place of a choice of a chunk: nothing, its text, its finish, or both, one after the other."""
    if take.choice.ended and not (take.cut or take.last):
        return []
    delta = _object.decode(raw["delta"]) if bytes(raw.get("delta", _NULL)) != b"null" else {}
    had_content = delta.pop("content", None) is not None
    if take.cut:
        delta.pop("tool_calls", None)
        delta.pop("function_call", None)
    if take.reasoning:
        delta["reasoning_content"] = msgspec.Raw(_encode(take.reasoning))
    if take.text:
        delta["content"] = msgspec.Raw(_encode(take.text))
    elif had_content and "role" in delta:
        delta["content"] = _EMPTY
    logprobs = raw.get("logprobs", _NULL)
    if take.choice.cutter is not None:
        logprobs = take.choice.release(logprobs, take.text, take.last and not take.cut)
    out = []
    if any(bytes(value) not in _SILENT for value in delta.values()):
        out.append({**raw, "delta": msgspec.Raw(_encode(delta)), "logprobs": logprobs, "finish_reason": _NULL})
    if take.cut or take.last:
        finish = _STOP if take.cut else raw["finish_reason"]
        out.append({**raw, "delta": _NOTHING, "logprobs": _NULL, "finish_reason": finish})
    return out


def _edit_message(raw: RawObject, choice: _Choice) -> bool:
    """Edit a choice of a whole answer in place; return whether it changed."""
    message = _object.decode(raw["message"])
    found = message.get("content", _NULL)
    content = _string.decode(found) if bytes(found)[:1] == b'"' else ""
    if any(bytes(message.get(name, _NULL)) not in _SILENT for name in ("reasoning_content", "reasoning")):
        choice.splitter = None
    reasoning, text, cut = choice.take(content, last=True)
    if text == content and not reasoning and not cut:
        return False
    message["content"] = msgspec.Raw(_encode(text))
    if reasoning:
        message["reasoning_content"] = msgspec.Raw(_encode(reasoning))
    if cut:
        message.pop("tool_calls", None)
        message.pop("function_call", None)
        raw["finish_reason"] = _STOP
        raw["logprobs"] = choice.release(raw.get("logprobs", _NULL), text, last=False)
    raw["message"] = msgspec.Raw(_encode(message))
    return True


def _unreadable(provider: str) -> ProviderFault:
    message = f"The provider {provider!r} gave log probabilities that cannot be read."
    return ProviderFault(Failure(FailureKind.MALFORMED, message))


def _tells(delta: Delta) -> bool:
    """Whether a delta says something besides its content."""
    return bool(delta.refusal or delta.reasoning_content or delta.reasoning or delta.tool_calls or delta.function_call)


def _size(delta: Delta) -> int:
    """The bytes of text in a delta."""
    texts: tuple[Any, ...] = (delta.content, delta.reasoning_content or delta.reasoning, delta.refusal)
    size = sum(len(text.encode()) for text in texts if isinstance(text, str))
    calls = delta.tool_calls or delta.function_call
    return size + len(_encode(calls)) if calls else size
