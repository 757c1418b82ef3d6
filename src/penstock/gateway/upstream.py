"""The attempt loop until the commit point: prepare, send, classify, repeat or give up; it alone uses http.client.

`open` makes one attempt at the plan's first target, and one more if the connection it reused turned out to be stale:
no byte of an answer was seen, so the upstream closed an idle connection just as we picked it. This is the only place
that repeats a call.

An `Answer` is the sink of one attempt. Until the commit point (see DESIGN: the first event with content, reasoning,
refusal, tool call or finish) nothing reaches the client, so a failure is still an ordinary error answer. From then on
it pushes bytes straight into its `Output`, from callback to callback: no queue, no task. Its end is withheld: the
caller writes it after the record is made.

Cancelled anywhere, `open` leaves nothing running: a connection is aborted in the same moment.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from penstock.config import Upstream
from penstock.errors import Failure, FailureKind, ProviderFault
from penstock.gateway.exchange import Exchange
from penstock.gateway.refusals import refusal_for
from penstock.http.client import ClientConnection, HeaderList, Pool, PoolError
from penstock.providers.base import AnyRequest, Call, Preparation, Provider, Reader, Reply
from penstock.types import Attempt, Plan, Target, milliseconds

HELD_BYTES = 64 * 1024
MAX_ERROR_BYTES = 256 * 1024


class Output(Protocol):
    """Where a committed stream goes."""

    def commit(self, answer: Answer, data: bytes) -> None:
        """The first bytes: the response head must be written with them, before this returns."""
        ...

    def write(self, data: bytes) -> None: ...


class Entry:
    """One provider as a worker uses it."""

    __slots__ = ("config", "pool", "provider")

    def __init__(self, provider: Provider, pool: Pool, config: Upstream) -> None:
        self.provider = provider
        self.pool = pool
        self.config = config


class Answer:
    """One attempt's answer: fed by a connection, read by a provider's reader, pushed into an output."""

    # Defaults stand on the class, since setting them for each attempt is a cost.
    tail = b""  # the withheld end, once it has ended well
    failure: Failure | None = None  # why it ended badly
    committed = False
    _connection: ClientConnection | None = None
    _ended: asyncio.Future[None] | None = None
    _error_status = 0
    _headers: HeaderList = []  # noqa: RUF012  # replaced, never changed
    _size = 0

    def __init__(self, entry: Entry, target: Target, reader: Reader, output: Output | None) -> None:
        self.target = target
        self.started = time.monotonic()
        self.outcome: asyncio.Future[None] = entry.pool.loop.create_future()  # commit point, or failure
        self.reader = reader
        self._entry = entry
        self._output = output
        self._held: list[bytes] = []

    def send(self, connection: ClientConnection, call: Call) -> None:
        self._connection = connection
        connection.send(call.head, call.body, self, self._entry.config.deadlines)

    async def end(self) -> None:
        """Wait for the end of a committed answer; then either `tail` or `failure` is set."""
        if self._connection is not None:
            self._ended = self._entry.pool.loop.create_future()
            await self._ended

    def abort(self) -> None:
        """Give up: the upstream is cut off in this moment."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()

    # -- flow, for a client that reads slowly

    def pause(self) -> None:
        if self._connection is not None:
            self._connection.pause()

    def resume(self) -> None:
        if self._connection is not None:
            self._connection.resume()

    # -- the connection's callbacks

    def on_head(self, status: int, connection: ClientConnection) -> None:
        if not 200 <= status < 300:
            self._error_status = status
            self._headers = connection.headers()

    def on_data(self, data: bytes) -> None:
        if self._connection is None:
            return
        if self._error_status or self._output is None:
            self._size += len(data)
            limit = MAX_ERROR_BYTES if self._error_status else self._entry.config.max_answer_bytes
            if self._size > limit:
                self._fail(self._malformed("sent an answer that is too large"))
                return
        if self._error_status:
            self._held.append(data)
            return
        try:
            out = self.reader.feed(data)
        except ProviderFault as fault:
            self._fail(fault.failure)
            return
        except BaseException:
            self._fail_unread()
            raise
        if out:
            self._push(out)
        if self.reader.done:
            self._finish()

    def on_end(self) -> None:
        if self._connection is None:
            return
        if self._error_status:
            body = b"".join(self._held)
            self._fail(self._entry.provider.failure(self._error_status, self._headers, body))
        else:
            self._finish()

    def on_fault(self, kind: FailureKind, message: str) -> None:
        if self._connection is not None:
            self._fail(Failure(kind, f"The provider '{self.target.provider}' {message}."))

    # -- inside

    def _push(self, out: bytes) -> None:
        output = self._output
        assert output is not None
        if self.committed:
            output.write(out)
            return
        self._held.append(out)
        self._size += len(out)
        if self.reader.committed or self._size > HELD_BYTES:
            self._commit()

    def _commit(self) -> None:
        assert self._output is not None
        assert self._connection is not None
        self.committed = True
        self._connection.first_event_seen()
        self._output.commit(self, b"".join(self._held))
        self._held = []
        if not self.outcome.done():
            self.outcome.set_result(None)

    def _finish(self) -> None:
        try:
            self.tail = self.reader.close()
        except ProviderFault as fault:
            self._fail(fault.failure)
            return
        except BaseException:
            self._fail_unread()
            raise
        if self._output is not None and not self.committed:
            self._commit()
        connection, self._connection = self._connection, None
        if connection is not None:
            if self.reader.aborts:
                connection.abort()
            else:
                connection.detach()
        self._settle()

    def _fail(self, failure: Failure) -> None:
        self.failure = failure
        self.abort()
        self._settle()

    def _fail_unread(self) -> None:
        """The reader broke, which is our fault: its error goes to the log, and the request must not wait for ever."""
        self._fail(self._malformed("gave an answer that could not be read"))

    def _settle(self) -> None:
        if not self.outcome.done():
            self.outcome.set_result(None)
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    def _malformed(self, what: str) -> Failure:
        return Failure(FailureKind.MALFORMED, f"The provider '{self.target.provider}' {what}.")


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


