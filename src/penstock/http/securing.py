"""Accepts clients on a listening socket and agrees on TLS with them, so many at a time.

Until a client has agreed on TLS it is no connection that the edge could count, refuse in words or time, and one that
never does holds as much memory as any other. So these are counted here: who comes while as many as may be connected are
about it is closed at once. Each has `header_timeout` seconds. One that fails, or is no TLS client at all, is closed.
"""

from __future__ import annotations

import asyncio
import socket
import ssl

from penstock.http.connection import Edge

RETRY = 0.5  # seconds after the system could not accept, as without a descriptor for it


class SecureListener:
    """Makes a connection of the edge for each client with which TLS is agreed on; as `asyncio.Server` for others."""

    def __init__(self, edge: Edge, sock: socket.socket, tls: ssl.SSLContext) -> None:
        self._edge = edge
        self._sock = sock
        self._tls = tls
        self._loop = edge.loop
        self._agreeing: set[asyncio.Task[None]] = set()
        self._accepting = self._loop.create_task(self._accept())

    def close(self) -> None:
        """Accept no more. Those who are about to agree may do so."""
        self._accepting.cancel()
        self._sock.close()

    def abort(self) -> None:
        """Close those who have not agreed yet."""
        for task in self._agreeing:
            task.cancel()

    async def _accept(self) -> None:
        while True:
            try:
                client, _ = await self._loop.sock_accept(self._sock)
            except OSError:
                await asyncio.sleep(RETRY)
                continue
            if len(self._agreeing) >= self._edge.limits.connections:
                client.close()
                continue
            task = self._loop.create_task(self._agree(client))
            self._agreeing.add(task)
            task.add_done_callback(self._agreeing.discard)

    async def _agree(self, client: socket.socket) -> None:
        seconds = self._edge.limits.header_timeout
        try:
            await self._loop.connect_accepted_socket(
                self._edge.connection, client, ssl=self._tls, ssl_handshake_timeout=seconds
            )
        except (OSError, asyncio.CancelledError):
            client.close()
