"""How a pool comes by another connection: waits for a place, then tries the addresses of its origin in turn."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import cast

from penstock.errors import Failure, FailureKind
from penstock.http.client import NEVER, ClientConnection, Pool


class PoolError(Exception):
    """No connection could be had; `failure` says why."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message)
        self.failure = Failure(kind, message)


async def connect(pool: Pool, patience: float = NEVER) -> ClientConnection:
    """A connection to send on: a new one, or one that was given back while waiting for a place.

    `patience`: when, on the loop's clock, nobody waits any more for an answer. Raises PoolError: TIMEOUT_POOL,
    CONNECT, TIMEOUT_CONNECT or, once patience is at its end, TIMEOUT_TOTAL. Cancelled, it leaves nothing behind.
    """
    while not pool.reserve():
        connection = await _await_place(pool, patience)
        if connection is None:
            break
        if not connection.transport.is_closing():  # else it died on its way here, and its place went on
            return connection
    connected: ClientConnection | None = None
    left = patience - pool.now()
    try:
        async with asyncio.timeout(min(pool.deadlines.connect, left)):
            connected = await establish(pool)
        if pool.closed or connected.transport.is_closing():
            connected.discard()
            connected = None
            raise PoolError(FailureKind.CONNECT, "closed the connection as soon as it was made")
    except TimeoutError:
        kind = FailureKind.TIMEOUT_CONNECT if left > pool.deadlines.connect else FailureKind.TIMEOUT_TOTAL
        raise PoolError(kind, "could not be reached in time") from None
    except UnicodeError as error:  # of the codec for internationalised names
        raise PoolError(FailureKind.CONNECT, "could not be reached (its name is not valid)") from error
    except OSError as error:
        raise PoolError(FailureKind.CONNECT, f"could not be reached ({_reason(error)})") from error
    finally:
        if connected is None:
            pool.hand_on()
    pool.connections.add(connected)
    return connected


async def _await_place(pool: Pool, patience: float) -> ClientConnection | None:
    """Wait for a connection given back, or (None) for the right to make one, already counted in `open`."""
    waiter: asyncio.Future[ClientConnection | None] = asyncio.get_running_loop().create_future()
    pool.waiting.append(waiter)
    left = patience - pool.now()
    try:
        async with asyncio.timeout(min(pool.wait, left)):
            return await waiter
    except TimeoutError:
        pool.return_unused(waiter)
        kind = FailureKind.TIMEOUT_POOL if left > pool.wait else FailureKind.TIMEOUT_TOTAL
        raise PoolError(kind, "has all its connections in use") from None
    except asyncio.CancelledError:
        pool.return_unused(waiter)
        raise


async def establish(pool: Pool) -> ClientConnection:
    """Try the addresses of the name in turn, each within its share of what is left of the connect deadline."""
    if pool.closed:
        raise ConnectionAbortedError("the server is shutting down")
    loop = asyncio.get_running_loop()
    origin = pool.origin
    if origin.uds is not None:
        connection = ClientConnection(pool)
        try:
            await loop.create_unix_connection(lambda: cast("asyncio.Protocol", connection), origin.uds)
        except BaseException:
            connection.discard()
            raise
        return connection
    addresses = await loop.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
    deadline = loop.time() + pool.deadlines.connect
    error: OSError = OSError("the name has no address")
    for tried in range(len(addresses)):
        index = (pool.first_address + tried) % len(addresses)
        family, _, proto, _, address = addresses[index]
        share = (deadline - loop.time()) / (len(addresses) - tried)
        try:
            async with asyncio.timeout(share):
                connection = await _connect_to(pool, family, proto, address)
        except OSError as failed:  # TimeoutError is one
            error = failed
            continue
        pool.first_address = index
        return connection
    raise error


async def _connect_to(pool: Pool, family: int, proto: int, address: object) -> ClientConnection:
    loop = asyncio.get_running_loop()
    connection = ClientConnection(pool)
    sock = socket.socket(family, socket.SOCK_STREAM, proto)
    try:
        sock.setblocking(False)
        await loop.sock_connect(sock, cast("tuple[str, int]", address))
        await loop.create_connection(
            lambda: cast("asyncio.Protocol", connection),
            sock=sock,
            ssl=pool.tls,
            server_hostname=pool.origin.host if pool.tls is not None else None,
        )
    except BaseException:  # cancellation may come just when the transport exists already
        connection.discard()
        sock.close()
        raise
    return connection


def _reason(error: OSError) -> str:
    """Why, without addresses: they are the operator's business."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return "its TLS certificate is not trusted"
    if isinstance(error, ssl.SSLError):
        return "TLS failed"
    if isinstance(error, socket.gaierror):
        return "its name was not found"
    if isinstance(error, ConnectionRefusedError | FileNotFoundError):
        return "connection refused"
    return "network error"
