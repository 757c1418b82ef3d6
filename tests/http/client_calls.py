"""The upstream client under test: a pool to a scripted server, and a sink that remembers what it was told."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from penstock.config import Deadlines, Upstream
from penstock.errors import FailureKind
from penstock.fake_upstream.seen import Changes
from penstock.http.client import SWEEP, ClientConnection, Pool
from penstock.http.connecting import PoolError, connect
from penstock.types import Origin

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: upstream\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
PATIENCE = 10.0


class Told:
    """A sink: `status`, `body` and `ending` ("end", or the kind of the fault)."""

    def __init__(self) -> None:
        self.status = 0
        self.fields: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.endings: list[FailureKind | str] = []
        self.message = ""
        self.changes = Changes()

    def on_head(self, status: int, connection: ClientConnection) -> None:
        self.status = status
        self.fields = connection.headers()
        self.changes.notify()

    def on_data(self, data: bytes) -> None:
        self.body += data
        self.changes.notify()

    def on_end(self) -> None:
        self.endings.append("end")
        self.changes.notify()

    def on_fault(self, kind: FailureKind, message: str) -> None:
        self.endings.append(kind)
        self.message = message
        self.changes.notify()

    async def until(self, true: Callable[[], object]) -> None:
        """Wait until the sink was told so."""
        await asyncio.wait_for(self.changes.wait_for(true), PATIENCE)

    async def ending(self) -> FailureKind | str:
        """How the call ended; there is only one ending."""
        await self.until(lambda: self.endings)
        assert len(self.endings) == 1
        return self.endings[0]


class Peer:
    """The server's side of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def request(self) -> bytes:
        """The next whole request; EOFError when there is none."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        return head + await self.reader.readexactly(length)

    async def send(self, data: bytes) -> None:
        """Write it all."""
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, data: bytes = OK) -> None:
        """Take a request and answer it."""
        await self.request()
        await self.send(data)

    async def gone(self) -> None:
        """Wait until the client has closed."""
        try:
            while await self.reader.read(65_536):
                pass
        except ConnectionError:
            pass


Script = Callable[[Peer], Awaitable[None]]


async def hold(peer: Peer) -> None:
    """Take a request and never answer it."""
    await peer.request()
    await peer.gone()


def sends(*answers: bytes) -> Script:
    """A script: one answer per request, then the connection is closed."""

    async def script(peer: Peer) -> None:
        for answer in answers:
            await peer.answer(answer)

    return script


def hold_after(answer: bytes) -> Script:
    """A script: one answer, then nothing more."""

    async def script(peer: Peer) -> None:
        await peer.answer(answer)
        await peer.gone()

    return script


async def keep_answering(peer: Peer) -> None:
    """Answer every request with OK."""
    while True:
        await peer.answer()


class Upstreamed:
    """A pool and the server that it calls. `peers` are the connections that were accepted, `open` how many are."""

    def __init__(self) -> None:
        self.pool: Pool
        self.peers: list[Peer] = []
        self.open = 0
        self.changes = Changes()
        self.faults: list[Any] = []

    async def connection(self) -> ClientConnection:
        """What `gateway.upstream` does."""
        return self.pool.take() or await connect(self.pool)

    async def call(self, deadlines: Deadlines | None = None, body: bytes = b"{}") -> tuple[ClientConnection, Told]:
        """Begin a call."""
        connection, told = await self.connection(), Told()
        connection.send(HEAD, body, told, deadlines or self.pool.deadlines)
        return connection, told

    async def ok(self) -> ClientConnection:
        """A call that is answered with OK."""
        connection, told = await self.call()
        assert await told.ending() == "end", told.message
        assert (told.status, told.body) == (200, b"ok")
        return connection

    async def until(self, true: Callable[[], object]) -> None:
        """Wait until something of the server is so."""
        await asyncio.wait_for(self.changes.wait_for(true), PATIENCE)

    def consistent(self) -> None:
        """`open` counts the connections there are, and all of them live."""
        assert self.pool.open == len(self.pool.connections)
        assert not any(connection.transport.is_closing() for connection in self.pool.connections)


def settings(**fields: Any) -> Upstream:
    """An upstream's configuration; `deadlines` may be a dict."""
    deadlines = Deadlines(**fields.pop("deadlines", {}))
    return Upstream(name="scripted", type="openai", deadlines=deadlines, **fields)


@asynccontextmanager
async def upstreamed(
    *scripts: Script, tls: ssl.SSLContext | None = None, uds: Path | None = None, name: str = "localhost", **fields: Any
) -> AsyncIterator[Upstreamed]:
    """Serve `scripts`, one per connection, the last repeating; at the end nothing may be left on either side."""
    faults: list[Any] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: faults.append(context))
    both = Upstreamed()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        both.peers.append(peer)
        both.open += 1
        both.changes.notify()
        try:
            await (scripts or (keep_answering,))[min(len(both.peers), max(1, len(scripts))) - 1](peer)
        except (EOFError, ConnectionError):
            pass
        finally:
            writer.close()
            both.open -= 1
            both.changes.notify()

    if uds is not None:
        server = await asyncio.start_unix_server(serve, uds)
        origin = Origin("http", "localhost", 80, str(uds))
    else:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
        origin = Origin("http" if tls is None else "https", name, server.sockets[0].getsockname()[1])
    both.pool = pool = Pool(origin, settings(**fields))
    sweeping = asyncio.create_task(_sweep(pool))
    try:
        yield both
    finally:
        sweeping.cancel()
        pool.close()
        server.close()
    assert pool.open == 0
    assert not pool.connections
    await both.until(lambda: both.open == 0)
    assert faults == []


async def _sweep(pool: Pool) -> None:
    while True:
        await asyncio.sleep(SWEEP)
        pool.sweep()


async def refused(awaitable: Awaitable[object]) -> tuple[FailureKind, str]:
    """Why no connection was to be had."""
    try:
        await awaitable
    except PoolError as error:
        return error.failure.kind, error.failure.message
    raise AssertionError("there was a connection")


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[str, int] | None, name: str = "localhost") -> None:
    """Make `name` that of these addresses; None is the one that is asked for, on 127.0.0.1."""
    loop = asyncio.get_running_loop()
    resolve = loop.getaddrinfo

    async def getaddrinfo(host: str, port: int, **more: Any) -> Any:
        if host != name:
            return await resolve(host, port, **more)
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", address or ("127.0.0.1", port)) for address in addresses]

    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo, raising=False)


async def told_of(answer: bytes, *, close: bool = False) -> tuple[Told, FailureKind | str, int]:
    """What a call is told of `answer`, how it ends, and how many connections the pool then keeps."""

    async def script(peer: Peer) -> None:
        await peer.answer(answer)
        if not close:
            await peer.gone()

    async with upstreamed(script) as both:
        _, told = await both.call()
        ending = await told.ending()
        if ending == "end" and not both.pool.open:
            await both.until(lambda: both.open == 0)
        both.consistent()
        return told, ending, both.pool.open


async def outcome(both: Upstreamed) -> FailureKind | str:
    """How a call ends, which may be before it could begin."""
    try:
        _, told = await both.call()
    except PoolError as error:
        return error.failure.kind
    return await told.ending()
