"""One request, and the means to answer it: whole, or begun, written and ended; what is written may be paused.

Nothing here waits: bytes leave in this turn of the loop, and a reader that does not keep up pauses their source.
"""

from __future__ import annotations

import asyncio
import http as http_names
from typing import Protocol

from penstock.errors import Refusal
from penstock.http.carrier import Carrier
from penstock.http.outbox import GatheringTransport

_STATUS = {
    status.value: b"HTTP/1.1 %d %s\r\n" % (status.value, status.phrase.encode()) for status in http_names.HTTPStatus
}
# How a chunk of so many bytes begins: looked up for nearly every one, since formatting costs more than all else here.
_LISTED = 1024
_SIZES = tuple(b"%x\r\n" % size for size in range(_LISTED))


class Flow(Protocol):
    """What a slow reader pauses: the source of the bytes that are written to it."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...


class Way(Protocol):
    """The connection by which a request came, as far as the request goes: its answer leaves by it."""

    active: Request | None  # which is being answered
    fields: dict[bytes, bytes]
    peer: str
    transport: GatheringTransport
    unwritable: bool

    def persistence(self, request: Request) -> bytes: ...

    def finished(self, request: Request) -> None: ...


class Request:
    """One request and the means to answer it.

    `headers`: lower-case names, repeated fields joined by ", ". `peer`: the address of the other end of the
    connection, "" on a unix socket. `context` belongs to the app, and so does `known`: what it found of the head, which
    the next request on the connection is handed if its head is the same, but for its Content-Length.
    """

    __slots__ = (
        *("body", "chunked", "connection", "context", "expects_continue", "flow", "headers", "http_1_0", "hung_up"),
        *("keep_alive", "known", "method", "path", "pending", "query", "refusal", "started", "stopped", "task"),
    )

    def __init__(self, connection: Way, method: bytes, path: bytes, query: bytes) -> None:
        self.connection = connection
        self.method = method
        self.path = path
        self.query = query
        self.headers = connection.fields
        self.body = b""
        self.chunked = False
        self.context: object = None
        self.expects_continue = False
        self.flow: Flow | None = None
        self.http_1_0 = False
        self.hung_up = False
        self.keep_alive = True
        self.known: object = None
        self.pending: asyncio.Future[object] | None = None
        self.refusal: Refusal | None = None
        self.started = False
        self.stopped: Refusal | None = None
        self.task: Carrier | None = None

    @property
    def peer(self) -> str:
        return self.connection.peer

    def weight(self) -> int:
        """About the bytes of this request: never more than arrived, but for a compressed body."""
        fields = sum(len(name) + len(value) + 3 for name, value in self.headers.items())
        return len(self.path) + len(self.query) + fields + len(self.body)

    def withdraw(self) -> None:
        """Nobody waits any more for its admission, if anybody did."""
        if self.pending is not None:
            self.pending.cancel()
            self.pending = None

    def stop(self, why: Refusal) -> None:
        """End its answer now, or do not begin one, and say `why`."""
        if self.task is None:
            self.refusal = why
        elif self.stopped is None:
            self.stopped = why
            # Not now: one that has not begun would say nothing.
            asyncio.get_running_loop().call_soon(self.task.cancel)

    def respond(self, status: int, headers: bytes, body: bytes) -> None:
        """The whole answer at once. `headers`: encoded lines, each ending in CRLF, without length and framing."""
        connection = self.connection
        self.started = True
        if not self.hung_up:
            head = _STATUS[status], connection.persistence(self), headers, len(body)
            sent = body if self.method != b"HEAD" else b""
            connection.transport.write(b"%s%s%sContent-Length: %d\r\n\r\n%s" % (*head, sent))
        connection.finished(self)

    def start(self, status: int, headers: bytes, data: bytes) -> None:
        """Begin an answer of unknown length with its head and first bytes; HTTP/1.0 gets it close-delimited."""
        connection = self.connection
        self.started = True
        if self.hung_up:
            return
        if self.http_1_0:
            self.keep_alive = False
            head = b"%s%s%s\r\n%s"
        else:
            self.chunked = True
            head = b"%s%s%sTransfer-Encoding: chunked\r\n\r\n%s"
            data = b"%x\r\n%s\r\n" % (len(data), data) if data else b""
        connection.transport.write(head % (_STATUS[status], connection.persistence(self), headers, data))

    def write(self, data: bytes) -> None:
        """Send the next bytes (not empty) of a started answer. Never blocks; a slow reader pauses `flow`."""
        if not self.hung_up:
            if self.chunked:
                size = len(data)
                data = b"".join((_SIZES[size] if size < _LISTED else b"%x\r\n" % size, data, b"\r\n"))
            self.connection.transport.write(data)

    def end(self, data: bytes) -> None:
        """Send the last bytes of a started answer and its end."""
        if not self.hung_up:
            if self.chunked:
                data = b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data) if data else b"0\r\n\r\n"
            self.connection.transport.write(data)
        self.connection.finished(self)

    def ensure_ended(self) -> None:
        """Whatever happened, this request is over: an answer that was not ended is cut so that the client sees it."""
        connection = self.connection
        if connection.active is self:
            self.keep_alive = False
            connection.transport.abort()
            connection.finished(self)
