"""Joins the stream of one answer to what was said of another, so that a client sees one.

A seam is fed with the events of the second answer and returns what the client is to get: chunks under the names of the
first, without a second role, with one finish_reason. `Continued` is for an answer that goes on where the first broke
off; `Repeated` for one that begins again: what it repeats must be what was said, character by character and in order,
and is swallowed. Either raises Differs for an answer that does not go on with this one. Withheld are usage and the end.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import msgspec

from penstock.types import Usage
from penstock.wire.answer import BROKEN, ChunkChoice, Delta, RawObject, decode_chunk
from penstock.wire.said import REASONING, TEXT, Said
from penstock.wire.sse import DONE, event
from penstock.wire.usage import usage_object

_NULL = msgspec.Raw(b"null")
_SILENT = (b"null", b'""', b"[]")
_TEXTS = frozenset({TEXT, REASONING, "reasoning", "role"})

_encode = msgspec.json.Encoder().encode
_object = msgspec.json.Decoder(RawObject).decode
_objects = msgspec.json.Decoder(list[RawObject]).decode


class Differs(Exception):
    """The answer does not go on with what was said."""


class Seam(ABC):
    """What both kinds have in common. `said` is told of what goes out; `usage_asked`: whether the client wants usage.

    `heard`: the bytes of words that the answer had so far, repeated ones among them.
    """

    def __init__(self, said: Said, usage_asked: bool) -> None:
        self.heard = 0
        self._said = said
        self._usage_asked = usage_asked

    def take(self, events: bytes) -> bytes:
        """What the client is to get for these events, which are whole and framed plainly."""
        try:
            out = b"".join([self._join(one[6:]) for one in events.split(b"\n\n") if one])
        except BROKEN:  # in a member that nobody had looked into before
            raise Differs from None
        self._said.note(out)
        return out

    def end(self, usage: Usage | None) -> bytes:
        """The end of the stream, with the usage that the client is told, if it asked and there is any."""
        if not self._usage_asked or usage is None:
            return DONE
        return event(_encode({**self._said.names, "choices": [], "usage": usage_object(usage)})) + DONE

    def _join(self, data: bytes) -> bytes:
        if data == b"[DONE]":
            return b""
        found = decode_chunk(data).choices
        if not found:
            return b""
        out = [
            self._chunk(delta, raw.get("finish_reason", _NULL))
            for raw, choice in zip(_objects(_object(data)["choices"]), found, strict=True)
            for delta in self._deltas(raw, choice)
        ]
        return b"".join(out)

    def _deltas(self, raw: RawObject, choice: ChunkChoice) -> list[RawObject]:
        """The delta that goes out for a choice of a chunk, if any."""
        delta = choice.delta if choice.delta is not None else Delta()
        members = _object(raw["delta"]) if choice.delta is not None else {}
        thought, text = delta.reasoning_content or delta.reasoning, delta.content or ""
        reasoning = thought if isinstance(thought, str) else ""
        self.heard += len(reasoning.encode()) + len(text.encode())
        words = self._pass(reasoning, text)
        told = {name: value for name, value in members.items() if name not in _TEXTS and bytes(value) not in _SILENT}
        if told or choice.finish_reason:
            self._complete()
        told |= {kind: msgspec.Raw(_encode(part)) for kind, part in words.items() if part}
        return [told] if told or choice.finish_reason else []

    def _chunk(self, delta: RawObject, finish: msgspec.Raw) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        chunk = {**self._said.names, "choices": [choice]}
        return event(_encode({**chunk, "usage": None} if self._usage_asked else chunk))

    @abstractmethod
    def _pass(self, reasoning: str, text: str) -> dict[str, str]:
        """What of a delta's words is new, by kind. Raises Differs."""

    @abstractmethod
    def _complete(self) -> None:
        """Something else than words comes: raise Differs where it comes too early."""


class Continued(Seam):
    """The answer goes on where the first one broke off."""

    def _complete(self) -> None:
        """Whatever ends it comes in time: there is nothing to repeat first."""

    def _pass(self, reasoning: str, text: str) -> dict[str, str]:
        if reasoning:  # it began to think, and so another answer
            raise Differs
        return {TEXT: text}


class Repeated(Seam):
    """The answer begins again."""

    def __init__(self, said: Said, usage_asked: bool) -> None:
        super().__init__(said, usage_asked)
        self._left = said.runs[::-1]  # what is still to be repeated, the next last
        self._at = 0  # how far that one has been

    def _pass(self, reasoning: str, text: str) -> dict[str, str]:
        return {REASONING: self._match(REASONING, reasoning), TEXT: self._match(TEXT, text)}

    def _match(self, kind: str, words: str) -> str:
        """What is left of the words once all is repeated."""
        while words and self._left:
            expected, run = self._left[-1]
            size = min(len(words), len(run) - self._at)
            if kind != expected or not run.startswith(words[:size], self._at):
                raise Differs
            words, self._at = words[size:], self._at + size
            if self._at == len(run):
                self._left.pop()
                self._at = 0
        return words

    def _complete(self) -> None:
        if self._left:
            raise Differs
