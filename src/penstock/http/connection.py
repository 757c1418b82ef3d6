"""One client connection: HTTP/1.1 parsed by httptools, bounded in every direction, answered in order.

A `Connection` parses what arrives and calls the application twice per request: `admit` when the head
is whole (so that a bad key is refused with the body unread) and `answer`, in a task, when the body is. It keeps
reading while a request is in flight, since that is the only way to see a client hang up; what is pipelined
meanwhile waits its turn, at most `PIPELINE_BYTES` of it, and answers leave in order.

llhttp, the parser under httptools, is strict and stays so: it refuses Content-Length beside Transfer-Encoding,
repeated or malformed lengths, bare LF, control bytes, folded fields and malformed chunk sizes. What it accepts and
we do not: codings other than chunked, a missing Host (RFC 9112 section 3.2), HTTP versions but 1.0 and 1.1, and
framing without end: bytes that are neither body nor worth five times the body (the worst honest case, chunks of
one byte) count against `head_bytes`, so fields, chunk extensions and trailers are bounded together.

After a refusal the connection closes, but gently: our side is shut first and what the client still sends is
discarded for a while, because closing over unread input makes the kernel destroy the answer on its way.

What all connections share is the `Edge`: the application, the limits, the time, the budget for bodies.
"""

from __future__ import annotations

import asyncio
import http as http_names
import zlib
from collections import deque
from collections.abc import Awaitable
from typing import Protocol, cast

import httptools

from penstock.config import Limits
from penstock.errors import (
    BodyTooLarge,
    HeadTooLarge,
    InvalidRequest,
    Overloaded,
    Refusal,
    RequestTimeout,
    ServerFault,
    UnsupportedMedia,
)

PIPELINE_BYTES = 64 * 1024
LINGER_SECONDS = 2.0
NEVER = float("inf")

_IDLE, _HEAD, _BODY, _BUSY, _LINGER = range(5)
_STATUS = {
    status.value: b"HTTP/1.1 %d %s\r\n" % (status.value, status.phrase.encode()) for status in http_names.HTTPStatus
}


class App(Protocol):
    """What the edge serves."""

    def admit(self, request: Request) -> Awaitable[None] | None:
        """Judge a request by its head: raise Refusal, or return an awaitable to be waited for before the body."""
        ...

    async def answer(self, request: Request) -> None:
        """Answer a whole request: `respond`, or `start`, `write` and `end`. Cancelled when the client hangs up
        (`request.hung_up`) or the drain limit has passed (`request.drained`); it must end the answer even so."""
        ...

    def refuse(self, request: Request | None, refusal: Refusal) -> tuple[bytes, bytes]:
        """Render a refusal: header lines and body. Without a request when no head could be read."""
        ...


class Flow(Protocol):
    """What a slow reader pauses: the source of the bytes that are written to it."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...


class Request:
    """One request and the means to answer it.

    `headers`: lower-case names, repeated fields joined by ", ". `peer`: the address of the other end of the
    connection, "" on a unix socket. `received`: loop time at which its head was whole. `context` belongs to the app.
    """

    # Defaults stand on the class: most requests never change most of them, and setting them costs more than parsing.
    body = b""
    chunked = False
    context: object = None
    drained = False
    expects_continue = False
    flow: Flow | None = None
    http_1_0 = False
    hung_up = False
    keep_alive = True
    pending: asyncio.Future[None] | None = None
    refusal: Refusal | None = None
    started = False
    task: asyncio.Task[None] | None = None

    def __init__(self, connection: Connection, method: bytes, path: bytes, query: bytes, received: float) -> None:
        self.connection = connection
        self.method = method
        self.path = path
        self.query = query
        self.headers = connection.fields
        self.received = received

    @property
    def peer(self) -> str:
        return self.connection.peer

    def respond(self, status: int, headers: bytes, body: bytes) -> None:
        """The whole answer at once. `headers`: encoded lines, each ending in CRLF, without length and framing."""
        connection = self.connection
        self.started = True
        if not self.hung_up:
            connection.transport.write(
                b"%s%s%sContent-Length: %d\r\n\r\n%s"
                % (_STATUS[status], connection.persistence(self), headers, len(body), body)
                if self.method != b"HEAD"
                else b"%s%s%sContent-Length: %d\r\n\r\n"
                % (_STATUS[status], connection.persistence(self), headers, len(body))
            )
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
            self.connection.transport.write(b"%x\r\n%s\r\n" % (len(data), data) if self.chunked else data)

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


class Edge:
    """What the connections of a worker share. `now`: loop time to the nearest sweep; `date`: the Date header line;
    `buffered`: bytes of request bodies held; `draining`: each answer is its connection's last."""

    def __init__(self, app: App, limits: Limits) -> None:
        self.app = app
        self.limits = limits
        self.loop = asyncio.get_running_loop()
        self.connections: set[Connection] = set()
        self.now = self.loop.time()
        self.date = b""
        self.buffered = 0
        self.draining = False
        self.emptied: asyncio.Event | None = None  # set, once somebody waits for it, when the last connection is gone


