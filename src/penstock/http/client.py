"""The upstream client: pooled keep-alive connections on httptools, one pool per origin, and no retries.

A caller takes a connection (`take`, or `http.connecting.connect` when none is idle), sends one call with a `Sink`,
and is told of the answer by callbacks: head, data, then exactly one of end or fault. Afterwards the connection has
gone back to its pool, or is closed. `abort` at any moment before that closes it at once and silences the sink; there
is no other way to give up, so a cancelled request cannot leave a call running.

A connection belongs to exactly one of: being connected, idle in the pool, busy with one sink, closed. `Pool.open`
counts all but the last, never above `max_connections`; who finds it full waits, first come first served, at most
`pool_wait` seconds (`http.connecting`), and whoever stops using a connection hands its place on.

Deadlines are separate and each armed in its own phase: connect (while connecting), then by the pool's sweep: headers,
first event (until the caller says `first_event_seen`), idle between reads, and total over all of them. They are
exact to the sweep's interval. While the caller has paused reading, silence is not the upstream's fault, and only
the total runs.

A reused connection that closes before any byte of the answer is reported as STALE: the upstream closed an idle
connection just as we picked it, and `gateway.upstream` may repeat the call.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Callable
from typing import Protocol, cast

import httptools

from penstock.config import Deadlines, Upstream
from penstock.errors import FailureKind
from penstock.http.carrier import Signal
from penstock.http.outbox import Outbox
from penstock.types import Origin

SWEEP = 0.1
KEEP_IDLE = 30.0  # below the 60 s and more for which servers usually keep their side
DRAIN_SECONDS = 1.0
JOINED = 16 * 1024  # bytes of a body up to which it is copied behind its head; two pieces cost the kernel as much
NEVER = float("inf")

# The phases of a call. A name of the module is ten times quicker than an enum's attribute, at every read.
_HEADERS, _FIRST_EVENT = FailureKind.TIMEOUT_HEADERS, FailureKind.TIMEOUT_FIRST_EVENT
_IDLE = FailureKind.TIMEOUT_IDLE

HeaderList = list[tuple[bytes, bytes]]

_FRAMING = frozenset((b"content-length", b"transfer-encoding"))


class Sink(Protocol):
    """Who is told of an answer. Callbacks must not raise; they may call `abort` or `detach`."""

    # `connection.headers()` may be called here, and not later.
    def on_head(self, status: int, connection: ClientConnection) -> None: ...

    def on_data(self, data: bytes) -> None: ...

    def on_end(self) -> None: ...

    def on_fault(self, kind: FailureKind, message: str) -> None: ...


class _Drain:
    """Takes the rest of an answer that nobody wants any more."""

    def on_head(self, status: int, connection: ClientConnection) -> None: ...

    def on_data(self, data: bytes) -> None: ...

    def on_end(self) -> None: ...

    def on_fault(self, kind: FailureKind, message: str) -> None: ...


_DRAIN = _Drain()


class _Ending(_Drain):
    """The same, for one who waits for the end."""

    def __init__(self, ended: Signal) -> None:
        self._ended = ended

    def on_end(self) -> None:
        self._ended.give()

    def on_fault(self, kind: FailureKind, message: str) -> None:
        self.on_end()


class _Unconnected(asyncio.Transport):
    """Stands for the transport until there is one."""

    def abort(self) -> None: ...


_UNCONNECTED = _Unconnected()


class ClientConnection:
    """One connection to an upstream. Use through a `Pool`."""

    __slots__ = (
        "_answered",
        "_begins",
        "_head",
        "_in_body",
        "_informational",
        "_left",
        "_parser",
        "_paused",
        "_received",
        "_total",
        "_unsent",
        "_until_close",
        "_whole",
        "deadline",
        "idle_since",
        "phase",
        "pool",
        "sink",
        "total_deadline",
        "transport",
    )

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.transport: asyncio.Transport = _UNCONNECTED
        self.sink: Sink | None = None
        self.phase = FailureKind.TIMEOUT_HEADERS
        self.deadline = NEVER
        self.total_deadline = NEVER
        self._total = NEVER
        self._unsent: tuple[bytes, ...] = ()  # the call, until this turn of the loop ends
        self._begins: Callable[[], object] | None = None
        self.idle_since = 0.0
        self._parser = httptools.HttpResponseParser(self)
        self._head = b""  # what was read until the head was whole, and what came with that
        self._answered = 0  # calls answered before this one
        self._received = 0  # bytes of this answer's head, and later since the last of its body
        self._in_body = False
        self._informational = False
        self._until_close = False  # the answer ends where the connection does, or the connection where the answer does
        self._paused = False
        self._left = False
        self._whole: Sink | None = None  # whose answer has just ended

    # -- for the caller

    def send(
        self,
        head: bytes,
        body: bytes,
        sink: Sink,
        deadlines: Deadlines,
        patience: float = NEVER,
        begins: Callable[[], object] | None = None,
    ) -> None:
        """Send one call when this turn of the loop ends; `head` has no blank line and no Content-Length.

        `patience`: when, on the loop's clock, nobody waits any more for an answer that has not begun. `begins` is
        called just before anything is sent, and not at all where the call is given up before.
        """
        now = self.pool.now()
        self.sink = sink
        self.phase = _HEADERS
        self.deadline = now + deadlines.headers
        self.total_deadline = self._total = now + deadlines.total
        if patience < self._total:
            self.total_deadline = patience
        self._received = 0
        if len(body) <= JOINED:
            self._unsent = (b"%sContent-Length: %d\r\n\r\n%s" % (head, len(body), body),)
        else:
            self._unsent = b"%sContent-Length: %d\r\n\r\n" % (head, len(body)), body
        self._begins = begins
        outbox = self.pool.outbox
        if not outbox.waiting:
            outbox.rouse()
        outbox.waiting.append(self)

    def headers(self) -> HeaderList:
        """The fields of the head that has just been read, with lower-case names.

        Few answers are asked for theirs, so they are not gathered as they come; the parser has found them in order.
        """
        head, _, _ = self._head.lstrip(b"\r\n").partition(b"\r\n\r\n")
        fields = (line.partition(b":") for line in head.split(b"\r\n")[1:])
        return [(name.lower(), value.strip(b" \t")) for name, _, value in fields]

    def first_event_seen(self) -> None:
        """From here on silence is measured between reads."""
        self.phase = _IDLE
        self.deadline = self.pool.swept + self.pool.deadlines.idle
        self.total_deadline = self._total

    def outlast(self) -> None:
        """Whose patience it was has gone, and the answer is read on all the same."""
        self.total_deadline = self._total

    def await_end(self, seconds: float) -> None:
        """All that matters has come: from here on, silence for so long ends the answer."""
        if not self._paused:
            self.deadline = self.pool.swept + seconds

    def pause(self) -> None:
        """Stop reading: the client does not keep up."""
        if self.sink is not None and not self._paused:
            self._paused = True
            self.deadline = NEVER
            self.transport.pause_reading()

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            self.deadline = self.pool.now() + self.pool.deadlines.idle
            self.transport.resume_reading()

    def abort(self) -> None:
        """Close now; the sink hears no more. Does nothing once the answer has ended."""
        if self.sink is not None:
            self.sink = None
            self._leave()
            self.transport.abort()

    def hurry(self, seconds: float) -> None:
        """What is left of this answer has so long and no longer."""
        self.total_deadline = min(self.total_deadline, self.pool.now() + seconds)

    def detach(self) -> bool:
        """The rest of this answer does not matter: keep the connection if it ends within a moment. Whether there is a
        rest still to come."""
        if self.sink is None:
            return False
        self.resume()
        self.sink = _DRAIN
        self.hurry(DRAIN_SECONDS)
        return True

    async def ended(self) -> None:
        """After `detach`: return when the rest has come, or is not waited for any longer."""
        if self.sink is _DRAIN:
            ended = Signal()
            self.sink = _Ending(ended)
            await ended

    def discard(self) -> None:
        """Close a connection that never reached the pool."""
        self.transport.abort()

    def close(self) -> None:
        """Close a connection that is idle, or whose answer has ended."""
        self._leave()
        self.transport.abort()

    # -- for the outbox

    def flush(self) -> None:
        """Send the call, unless it was given up in the same turn."""
        unsent, self._unsent = self._unsent, ()
        begins, self._begins = self._begins, None
        if self.sink is None:
            return
        if begins is not None:
            try:
                begins()
            except BaseException:  # our fault, which goes to the log; the caller must not wait for an answer
                self.cut(FailureKind.RESET, "was not sent the call")
                raise
        self.transport.writelines(unsent)

    # -- the transport's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def eof_received(self) -> None:
        """The upstream has said all it will: returning None closes the transport."""

    def pause_writing(self) -> None:
        """The request is queued in the transport; what is queued is bounded by the request."""

    def resume_writing(self) -> None: ...

    def data_received(self, data: bytes) -> None:
        if self.sink is None or self._unsent:
            self._heard_unasked()
            return
        self._received += len(data)
        if not self._in_body:
            self._head += data
        if self.phase is _IDLE:
            self.deadline = self.pool.swept + self.pool.deadlines.idle
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.cut(FailureKind.MALFORMED, "switched to another protocol")
        except httptools.HttpParserError as error:
            if isinstance(error, httptools.HttpParserCallbackError) and error.__context__ is not None:
                self.abort()
                raise error.__context__ from None
            self.cut(FailureKind.MALFORMED, "did not answer in valid HTTP/1.1")
        whole = self._whole
        if whole is not None:
            self._end(whole)
        elif self._received > self.pool.max_head_bytes and self.sink is not None:
            # In the body, a trailer or the extension of a chunk: the parser gathers either, at a cost that grows.
            what = "trailer" if self._in_body else "response head"
            self.cut(FailureKind.MALFORMED, f"sent a {what} that is too large")

    def _heard_unasked(self) -> None:
        """Bytes that nobody asked for, or that came before the question was put: no answer to it."""
        kind = FailureKind.STALE if self._answered else FailureKind.RESET
        self.cut(kind, "said something before it was asked")

    def connection_lost(self, exc: Exception | None) -> None:
        if self.sink is not None and self._in_body and self._until_close and exc is None:
            sink, self.sink = self.sink, None
            self._leave()
            sink.on_end()
        elif self._received == 0 and self._answered:
            self.cut(FailureKind.STALE, "closed a reused connection")
        elif self._in_body:
            self.cut(FailureKind.RESET, "broke the connection in the middle of its answer")
        else:
            self.cut(FailureKind.RESET, "closed the connection without an answer")
        self._leave()

    # -- the parser's callbacks

    def on_message_begin(self) -> None:
        if self.sink is None:
            self.close()  # an answer to a question that nobody asked: what follows could reach the wrong caller

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        self._informational = 100 <= status < 200
        if self._informational or self.sink is None:
            self._head = self._head.lstrip(b"\r\n").partition(b"\r\n\r\n")[2]  # the next one follows
            return
        self._in_body = True
        if not self._parser.should_keep_alive() and status not in (204, 304):
            self._until_close = _FRAMING.isdisjoint(name for name, _ in self.headers())
        if self.phase is _HEADERS:
            self.phase = _FIRST_EVENT
            self.deadline = self.pool.swept + self.pool.deadlines.first_event
        self.sink.on_head(status, self)
        self._head = b""

    def on_body(self, data: bytes) -> None:
        self._received = 1  # not none, or the connection would be taken for stale
        if self.sink is not None:
            self.sink.on_data(data)

    def on_message_complete(self) -> None:
        if self._informational:
            return
        self._in_body = False
        if self.sink is None:
            return
        self._whole, self.sink = self.sink, None
        if not self._parser.should_keep_alive():
            self._until_close = True

    # -- inside

    def _end(self, sink: Sink) -> None:
        """An answer has ended with what was read: nothing of that can reach who sends on this connection next."""
        self._whole = None
        self._answered += 1
        if self._paused:
            self._paused = False
            self.transport.resume_reading()
        if not self._until_close and not self.transport.is_closing():
            self.pool.give_back(self)
        else:
            self.close()
        sink.on_end()

    def late(self, now: float) -> bool:
        """Whether a deadline has passed."""
        return self.sink is not None and (self.deadline < now or self.total_deadline < now)

    def expire(self, now: float) -> None:
        """End the call, if it is late still."""
        if not self.late(now):
            return
        late = self.phase if self.deadline < now else FailureKind.TIMEOUT_TOTAL
        self.cut(late, _LATE[late])

    def cut(self, kind: FailureKind, message: str) -> None:
        """Close, and tell the sink why."""
        sink, self.sink = self.sink, None
        self.close()
        if sink is not None:
            sink.on_fault(kind, message)

    def _leave(self) -> None:
        """Give up this connection's place in the pool, once."""
        if not self._left:
            self._left = True
            self.pool.forget(self)


