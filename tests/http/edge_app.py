"""The edge under test: a server on loopback with a small application, and readers of what it answers."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import uvloop

from penstock.config import Limits
from penstock.errors import AuthenticationFailed, Refusal
from penstock.fake_upstream.seen import Changes
from penstock.http.request import Request
from penstock.http.server import Server
from support.raw import Raw, raw_client

T = TypeVar("T")
PATIENCE = 10.0
PIECE = b"x" * 16_384


def run(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a test on the loop that workers run on."""

    async def bounded() -> T:
        async with asyncio.timeout(30):
            return await main()

    return uvloop.run(bounded())


class Flood:
    """An endless stream that stops while it is told to; `sent` counts its bytes."""

    def __init__(self, request: Request, changes: Changes) -> None:
        self.request = request
        self.changes = changes
        self.sent = 0
        self.paused = False
        self.pauses = 0
        self.resumed = asyncio.Event()
        self.resumed.set()

    def pause(self) -> None:
        self.paused = True
        self.pauses += 1
        self.resumed.clear()
        self.changes.notify()

    def resume(self) -> None:
        self.paused = False
        self.resumed.set()
        self.changes.notify()

    async def pour(self, size: int) -> None:
        self.request.flow = self
        self.request.start(200, b"", b"")
        while self.sent < size:
            await self.resumed.wait()
            self.request.write(PIECE)
            self.sent += len(PIECE)
            await asyncio.sleep(0)
        self.request.end(b"")


class EchoApp:
    """Answers by path: /echo, /gate (waits until `gate` opens), /stream (its end waits), /flood?SIZE, /big?SIZE.

    /refused is refused on its head; whatever begins with /later waits for `admission`. `begun` and `ended` name the
    requests whose answer began, and how it ended.
    """

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.admission: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.changes = Changes()
        self.admitted: list[bytes] = []
        self.begun: list[bytes] = []
        self.ended: list[tuple[bytes, str]] = []
        self.floods: list[Flood] = []
        self.requests: list[Request] = []

    def admit(self, request: Request) -> Awaitable[None] | None:
        self.admitted.append(request.path)
        self.requests.append(request)
        self.changes.notify()
        if request.path == b"/refused":
            raise AuthenticationFailed("Who are you?")
        return asyncio.shield(self.admission) if request.path.startswith(b"/later") else None

    async def answer(self, request: Request) -> None:
        self.begun.append(request.path)
        self.changes.notify()
        how = "ok"
        try:
            await self._answer(request)
        except asyncio.CancelledError:
            how = "drained" if request.stopped else "hangup"
            if request.stopped and request.started:
                request.keep_alive = False
                request.end(b"cut short")
            elif request.stopped:
                request.respond(503, b"", b"cut short")
        finally:
            self.ended.append((request.path, how))
            self.changes.notify()
            request.ensure_ended()

    async def _answer(self, request: Request) -> None:
        match request.path:
            case b"/gate":
                await self.gate.wait()
            case b"/stream":
                request.start(200, b"Content-Type: text/plain\r\n", b"first,")
                await self.gate.wait()
                request.write(b"second,")
                request.end(b"last")
                return
            case b"/flood":
                flood = Flood(request, self.changes)
                self.floods.append(flood)
                await flood.pour(int(request.query))
                return
            case b"/big":
                request.respond(200, b"", b"y" * int(request.query))
                return
            case b"/broken":
                request.start(200, b"", b"first,")
                return  # the answer is never ended
        request.respond(200, b"Content-Type: text/plain\r\n", b"%s:%s" % (request.path, request.body))

    def refuse(self, request: Request | None, refusal: Refusal) -> tuple[bytes, bytes]:
        extra = b"".join(b"%s: %s\r\n" % pair for pair in refusal.headers)
        return b"Content-Type: text/plain\r\n" + extra, refusal.message.encode()


class Running:
    """A server that listens. `faults`: what reached the loop's exception handler."""

    def __init__(self, app: EchoApp, server: Server, address: tuple[str, int] | str, faults: list[Any]) -> None:
        self.app = app
        self.server = server
        self.edge = server.edge
        self.address = address
        self.faults = faults

    def client(self, tls: ssl.SSLContext | None = None) -> Any:
        """A connection to it."""
        return raw_client(self.address, tls)

    async def until(self, true: Callable[[], object]) -> None:
        """Wait until something of the application is so."""
        await asyncio.wait_for(self.app.changes.wait_for(true), PATIENCE)

    async def see(self, true: Callable[[], object]) -> None:
        """Look until something of the edge is so, which nothing announces."""
        async with asyncio.timeout(PATIENCE):
            while not true():  # noqa: ASYNC110
                await asyncio.sleep(0.001)

    async def empty(self) -> None:
        """Wait until no connection is left."""
        await self.see(lambda: not self.edge.connections)


@asynccontextmanager
async def edge(
    limits: Limits | None = None, *, tls: ssl.SSLContext | None = None, uds: Path | None = None
) -> AsyncIterator[Running]:
    """Serve an EchoApp; in the end nothing may be left: no connection, no byte of a body, no fault of ours."""
    faults: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: faults.append(context))
    app = EchoApp()
    server = Server(app, limits or Limits())
    sock = socket.socket(socket.AF_INET if uds is None else socket.AF_UNIX)
    sock.bind(("127.0.0.1", 0) if uds is None else str(uds))
    sock.setblocking(False)
    sock.listen()
    address = sock.getsockname()
    await server.listen(sock, tls)
    running = Running(app, server, address, faults)
    try:
        yield running
    finally:
        await server.drain(0.01)
    await running.empty()
    assert running.edge.buffered == 0
    assert faults == []


class Answer(NamedTuple):
    """One answer: its status, its fields with lower-case names, its body; `chunked` if its end is marked."""

    status: int
    fields: dict[str, str]
    body: bytes


async def read_answer(client: Raw, method: str = "GET") -> Answer:
    """The next answer on a connection."""
    head = (await client.read_until(b"\r\n\r\n")).decode()
    first, *lines = head.split("\r\n")
    fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
    status = int(first.split(" ")[1])
    if method == "HEAD" or status == 100:
        return Answer(status, fields, b"")
    if fields.get("transfer-encoding") == "chunked":
        body = b""
        while size := int(await client.read_until(b"\r\n"), 16):
            body += (await client.reader.readexactly(size + 2))[:-2]
        await client.read_until(b"\r\n")
        return Answer(status, fields, body)
    if "content-length" in fields:
        return Answer(status, fields, await client.reader.readexactly(int(fields["content-length"])))
    return Answer(status, fields, await client.read_all())


def get(path: str, *fields: str, version: str = "1.1") -> bytes:
    """A GET request with further field lines."""
    lines = "".join(f"{line}\r\n" for line in ("Host: test", *fields))
    return f"GET {path} HTTP/{version}\r\n{lines}\r\n".encode()


def post(path: str, body: bytes, *fields: str) -> bytes:
    """A POST request whose body is announced by its length."""
    lines = "".join(f"{line}\r\n" for line in ("Host: test", f"Content-Length: {len(body)}", *fields))
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + body


def chunked(path: str, *chunks: bytes, end: bytes = b"0\r\n\r\n", fields: str = "") -> bytes:
    """A POST request in chunks."""
    head = f"POST {path} HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n{fields}\r\n".encode()
    return head + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + end