class Connection:
    """One client. All state changes happen in its callbacks and in `finished`, none across an await."""

    __slots__ = (
        "active",
        "body_size",
        "closing",
        "deadline",
        "decompress",
        "edge",
        "field_count",
        "fields",
        "framing",
        "limits",
        "parser",
        "parts",
        "peer",
        "phase",
        "pipelined",
        "queue",
        "receiving",
        "transport",
        "url",
    )

    transport: asyncio.Transport

    def __init__(self, edge: Edge) -> None:
        self.edge = edge
        self.limits = edge.limits
        self.parser = httptools.HttpRequestParser(self)
        self.active: Request | None = None  # being answered
        self.receiving: Request | None = None  # its head is whole, its body is not
        self.queue: deque[Request] = deque()  # whole, or refused, waiting their turn
        self.fields: dict[bytes, bytes] = {}
        self.url = b""
        self.parts: list[bytes] = []
        self.body_size = 0
        self.field_count = 0
        self.framing = 0
        self.pipelined = 0
        self.decompress: zlib._Decompress | None = None
        self.closing = False  # nothing more is read: what arrives is discarded
        self.peer = ""
        self.phase = _HEAD
        self.deadline = edge.now + self.limits.header_timeout

    # -- the transport's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.peer = str(peer[0])
        connections = self.edge.connections
        if len(connections) >= self.limits.connections:
            refusal = Overloaded("Too many connections are open; try again shortly.", headers=((b"Retry-After", b"1"),))
            self._refuse_without_head(refusal)
        connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.edge.connections.discard(self)
        if self.edge.emptied is not None and not self.edge.connections:
            self.edge.emptied.set()
        self.closing = True
        for request in (self.active, self.receiving, *self.queue):
            if request is None:
                continue
            request.hung_up = True
            if request.pending is not None:
                request.pending.cancel()
            if request.task is not None:
                request.task.cancel()
        if self.receiving is not None:
            self._forget_body()
        self._forget_queue()

    def eof_received(self) -> None:
        """A half-closed client is a client that hung up: returning None closes the transport."""

    def pause_writing(self) -> None:
        self.deadline = self.edge.now + self.limits.idle_timeout
        if self.active is not None and self.active.flow is not None:
            self.active.flow.pause()

    def resume_writing(self) -> None:
        if self.phase == _BUSY:
            self.deadline = NEVER
        if self.active is not None and self.active.flow is not None:
            self.active.flow.resume()

    def data_received(self, data: bytes) -> None:
        if self.closing:
            return
        size = len(data)
        self.framing += size
        if self.active is not None:
            self.pipelined += size
            if self.pipelined > PIPELINE_BYTES:
                self.transport.abort()
                return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(InvalidRequest("Upgrading the connection and CONNECT are not supported."))
        except httptools.HttpParserError as error:
            self._parser_failed(error)
        else:
            if self.framing > self.limits.head_bytes:
                self._check_framing()
        if self.active is None:
            self._advance()

    # -- the parser's callbacks

    def on_message_begin(self) -> None:
        self.fields = {}
        self.url = b""
        self.field_count = 0

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.receiving is not None:
            return  # a trailer: nothing we act on may come after the body
        self.field_count += 1
        name = name.lower()
        fields = self.fields
        fields[name] = value if name not in fields else b"%s, %s" % (fields[name], value)

    def on_headers_complete(self) -> None:
        path, _, query = self.url.partition(b"?")
        self.receiving = request = Request(self, self.parser.get_method(), path, query, self.edge.loop.time())
        self.parts = []
        self.body_size = 0
        self._check_head(request)
        if self.edge.draining:
            raise Overloaded("The server is shutting down; try again.", headers=((b"Retry-After", b"1"),))
        admission = self.edge.app.admit(request)
        if admission is not None:
            self.transport.pause_reading()
            request.pending = asyncio.ensure_future(admission)
            request.pending.add_done_callback(lambda done: self._admitted(request, done))
        elif request.expects_continue:
            self._continue()

    def on_body(self, data: bytes) -> None:
        self.framing -= len(data)
        if self.decompress is not None:
            data = self._decompressed(data)
        self.body_size += len(data)
        self.edge.buffered += len(data)
        if self.body_size > self.limits.body_bytes:
            self._body_too_large()
        if self.edge.buffered > self.limits.buffered_bytes:
            raise Overloaded("Too many request bodies are being received; try again shortly.")
        self.parts.append(data)

    def on_message_complete(self) -> None:
        request = self.receiving
        assert request is not None
        self.receiving = None
        if self.decompress is not None and not self.decompress.eof:
            self.receiving = request
            raise InvalidRequest("The gzip body is cut short.")
        parts = self.parts
        request.body = parts[0] if len(parts) == 1 else b"".join(parts)
        request.keep_alive = self.parser.should_keep_alive()
        self.queue.append(request)

    # -- judging

    def _check_head(self, request: Request) -> None:
        """What llhttp lets pass and we do not; raises Refusal."""
        fields = self.fields
        version = self.parser.get_http_version()
        if version != "1.1":
            if version != "1.0":
                raise InvalidRequest("Only HTTP/1.1 and HTTP/1.0 are served.")
            request.http_1_0 = True
        if self.field_count > self.limits.headers:
            raise HeadTooLarge(f"More than {self.limits.headers} header fields.")
        if request.path[:1] != b"/":
            request.path = _absolute_path(self.url)
        host = fields.get(b"host")
        if (b"," in host) if host is not None else not request.http_1_0:
            raise InvalidRequest("Exactly one Host header is required.")
        self.decompress = None
        self._check_body_fields(request, fields)

    def _check_body_fields(self, request: Request, fields: dict[bytes, bytes]) -> None:
        coding = fields.get(b"transfer-encoding")
        if coding is not None and coding.lower() != b"chunked":
            raise InvalidRequest("The only Transfer-Encoding that is served is chunked.")
        if coding is not None and request.http_1_0:
            raise InvalidRequest("HTTP/1.0 has no Transfer-Encoding.")
        length = fields.get(b"content-length")
        if length is not None and int(length) > self.limits.body_bytes:
            self._body_too_large()
        encoding = fields.get(b"content-encoding")
        if encoding is not None and (encoding := encoding.lower()) != b"identity":
            if encoding not in (b"gzip", b"x-gzip"):
                raise UnsupportedMedia("Content-Encoding must be gzip or identity.")
            self.decompress = zlib.decompressobj(wbits=31)
        if b"expect" in fields:
            request.expects_continue = fields[b"expect"].lower() == b"100-continue"

    def _body_too_large(self) -> None:
        raise BodyTooLarge(f"The request body is larger than {self.limits.body_bytes} bytes.")

    def _check_framing(self) -> None:
        """Called between reads, when what was read is mostly not body. Each message may have a head of its own."""
        chunked_allowance = 5 * self.body_size if self.receiving is not None else 0
        heads = len(self.queue) + 1
        if self.framing > self.limits.head_bytes * heads + chunked_allowance:
            self._refuse(HeadTooLarge(f"More than {self.limits.head_bytes} bytes of header fields and framing."))

    def _decompressed(self, data: bytes) -> bytes:
        assert self.decompress is not None
        allowed = self.limits.body_bytes - self.body_size + 1
        try:
            out = self.decompress.decompress(data, allowed)
        except zlib.error as error:
            raise InvalidRequest("The body is not valid gzip.") from error
        if self.decompress.unconsumed_tail:
            self._body_too_large()
        if self.decompress.unused_data:
            raise InvalidRequest("There are bytes after the end of the gzip body.")
        return out

    def _parser_failed(self, error: httptools.HttpParserError) -> None:
        cause = error.__context__
        if isinstance(cause, Refusal):  # raised by one of the callbacks above
            self._refuse(cause)
        elif cause is not None and isinstance(error, httptools.HttpParserCallbackError):
            raise cause
        else:
            self._refuse(InvalidRequest(f"This is not a valid HTTP/1.1 request: {error}."))

    # -- answering, in order

    def _admitted(self, request: Request, done: asyncio.Future[None]) -> None:
        request.pending = None
        if self.closing or done.cancelled():
            return
        refusal = _refusal_of(done)
        if refusal is not None:
            if self.receiving is request:
                self._refuse(refusal)
            else:
                request.refusal = refusal  # whole already, and waiting its turn
                self.closing = True
        elif request.expects_continue:
            self._continue()
        self.transport.resume_reading()
        if self.active is None:
            self._advance()

    def _continue(self) -> None:
        if self.active is None and not self.queue:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _refuse(self, refusal: Refusal) -> None:
        """Refuse the request that is being received, once those before it are answered, and read no more."""
        self.closing = True
        request = self.receiving
        if request is None:
            request = Request(self, b"GET", b"", b"", self.edge.loop.time())
        else:
            self._forget_body()
        if request.pending is not None:
            request.pending.cancel()
            request.pending = None
            self.transport.resume_reading()
        request.refusal = refusal
        self.queue.append(request)

    def _refuse_without_head(self, refusal: Refusal) -> None:
        self._refuse(refusal)
        self._advance()

    def _advance(self) -> None:
        """Start the next request that is ready; else note what is being waited for."""
        if not self.queue:
            if self.receiving is not None:
                if self.phase != _BODY:
                    self.phase, self.deadline = _BODY, self.edge.now + self.limits.body_timeout
            elif self.framing and self.phase != _HEAD:
                self.phase, self.deadline = _HEAD, self.edge.now + self.limits.header_timeout
            return
        request = self.queue[0]
        if request.pending is not None:
            return
        self.queue.popleft()
        if self.receiving is None:
            self.framing = 0
        self.pipelined = sum(len(waiting.body) for waiting in self.queue)
        if self.pipelined > PIPELINE_BYTES:
            self.transport.abort()
            return
        self.active = request
        self.phase, self.deadline = _BUSY, NEVER
        if request.refusal is not None:
            self._answer_refusal(request)
        else:
            request.task = self.edge.loop.create_task(self.edge.app.answer(request))

    def _answer_refusal(self, request: Request) -> None:
        assert request.refusal is not None
        request.keep_alive = False
        headers, body = self.edge.app.refuse(request if request.path else None, request.refusal)
        request.respond(request.refusal.status, headers, body)

    def persistence(self, request: Request) -> bytes:
        """The Date and, where it matters, Connection header lines of an answer."""
        if request.keep_alive and not self.edge.draining and not (self.closing and not self.queue):
            return self.edge.date if not request.http_1_0 else self.edge.date + b"Connection: keep-alive\r\n"
        request.keep_alive = False
        return self.edge.date + b"Connection: close\r\n"

    def finished(self, request: Request) -> None:
        """The answer to the active request has been written whole."""
        self.edge.buffered -= len(request.body)
        request.body = b""
        self.active = None
        if request.hung_up:
            return
        if not request.keep_alive:
            self._close()
            return
        self.phase, self.deadline = _IDLE, self.edge.now + self.limits.idle_timeout
        if self.queue or self.receiving is not None or self.framing:
            self._advance()

    def _close(self) -> None:
        """Close after what was written; gently if the client may still be sending."""
        self._forget_queue()
        if not self.closing or self.transport.is_closing():
            self.transport.close()
            return
        self.phase, self.deadline = _LINGER, self.edge.now + LINGER_SECONDS
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    def _forget_body(self) -> None:
        """Drop what was received of the body that is not whole."""
        self.edge.buffered -= self.body_size
        self.body_size = 0
        self.parts = []
        self.receiving = None

    def _forget_queue(self) -> None:
        self.edge.buffered -= sum(len(waiting.body) for waiting in self.queue)
        self.queue.clear()

    def expire(self) -> None:
        """The deadline has passed: a dribbling sender is told so, a silent or unreading client is cut off."""
        if (self.phase == _HEAD and self.framing) or self.phase == _BODY:
            what = "body" if self.phase == _BODY else "head"
            self._refuse_without_head(RequestTimeout(f"The request's {what} took too long to arrive."))
        elif self.phase == _IDLE or self.phase == _HEAD:
            self.transport.close()
        else:
            self.transport.abort()

    def shut(self) -> None:
        """Drain: close if nothing is in flight here; else the answer in flight will be the last."""
        if self.active is None and not self.queue and self.receiving is None:
            self.transport.close()


def _absolute_path(url: bytes) -> bytes:
    """The path of an absolute-form target (RFC 9112 section 3.2.2)."""
    try:
        return cast("bytes | None", httptools.parse_url(url).path) or b"/"
    except httptools.HttpParserInvalidURLError as error:
        raise InvalidRequest("The request target is not a valid URL.") from error


def _refusal_of(admission: asyncio.Future[None]) -> Refusal | None:
    """What an admission that was waited for decided; an error in it is our fault and goes to the loop's handler."""
    error = admission.exception()
    if error is None or isinstance(error, Refusal):
        return error
    admission.get_loop().call_exception_handler({"message": "admission failed", "exception": error})
    return ServerFault("The request could not be admitted.")
