"""One client connection: HTTP/1.1 parsed by httptools, bounded in every direction, answered in order.

A `Connection` parses what arrives and calls the application twice per request: `admit` when the head
is whole (so that a bad key is refused with the body unread) and `answer`, in a task, when the body is. It keeps
reading while a request is in flight, since that is the only way to see a client hang up; what is pipelined
meanwhile waits its turn, at most `PIPELINE_BYTES` of it, and answers leave in order.

llhttp, the parser under httptools, is strict and stays so: it refuses Content-Length beside Transfer-Encoding,
repeated or malformed lengths, bare LF, control bytes, folded fields and malformed chunk sizes. What it accepts and
we do not: codings other than chunked, a missing Host (RFC 9112 section 3.2), HTTP versions but 1.0 and 1.1, and
framing without end: bytes that are neither body nor worth five times the body (the worst honest case, chunks of
one byte) count against `head_bytes`, so fields, chunk extensions and trailers are bounded together. It also takes what
follows a head that asks for an upgrade as the other protocol; we upgrade to nothing, so such a head is parsed again
without the wish, and its body stays its body.

After a refusal the connection closes, but gently: our side is shut first and what the client still sends is
discarded for a while, because closing over unread input makes the kernel destroy the answer on its way.

What all connections share is the `Edge`: the application, the limits, the time, the budget for bodies.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import deque
from collections.abc import Awaitable
from typing import Protocol, cast

import httptools

from penstock.config import Limits
from penstock.errors import HeadTooLarge, InvalidRequest, Refusal, RequestTimeout
from penstock.http import rules
from penstock.http.carrier import Carrier
from penstock.http.outbox import GatheringTransport, Outbox
from penstock.http.repeats import Repeats
from penstock.http.request import Request

PIPELINE_BYTES = 64 * 1024
LINGER_SECONDS = 2.0
NEVER = float("inf")

_IDLE, _HEAD, _BODY, _BUSY, _LINGER = range(5)


class App(Protocol):
    """What the edge serves."""

    def admit(self, request: Request) -> Awaitable[object] | None:
        """Judge a request by its head: raise Refusal, or return an awaitable to be waited for before the body."""
        ...

    async def answer(self, request: Request) -> None:
        """Answer a whole request: `respond`, or `start`, `write` and `end`. Cancelled when the client hangs up
        (`request.hung_up`) or it was stopped (`request.stopped` says why); it must end the answer even so."""
        ...

    def refuse(self, request: Request | None, refusal: Refusal) -> tuple[bytes, bytes]:
        """Render a refusal: header lines and body. Without a request when no head could be read."""
        ...


class Edge:
    """What the connections of a worker share. `now`: loop time to the nearest sweep; `date`: the Date header line;
    `buffered`: bytes of request bodies held; `draining`: each answer is its connection's last."""

    def __init__(self, app: App, limits: Limits) -> None:
        self.app = app
        self.limits = limits
        self.loop = asyncio.get_running_loop()
        self.outbox = Outbox(self.loop)
        self.connections: set[Connection] = set()
        self.now = self.loop.time()
        self.date = b""
        self.buffered = 0
        self.draining = False
        self.emptied: asyncio.Event | None = None  # set, once somebody waits for it, when the last connection is gone

    def connection(self) -> asyncio.Protocol:
        """One that has yet to be made: it is a protocol by its shape."""
        return cast("asyncio.Protocol", Connection(self))


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
        "repeats",
        "transport",
        "unsent",
        "unwritable",
        "url",
    )

    transport: GatheringTransport

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
        self.framing = 0  # bytes of the message being received that are not its body, at least; 0 between messages
        self.pipelined = 0  # bytes behind the request being answered, about
        self.unwritable = False  # the client reads slowly: nothing more is begun
        self.unsent = 0  # bytes in the transport when the client was last found not to read
        self.decompress: zlib._Decompress | None = None
        self.closing = False  # nothing more is read: what arrives is discarded
        self.peer = ""
        self.repeats = Repeats()
        self.phase = _HEAD
        self.deadline = edge.now + self.limits.header_timeout

    # -- the transport's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = GatheringTransport(cast("asyncio.Transport", transport), self.edge.outbox)
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.peer = str(peer[0])
        connections = self.edge.connections
        if len(connections) >= self.limits.connections:
            self._refuse(rules.overloaded("Too many connections are open; try again shortly."))
            self._advance()
        connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.edge.connections.discard(self)
        if self.edge.emptied is not None and not self.edge.connections:
            self.edge.emptied.set()
        self.closing = True
        request = self.active
        if request is not None:
            request.hung_up = True
            self.edge.buffered -= len(request.body)  # now: a task that is cancelled before it began ends without a word
            request.body = b""
            if request.task is not None:
                request.task.cancel()
        self._forget_waiting()

    def eof_received(self) -> None:
        """A half-closed client is a client that hung up: returning None closes the transport, once all is sent."""
        if self.active is not None:
            self.transport.abort()
        else:
            self.transport.flush()

    def pause_writing(self) -> None:
        self.unwritable = True
        self.unsent = self.transport.get_write_buffer_size()
        if self.phase == _BUSY:
            self.deadline = self.edge.now + self.limits.idle_timeout
        if self.active is not None and self.active.flow is not None:
            self.active.flow.pause()

    def resume_writing(self) -> None:
        self.unwritable = False
        if self.phase == _BUSY:
            self.deadline = NEVER
        if self.active is None:
            self._advance()
        elif self.active.flow is not None:
            self.active.flow.resume()

    def data_received(self, data: bytes) -> None:
        if self.closing:
            return
        alone = not (self.framing or self.receiving is not None or self.active or self.queue)
        body = self.repeats.body(data) if alone else None
        if body is None or not self._repeat(body):
            if len(data) > self.limits.head_bytes:  # by pieces, so that framing is judged before all of it is taken
                self._take_apart(data, alone)
                return
            if self._is_flooded(len(data)):
                self.transport.abort()
                return
            self._parse(data, alone)
        if self.active is None:
            self._advance()
            if self.queue and not self.pipelined:
                self.pipelined = sum(waiting.weight() for waiting in self.queue)

    def _take_apart(self, data: bytes, alone: bool) -> None:
        piece = self.limits.head_bytes
        for start in range(0, len(data), piece):
            self.data_received(data[start : start + piece])
        if alone and self.active is not None and not (self.framing or self.receiving or self.queue or self.closing):
            self.repeats.remember(data, self.active)

    def _is_flooded(self, size: int) -> bool:
        """Whether with so many bytes more there is too much behind what is being answered."""
        if self.active is not None or self.queue:
            self.pipelined += size
        return self.pipelined > PIPELINE_BYTES

    def _parse(self, data: bytes, alone: bool) -> None:
        """Have the parser read; `alone`: nothing is in hand, so that this may be one whole request and no more."""
        self.framing += len(data)
        upgrade: httptools.HttpParserUpgrade | None = None
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as wish:
            upgrade = wish
        except httptools.HttpParserError as error:
            self._parser_failed(error)
        if upgrade is not None:  # not above: the context of an error that is raised there would not be its cause
            self._ignore_upgrade(data, upgrade)
        elif self.framing > self.limits.head_bytes and not self.closing:
            self._check_framing()
        elif alone and not self.framing and not self.closing and len(self.queue) == 1 and self.receiving is None:
            self.repeats.remember(data, self.queue[0])

    def _repeat(self, body: bytes) -> bool:
        """Take a whole request that has the head of the one before; False where that must be judged again."""
        edge, size = self.edge, len(body)
        edge.buffered += size
        if edge.draining or size > self.limits.body_bytes or edge.buffered > self.limits.buffered_bytes:
            edge.buffered -= size
            return False
        repeats = self.repeats
        self.fields = repeats.fields
        self.receiving = request = Request(self, repeats.method, repeats.path, repeats.query)
        request.known = repeats.known
        self.body_size = size
        try:
            self._admit(request)
        except Refusal as refusal:
            self._refuse(refusal)
        else:
            repeats.known = request.known
            self.receiving = None
            request.body = body
            if request.pending is None and not self.unwritable:
                self._begin(request)
            else:
                self.queue.append(request)
        return True

    # -- the parser's callbacks

    def on_message_begin(self) -> None:
        if not self.framing:  # another message began in the same read
            self.framing = 1
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
        if b"upgrade" in self.fields and self.parser.should_upgrade():
            return  # comes again, without the wish
        path, _, query = self.url.partition(b"?")
        self.receiving = request = Request(self, self.parser.get_method(), path, query)
        self.parts = []
        self.body_size = 0
        self._check_head(request)
        if self.edge.draining:
            raise rules.overloaded(rules.SHUTTING_DOWN)
        self._admit(request)
        if request.pending is None and request.expects_continue:
            self._continue(request)

    def on_body(self, data: bytes) -> None:
        self.framing -= len(data)
        if self.decompress is not None:
            data = rules.inflate(self.decompress, data, self.body_size, self.limits)
        self.body_size += len(data)
        self.edge.buffered += len(data)
        if self.body_size > self.limits.body_bytes:
            raise rules.body_too_large(self.limits)
        if self.edge.buffered > self.limits.buffered_bytes:
            raise rules.overloaded("Too many request bodies are being received; try again shortly.")
        self.parts.append(data)

    def on_message_complete(self) -> None:
        request = self.receiving
        if request is None:
            return  # the head that asks for an upgrade
        if self.decompress is not None and not self.decompress.eof:
            raise InvalidRequest("The gzip body is cut short.")
        self.framing = 0
        self.receiving = None
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
        if self.framing > self.limits.head_bytes and request.weight() > self.limits.head_bytes:
            raise rules.head_too_large(self.limits)
        if request.path[:1] != b"/":
            request.path = rules.absolute_path(request.method, self.url)
        host = fields.get(b"host")
        if (b"," in host) if host is not None else not request.http_1_0:
            raise InvalidRequest("Exactly one Host header is required.")
        gzip = rules.check_body_fields(fields, request.http_1_0, self.limits)
        self.decompress = zlib.decompressobj(rules.GZIP) if gzip else None
        if b"expect" in fields and not request.http_1_0:
            request.expects_continue = fields[b"expect"].lower() == b"100-continue"

    def _check_framing(self) -> None:
        """Called between reads, when what was read is mostly not body."""
        worth = 5 * self.body_size if self.receiving is not None else 0
        if self.framing > self.limits.head_bytes + worth:
            self._refuse(rules.head_too_large(self.limits))

    def _ignore_upgrade(self, data: bytes, upgrade: httptools.HttpParserUpgrade) -> None:
        """RFC 9110 section 7.8: who does not upgrade answers as if it had not been asked."""
        while True:
            if self.fields.pop(b"upgrade", None) is None:
                self.queue[-1].refusal = InvalidRequest("CONNECT is not supported.")
                self.closing = True
                return
            lines = b"".join(b"%s: %s\r\n" % field for field in self.fields.items())
            start = (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
            data = b"%s %s HTTP/%s\r\n%s\r\n%s" % (*start, lines, data[upgrade.args[0] :])
            self.parser = httptools.HttpRequestParser(self)
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as another:
                upgrade = another
            except httptools.HttpParserError as error:
                self._parser_failed(error)
                return

    def _parser_failed(self, error: httptools.HttpParserError) -> None:
        cause = error.__context__
        if isinstance(cause, Refusal):  # raised by one of the callbacks above
            self._refuse(cause)
        elif cause is not None and isinstance(error, httptools.HttpParserCallbackError):
            raise cause
        else:
            self._refuse(InvalidRequest(f"This is not a valid HTTP/1.1 request: {error}."))

    # -- answering, in order

    def _admit(self, request: Request) -> None:
        admission = self.edge.app.admit(request)
        if admission is not None:
            request.pending = asyncio.ensure_future(admission)
            request.pending.add_done_callback(lambda done: self._admitted(request, done))

    def _admitted(self, request: Request, done: asyncio.Future[object]) -> None:
        if request.pending is not done:
            return  # the client hung up, or was refused, meanwhile
        request.pending = None
        refusal = rules.refusal_of(done)
        if refusal is not None:
            if self.receiving is request:
                self._refuse(refusal)
            else:
                request.refusal = refusal  # whole already, and waiting its turn
                self.closing = True
        elif request.expects_continue and self.receiving is request:
            self._continue(request)
        self.transport.resume_reading()
        if self.active is None:
            self._advance()

    def _continue(self, request: Request) -> None:
        """Ask for the body, unless answers to earlier requests come first: then `_advance` asks."""
        if self.active is None and not self.queue:
            request.expects_continue = False
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _refuse(self, refusal: Refusal) -> None:
        """Refuse the request that is being received, once those before it are answered, and read no more."""
        self.closing = True
        request = self.receiving
        if request is None:
            request = Request(self, b"GET", b"", b"")
        else:
            self._forget_body()
        if request.pending is not None:
            request.withdraw()
            self.transport.resume_reading()
        request.refusal = refusal
        self.queue.append(request)

    def _advance(self) -> None:
        """Start the next request that is ready; else note what is being waited for."""
        if not self.queue:
            if self.receiving is not None:
                self._await_body(self.receiving)
            elif self.framing and self.phase != _HEAD:
                self.phase, self.deadline = _HEAD, self.edge.now + self.limits.header_timeout
            return
        request = self.queue[0]
        if request.pending is not None:
            self._await_admission()
            return
        if self.unwritable:
            return
        self.queue.popleft()
        if self.pipelined:
            self.pipelined = max(0, self.pipelined - request.weight()) if self.queue else 0
        self._begin(request)

    def _begin(self, request: Request) -> None:
        """Answer a request, before which there is none."""
        self.active = request
        self.phase, self.deadline = _BUSY, NEVER
        if request.refusal is not None:
            self._answer_refusal(request)
        else:
            request.task = carrier = Carrier(self.edge.loop, self.edge.app.answer(request))
            carrier.step()

    def _await_body(self, request: Request) -> None:
        if request.pending is not None:
            self._await_admission()
        elif self.phase != _BODY:
            self.phase, self.deadline = _BODY, self.edge.now + self.limits.body_timeout
            if request.expects_continue:
                self._continue(request)

    def _await_admission(self) -> None:
        """Read nothing more before it is known who is calling. A hang-up is seen afterwards."""
        self.phase, self.deadline = _BUSY, NEVER
        self.transport.pause_reading()

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
        if not request.keep_alive or self.edge.draining:
            self._close()
            return
        self.phase, self.deadline = _IDLE, self.edge.now + self.limits.idle_timeout
        if self.queue or self.receiving is not None or self.framing:
            self._advance()

    def _close(self) -> None:
        """Close after what was written; gently if the client may still be sending."""
        self._forget_waiting()
        self.phase, self.deadline = _LINGER, self.edge.now + LINGER_SECONDS
        if self.closing and self.transport.can_write_eof() and not self.transport.is_closing():
            self.transport.write_eof()
        else:
            self.transport.close()
        self.unsent = 0  # a slow reader gets more time when this deadline passes

    def _forget_body(self) -> None:
        """Drop what was received of the body that is not whole."""
        self.edge.buffered -= self.body_size
        self.body_size = 0
        self.parts = []
        self.receiving = None

    def _forget_waiting(self) -> None:
        """Drop all that has not begun to be answered."""
        for request in self.queue:
            self.edge.buffered -= len(request.body)
            request.withdraw()
        self.queue.clear()
        if self.receiving is not None:
            self.receiving.withdraw()
            self._forget_body()

    def expire(self) -> None:
        """The deadline has passed: a dribbling sender is told so; a silent client, or one that takes nothing of what
        is sent to it, is cut off."""
        unsent = self.transport.get_write_buffer_size()
        if ((self.phase == _HEAD and self.framing) or self.phase == _BODY) and not self.closing:
            what = "body" if self.phase == _BODY else "head"
            self._refuse(RequestTimeout(f"The request's {what} took too long to arrive."))
            self._advance()
        elif unsent and (unsent < self.unsent or not self.unsent):
            self.unsent, self.deadline = unsent, self.edge.now + self.limits.idle_timeout
        elif unsent or self.phase == _BUSY or self.transport.is_closing():
            self.transport.abort()
        else:
            self.transport.close()

    def shut(self) -> None:
        """Drain: close if nothing has begun here; else the answer in flight will be the last."""
        if self.active is None and not self.queue and self.receiving is None and not self.framing and not self.closing:
            self.transport.close()

    def cut_short(self) -> None:
        """The drain limit has passed: end the answer in flight, refuse what has not got so far."""
        if self.active is not None:
            self.active.stop(rules.shut_down())
        elif self.closing:
            return  # its last answer is on its way
        elif self.queue or self.receiving is not None:
            self._forget_waiting()
            self._refuse(rules.overloaded(rules.SHUTTING_DOWN))
            self._advance()
        else:
            self.transport.close()