class Upstreams:
    """All providers of a worker."""

    def __init__(self, entries: dict[str, Entry]) -> None:
        self._entries = entries

    async def open(self, asked: AnyRequest, plan: Plan, exchange: Exchange, output: Output) -> Answer:
        """An answer that is committed (streamed) or whole (not streamed). Raises Refusal when there is none."""
        target = plan.targets[0]
        exchange.target = target
        answer = await self._attempt(asked, target, exchange, output)
        if answer.failure is not None and answer.failure.kind is FailureKind.STALE:
            note(exchange, answer)
            answer = await self._attempt(asked, target, exchange, output, afresh=True)
        if answer.failure is not None and not answer.committed:
            note(exchange, answer)
            raise refusal_for(answer.failure, target)
        return answer

    async def _attempt(
        self, asked: AnyRequest, target: Target, exchange: Exchange, output: Output, afresh: bool = False
    ) -> Answer:
        """One attempt. `afresh`: on a new connection, since what closed one idle connection closed others, too."""
        entry = self._entries[target.provider]
        answer = Answer(entry, target, entry.provider.reader(asked, target), output if asked.stream else None)
        try:
            call = entry.provider.prepare(asked, target)
            if not isinstance(call, Call):
                call = await self._prepare(entry, target, call)
            answer.send((None if afresh else entry.pool.take()) or await entry.pool.connect(), call)
            await answer.outcome
        except PoolError as error:
            failure = error.failure
            answer.failure = Failure(failure.kind, f"The provider '{target.provider}' {failure.message}.")
        except ProviderFault as fault:
            answer.failure = fault.failure
        except asyncio.CancelledError:
            answer.abort()
            note(exchange, answer, "cancelled")
            raise
        return answer

    async def _prepare(self, entry: Entry, target: Target, steps: Preparation) -> Call:
        """Make the calls that the provider needs answered first."""
        try:
            step = next(steps)
            while True:
                step = steps.send(await self._ask(entry, target, step))
        except StopIteration as stop:
            call: Call = stop.value
            return call
        finally:
            steps.close()

    async def _ask(self, entry: Entry, target: Target, call: Call) -> Reply:
        connection = entry.pool.take() or await entry.pool.connect()
        sink = _Collect(target.provider, entry.config.max_answer_bytes)
        connection.send(call.head, call.body, sink, entry.config.deadlines)
        try:
            return await sink.reply
        except asyncio.CancelledError:
            connection.abort()
            raise


def note(exchange: Exchange, answer: Answer, outcome: str = "ok") -> None:
    """Put a finished attempt on the exchange, and its usage; its failure, if any, is its outcome."""
    failure = answer.failure
    exchange.usage = answer.reader.usage
    if failure is not None:
        status, outcome = failure.status, failure.kind.value
    else:
        status = 200 if outcome == "ok" or answer.committed else 0
    target = answer.target
    took = milliseconds(time.monotonic() - answer.started)
    exchange.attempts.append(Attempt(target.provider, target.model, status, outcome, took))
