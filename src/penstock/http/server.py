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
from collections.abc import Callable, Iterator

from penstock.config import Limits
from penstock.http.connection import LINGER_SECONDS, App, Edge
from penstock.http.request import Request
from penstock.http.securing import SecureListener
from penstock.ticks import next_tick

SWEEP = 0.1


class Server:
    """Accepts clients for `app` until drained."""

    def __init__(self, app: App, limits: Limits, wall_clock: Callable[[], float] = time.time) -> None:
        self.edge = Edge(app, limits)
        self._loop = self.edge.loop
        self._wall_clock = wall_clock
        self._listeners: list[asyncio.Server | SecureListener] = []
        self._sweeper: asyncio.TimerHandle | None = None
        self._sweep()

    async def listen(self, sock: socket.socket, tls: ssl.SSLContext | None) -> None:
        """Accept connections on a listening socket."""
        if tls is None:
            self._listeners.append(await self._loop.create_server(self.edge.connection, sock=sock, backlog=4096))
        else:
            self._listeners.append(SecureListener(self.edge, sock, tls))

    def requests(self) -> Iterator[Request]:
        """Those in hand: being answered, whole and waiting their turn, or with their head read."""
        for connection in list(self.edge.connections):
            yield from (one for one in (connection.active, *connection.queue, connection.receiving) if one is not None)

    def _sweep(self) -> None:
        self.edge.now = now = self._loop.time()
        self.edge.date = b"Date: %s\r\n" % email.utils.formatdate(self._wall_clock(), usegmt=True).encode()
        self._sweeper = self._loop.call_at(next_tick(now, SWEEP), self._sweep)
        for connection in [late for late in self.edge.connections if late.deadline < now]:
            connection.expire()

    async def drain(self, limit: float) -> None:
        """Stop accepting and let answers in flight end; after `limit` seconds cut short those left.

        Connections that have not taken what was written to them a moment later are cut off.
        """
        self.edge.draining = True
        for listener in self._listeners:
            listener.close()
        for connection in list(self.edge.connections):
            connection.shut()
        await self._emptied(limit)
        for connection in list(self.edge.connections):
            connection.cut_short()
        await self._emptied(LINGER_SECONDS)
        for connection in list(self.edge.connections):
            connection.transport.abort()
        for listener in self._listeners:
            if isinstance(listener, SecureListener):
                listener.abort()
        if self._sweeper is not None:
            self._sweeper.cancel()

    async def _emptied(self, limit: float) -> None:
        """Wait until no connection is left, at most `limit` seconds."""
        self.edge.emptied = emptied = asyncio.Event()
        if self.edge.connections:
            try:
                await asyncio.wait_for(emptied.wait(), limit)
            except TimeoutError:
                pass