_LATE = {
    FailureKind.TIMEOUT_HEADERS: "did not begin to answer in time",
    FailureKind.TIMEOUT_FIRST_EVENT: "did not send its first event in time",
    FailureKind.TIMEOUT_IDLE: "fell silent in the middle of its answer",
    FailureKind.TIMEOUT_TOTAL: "did not finish its answer in time",
}


class Pool:
    """The connections to one origin.

    `open` counts connections that are being made, idle or busy. `sweep` must be called every `SWEEP` seconds or so;
    `swept` is loop time at the last call, exact enough for deadlines and free to read.
    """

    def __init__(self, origin: Origin, upstream: Upstream) -> None:
        self.origin = origin
        self.deadlines = upstream.deadlines
        self.max_head_bytes = upstream.max_head_bytes
        self.open = 0
        self.connections: set[ClientConnection] = set()
        self.loop = asyncio.get_running_loop()
        self.outbox = Outbox(self.loop)
        self.now = self.loop.time
        self.swept = self.now()
        self.wait = upstream.pool_wait
        self.waiting: deque[asyncio.Future[ClientConnection | None]] = deque()
        self.tls = _client_tls(upstream) if origin.scheme == "https" else None
        self.first_address = 0  # the one that answered last
        self.closed = False
        self._max = upstream.max_connections
        self._idle: deque[ClientConnection] = deque()
        self._kept = True  # whether connections are, after their call

    def take(self) -> ClientConnection | None:
        """The idle connection used last, if there is one: it is the least likely to be stale."""
        idle = self._idle
        while idle:
            connection = idle.pop()
            if not connection.transport.is_closing():
                return connection
        return None

    # -- for who connects

    def reserve(self) -> bool:
        """A place for a connection that is to be made, counted in `open`; False where all are taken."""
        if self.open >= self._max:
            return False
        self.open += 1
        return True

    def return_unused(self, waiter: asyncio.Future[ClientConnection | None]) -> None:
        """Its owner gave up waiting: pass on what it was handed in the same moment, if anything."""
        with contextlib.suppress(ValueError):
            self.waiting.remove(waiter)
        if waiter.done() and not waiter.cancelled():
            connection = waiter.result()
            if connection is None:
                self.hand_on()
            else:
                self.give_back(connection)

    # -- for connections

    def give_back(self, connection: ClientConnection) -> None:
        """Its answer has ended and it can be used again."""
        if not self._kept:
            connection.close()
            return
        while self.waiting:
            waiter = self.waiting.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        connection.idle_since = self.swept
        connection.deadline = connection.total_deadline = NEVER
        self._idle.append(connection)

    def forget(self, connection: ClientConnection) -> None:
        """It is closed."""
        if connection in self.connections:
            self.connections.remove(connection)
            with contextlib.suppress(ValueError):
                self._idle.remove(connection)
            self.hand_on()

    def hand_on(self) -> None:
        """A place is free: the first who waits gets it."""
        while self.waiting:
            waiter = self.waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self.open -= 1

    def sweep(self) -> None:
        """End calls whose deadline has passed; close connections that have been idle for long."""
        self.swept = now = self.now()
        for connection in self.connections:
            if connection.late(now):
                # Not from here: what a sink makes of it must not end the sweep, by which all deadlines are kept.
                self.loop.call_soon(connection.expire, now)
        while self._idle and self._idle[0].idle_since + KEEP_IDLE < now:
            self._idle.popleft().close()

    def retire(self) -> None:
        """Serve those who still have this pool, and keep no connection for others: there will be none."""
        self._kept = False
        while self._idle:
            self._idle.popleft().close()

    def close(self) -> None:
        """Close every connection; calls in flight hear a fault."""
        self._kept = False
        self.closed = True
        for connection in list(self.connections):
            connection.cut(FailureKind.RESET, "was cut off: the server is shutting down")


def _client_tls(upstream: Upstream) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=upstream.ca_file)
    if upstream.client_cert is not None:
        context.load_cert_chain(upstream.client_cert, upstream.client_key)
    context.set_alpn_protocols(["http/1.1"])
    return context
