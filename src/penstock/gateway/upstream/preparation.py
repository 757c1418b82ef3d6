"""The calls that a provider needs answered before the one that answers the request."""

from __future__ import annotations

import asyncio

from penstock.errors import Failure, FailureKind, ProviderFault
from penstock.gateway.upstream.lanes import Entry
from penstock.http.client import ClientConnection, HeaderList
from penstock.http.connecting import connect
from penstock.providers.base import Call, Preparation, Reply


async def prepared(entry: Entry, steps: Preparation, patience: float) -> Call:
    """Make the calls that the provider needs answered first, and return the one that answers the request."""
    try:
        step = next(steps)
        while True:
            step = steps.send(await ask(entry, step, patience))
    except StopIteration as stop:
        call: Call = stop.value
        return call
    finally:
        steps.close()


async def ask(entry: Entry, call: Call, patience: float) -> Reply:
    """The whole reply to a call beside the one for the answer. Raises PoolError or ProviderFault."""
    connection = entry.pool.take() or await connect(entry.pool, patience)
    sink = _Collect(entry.provider.name, entry.config.max_answer_bytes)
    connection.send(call.head, call.body, sink, entry.config.deadlines, patience)
    try:
        return await sink.reply
    except asyncio.CancelledError:
        connection.abort()
        raise


class _Collect:
    """The sink of a preparatory call: its whole reply, or the failure."""

    def __init__(self, provider: str, limit: int) -> None:
        self.reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._provider = provider
        self._limit = limit
        self._connection: ClientConnection | None = None
        self._status = 0
        self._headers: HeaderList = []
        self._parts: list[bytes] = []
        self._size = 0

    def on_head(self, status: int, connection: ClientConnection) -> None:
        self._connection, self._status, self._headers = connection, status, connection.headers()

    def on_data(self, data: bytes) -> None:
        self._size += len(data)
        self._parts.append(data)
        if self._size > self._limit and self._connection is not None:
            self._connection.abort()
            self.on_fault(FailureKind.MALFORMED, "sent an answer that is too large")

    def on_end(self) -> None:
        if not self.reply.done():
            self.reply.set_result(Reply(self._status, self._headers, b"".join(self._parts)))

    def on_fault(self, kind: FailureKind, message: str) -> None:
        if not self.reply.done():
            self.reply.set_exception(ProviderFault(Failure(kind, f"The provider '{self._provider}' {message}.")))
