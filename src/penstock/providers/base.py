"""What a provider is: it turns a request into calls and an answer into OpenAI's wire form, and touches no socket.

A provider is three pure steps. `prepare` gives the call to make; where one call needs another's answer first
(a template, a token), it is a generator that yields calls and is sent their replies, whatever their status: it may
try another call, or end the attempt by raising ProviderFault or a Refusal. `reader` gives an object
that is fed the answer's bytes and returns what the client is to get. `failure` classifies an error answer.
Nothing here retries, waits or remembers: `gateway.upstream` owns all of that.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Sequence
from typing import Protocol

import msgspec

from penstock.errors import Failure, Refusal
from penstock.types import Origin as Origin
from penstock.types import Target, Usage
from penstock.wire.chat import ChatRequest
from penstock.wire.neighbours import NeighbourRequest

AnyRequest = ChatRequest | NeighbourRequest


class Call(msgspec.Struct, frozen=True):
    """One HTTP request, but for Content-Length, which the client adds.

    `head`: request line and header lines, each ending in CRLF, Host included, no blank line.
    `body`: the bytes to send.
    """

    head: bytes
    body: bytes


class Reply(msgspec.Struct, frozen=True):
    """A whole answer to a preparatory call. Header names are lower case."""

    status: int
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes


Preparation = Generator[Call, Reply, Call]


class Reader(Protocol):
    """Reads one successful (2xx) answer; one object per attempt, never reused.

    Streamed requests: what `feed` and `close` return is a whole number of SSE events in the form of the endpoint: for
    chat, chunks framed as ``data: {...}\\n\\n``, and `close` ends with ``data: [DONE]\\n\\n``. Others: `feed` returns
    b"" and `close` the whole JSON body. Either raises ProviderFault when the answer is broken, and is then not called
    again.
    """

    committed: bool
    """Whether an event with content, reasoning, refusal, tool call or finish has been returned by `feed`."""

    done: bool
    """Whether the end of the answer has been read (such as [DONE]), so that `close` may be called at once."""

    @property
    def whole(self) -> bool:
        """Whether every choice asked for has ended, so that only usage and the end itself may follow."""
        ...

    usage: Usage | None
    """What the upstream reported so far."""

    @property
    def finish(self) -> str:
        """The finish_reason of the choice that ended last, of those endpoints that have one; empty before."""
        ...

    aborts: bool
    """When `done`: whether the upstream goes on generating what nobody wants, and is to be cut off."""

    head: bytes
    """Header lines for the response, each ending in CRLF."""

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes of the body, cut anywhere; return what the client may have now (often b"")."""
        ...

    def close(self) -> bytes:
        """The body ended (or `done`): return the withheld end, or raise ProviderFault if it is incomplete."""
        ...

    def error_event(self, refusal: Refusal) -> bytes:
        """The event that ends a stream in an error, after what `feed` returned, whatever went wrong and where."""
        ...


class Provider(Protocol):
    """One configured upstream. Stateless between requests, but for rotating its own keys."""

    name: str
    origin: Origin

    @property
    def lacks(self) -> Collection[str]:
        """What none of its models can do, as a target's `lacks` names it: such requests go elsewhere if they can."""
        ...

    @property
    def probe(self) -> Call | None:
        """The call that tells whether the server is there, where one is configured."""
        ...

    def prepare(self, asked: AnyRequest, target: Target) -> Call | Preparation:
        """The call that answers `asked` at `target`; raises Refusal where this provider cannot do what is asked."""
        ...

    def reader(self, asked: AnyRequest, target: Target) -> Reader:
        """A new reader for the answer to that call; raises Refusal as `prepare` does."""
        ...

    def failure(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> Failure:
        """Classify an error answer (status outside 2xx)."""
        ...

    def refresh(self) -> None:
        """Read again what came from files (secrets); the worker calls it every second, off the hot path."""
        ...
