"""One connection of the fake upstream: reads requests as a real server does, and can break HTTP as no server would.

It reads on while an answer is being given, so that a hang-up (end of input, half-close included, or a reset) is seen
at once: the answer's task is cancelled, which is how a request learns of it. Requests on one connection are answered
in order. Bounds: head 64 KiB, bodies 64 MiB together, 16 requests waiting; beyond them, and for what is not HTTP, an
error is answered and the connection closed. Writes wait until the kernel has taken every byte, so that what counts
as sent was sent, and a reset cannot overtake it.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable
from typing import cast

import httptools
import msgspec

from penstock.fake_upstream.script import Fault
from penstock.fake_upstream.shapes import envelope

MAX_HEAD = 64 * 1024
MAX_BODY = 64 * 1024 * 1024
MAX_WAITING = 16
LINGER = 2.0  # seconds that a refused sender has to read the refusal


class Request(msgspec.Struct, frozen=True):
    """A whole request. Header names are lower case; `keep_alive` is what the client asks for."""

    method: str
    target: str
    http: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    keep_alive: bool

    def header(self, name: str) -> str | None:
        """The first value of a header."""
        return next((value for key, value in self.headers if key == name), None)


Respond = Callable[["Connection", Request], Awaitable[bool]]


class Connection(asyncio.Protocol):
    """Server side of one connection.

    `respond` answers a request and says whether to keep the connection; `on_abandoned` is told of each request that
    the client sent and did not stay for, so that `respond` was never called.
    """

    def __init__(
        self,
        respond: Respond,
        on_made: Callable[[Connection], int],
        on_lost: Callable[[Connection], None],
        on_abandoned: Callable[[Connection, Request], None],
    ) -> None:
        self.number = 0  # given by `on_made`
        self._respond = respond
        self._on_made = on_made
        self._on_lost = on_lost
        self._on_abandoned = on_abandoned
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[Request] = deque()
        self._task: asyncio.Task[None] | None = None
        self._drained = asyncio.Event()
        self._refused = False
        self._in_head = True
        self._head_bytes = 0
        self._begin()

    @property
    def refused(self) -> bool:
        """Whether this side has ended the connection."""
        return self._refused

    @property
    def idle(self) -> bool:
        """Whether no request is being answered."""
        return self._task is None

    # The transport's calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        # Under TLS asyncio pauses at its limit, not above it: 0 would pause with nothing buffered.
        encrypted = transport.get_extra_info("sslcontext") is not None
        self._transport.set_write_buffer_limits(1 if encrypted else 0, 0)
        self._drained.set()
        self.number = self._on_made(self)

    def pause_writing(self) -> None:
        self._drained.clear()

    def resume_writing(self) -> None:
        self._drained.set()

    def eof_received(self) -> None:
        self._stop()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        self._on_lost(self)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self._in_head:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            return  # the request was whole and is answered; what follows in another protocol is not read
        except httptools.HttpParserError:
            self._refuse(400, "This is not HTTP/1.1.")
            return
        if self._in_head and self._head_bytes > MAX_HEAD:
            self._refuse(431, f"The head is above {MAX_HEAD} bytes.")

    # The parser's calls.

    def _begin(self) -> None:
        self._target = b""
        self._headers: list[tuple[str, str]] = []
        self._body = bytearray()

    def on_message_begin(self) -> None:
        self._begin()

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.decode("latin-1").lower(), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_bytes = 0
        if ("expect", "100-continue") in self._headers:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        waiting = sum(len(request.body) for request in self._waiting)
        if waiting + len(self._body) + len(body) <= MAX_BODY:
            self._body += body
        else:
            self._refuse(413, f"The body is above {MAX_BODY} bytes.")

    def on_message_complete(self) -> None:
        self._in_head = True
        if self._refused:
            return
        request = Request(
            method=self._parser.get_method().decode("latin-1"),
            target=self._target.decode("latin-1"),
            http=self._parser.get_http_version(),
            headers=tuple(self._headers),
            body=bytes(self._body),
            keep_alive=self._parser.should_keep_alive(),
        )
        self._begin()
        self._waiting.append(request)
        if len(self._waiting) > MAX_WAITING:
            self._refuse(400, f"More than {MAX_WAITING} requests wait on this connection.")
        elif self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._answer_all())
            self._task.add_done_callback(self._answered)

    # Answering.

    async def _answer_all(self) -> None:
        """Answer what waits, in order; the task ends when there is nothing left, so that idle is known."""
        try:
            while self._waiting:
                if not await self._respond(self, self._waiting.popleft()):
                    self.close()
                    return
        finally:
            self._task = None

    def _answered(self, task: asyncio.Task[None]) -> None:
        """A fault of ours ends the connection: a client must not wait for an answer that nobody makes."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.abort()
            asyncio.get_running_loop().call_exception_handler({"message": "an answer failed", "exception": error})

    async def send(self, data: bytes) -> None:
        """Write, and wait until the kernel has it all: a slow reader holds the answer up.

        Where the client is gone, nothing is sent and this waits for the cancellation that is on its way.
        """
        if data:
            self._transport.write(data)
        await asyncio.sleep(0)  # an answer without waits must not keep the loop from seeing a hang-up
        if self._transport.is_closing():
            await asyncio.get_running_loop().create_future()
        await self._drained.wait()

    def close(self) -> None:
        """Close in order; nothing more is read."""
        self._waiting.clear()
        self._refused = True
        self._transport.close()

    def reset(self) -> None:
        """Close so that the peer sees a reset (RST), not an end."""
        sock = self._transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.abort()

    def abort(self) -> None:
        """Close now, whatever is unsent."""
        self._refused = True
        self._transport.abort()

    def _stop(self) -> None:
        """The client is gone: end what is being answered."""
        while self._waiting:
            self._on_abandoned(self, self._waiting.popleft())
        if self._task is not None:
            self._task.cancel()

    def _refuse(self, status: int, message: str) -> None:
        """Answer an error, and read no more; the sender has a while to see it before the connection goes."""
        if self._refused:
            return
        self._refused = True
        self._waiting.clear()
        self._stop()
        body = envelope(Fault(message))
        head = f"HTTP/1.1 {status} Refused\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self._transport.write(head.encode() + b"connection: close\r\n\r\n" + body)
        if self._transport.can_write_eof():
            self._transport.write_eof()
            asyncio.get_running_loop().call_later(LINGER, self._transport.abort)
        else:
            self._transport.close()
