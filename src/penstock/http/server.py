"""The edge: listening sockets, the connections behind them, their deadlines, and the end of it all.

Deadlines are kept by one sweep over the connections rather than by a timer each: a timer armed and disarmed for
each request costs more than the request's parsing. They are therefore exact to `SWEEP` seconds.
"""

from __future__ import annotations

import asyncio
import email.utils
import socket
import ssl
import time
from collections.abc import Callable
from typing import cast

from penstock.config import Limits
from penstock.http.connection import LINGER_SECONDS, App, Connection, Edge

SWEEP = 0.1


class Server:
    """Accepts clients for `app` until drained."""

    def __init__(self, app: App, limits: Limits, wall_clock: Callable[[], float] = time.time) -> None:
        self.edge = Edge(app, limits)
        self._loop = self.edge.loop
        self._wall_clock = wall_clock
        self._listeners: list[asyncio.Server] = []
        self._sweeper: asyncio.TimerHandle | None = None
        self._sweep()

    async def listen(self, sock: socket.socket, tls: ssl.SSLContext | None) -> None:
        """Accept connections on a listening socket."""
        self._listeners.append(
            await self._loop.create_server(
                lambda: cast("asyncio.Protocol", Connection(self.edge)),
                sock=sock,
                ssl=tls,
                backlog=4096,
                ssl_handshake_timeout=self.edge.limits.header_timeout if tls is not None else None,
            )
        )

    def _sweep(self) -> None:
        self.edge.now = now = self._loop.time()
        self.edge.date = b"Date: %s\r\n" % email.utils.formatdate(self._wall_clock(), usegmt=True).encode()
        for connection in [late for late in self.edge.connections if late.deadline < now]:
            connection.expire()
        self._sweeper = self._loop.call_later(SWEEP, self._sweep)

    async def drain(self, limit: float) -> None:
        """Stop accepting and let answers in flight end; after `limit` seconds cancel those left and wait for them."""
        self.edge.draining = True
        for listener in self._listeners:
            listener.close()
        for connection in list(self.edge.connections):
            connection.shut()
        deadline = self._loop.time() + limit
        while (tasks := self._tasks()) and self._loop.time() < deadline:
            await asyncio.wait(tasks, timeout=deadline - self._loop.time())
        for connection in self.edge.connections:
            if connection.active is not None and connection.active.task is not None:
                connection.active.drained = True
                connection.active.task.cancel()
        if tasks := self._tasks():
            await asyncio.wait(tasks, timeout=LINGER_SECONDS)
        await self._flush()

    def _tasks(self) -> set[asyncio.Task[None]]:
        active = (connection.active for connection in self.edge.connections)
        return {request.task for request in active if request is not None and request.task is not None}

    async def _flush(self) -> None:
        """Close every connection; cut those that have not taken what was written after a moment."""
        self.edge.emptied = emptied = asyncio.Event()
        for connection in list(self.edge.connections):
            connection.transport.close()
        if self.edge.connections:
            try:
                await asyncio.wait_for(emptied.wait(), LINGER_SECONDS)
            except TimeoutError:
                for connection in list(self.edge.connections):
                    connection.transport.abort()
        if self._sweeper is not None:
            self._sweeper.cancel()
