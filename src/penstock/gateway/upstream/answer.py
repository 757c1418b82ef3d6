"""One attempt's answer: fed by a connection, read by a provider's reader, pushed into an output.

Until the commit point (see DESIGN: the first event with content, reasoning, refusal, tool call or finish) nothing
reaches the client, so a failure is still an ordinary error answer. From then on bytes go straight into the `Output`,
from callback to callback: no queue, no task. The end is withheld: the caller writes it after the record is made.

However it ends, well, badly or given up, its lane is told so, once. One whose client has gone is cut off in that
moment; or, where its provider is configured so, read on for its usage, without a client, within the same deadlines.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from penstock.errors import Failure, FailureKind, ProviderFault
from penstock.gateway.exchange import Exchange
from penstock.gateway.upstream.health import Admission
from penstock.gateway.upstream.lanes import Lane
from penstock.gateway.upstream.retries import Attempts
from penstock.http.carrier import Signal
from penstock.http.client import ClientConnection, HeaderList
from penstock.providers.base import Call, Reader
from penstock.types import Attempt, Target, milliseconds
from penstock.wire.usage import total

_PROBE = Admission.PROBE  # looked at for every answer

HELD_BYTES = 64 * 1024
MAX_ERROR_BYTES = 256 * 1024
ERROR_SECONDS = 5.0  # for the words of an error whose status is known
END_SECONDS = 1.0  # for usage and [DONE], once every choice has its finish_reason


class Output(Protocol):
    """Where a committed stream goes."""

    def commit(self, answer: Answer, data: bytes) -> None:
        """The first bytes: the response head must be written with them, before this returns."""
        ...

    def write(self, data: bytes) -> None: ...


class Answer:
    """One attempt's answer: fed by a connection, read by a provider's reader, pushed into an output."""

    __slots__ = (
        *("_admission", "_connection", "_ended", "_entry", "_error_status", "_headers", "_held", "_lane", "_left"),
        *("_output", "_size", "attempts", "committed", "detached", "ended_at", "failure", "first_event", "outcome"),
        *("reader", "started", "tail", "target"),
    )

    def __init__(self, lane: Lane, admission: Admission, target: Target, reader: Reader, output: Output | None) -> None:
        self.target = target
        self.started = time.monotonic()
        self.reader = reader
        self.outcome = Signal()  # commit point, or failure
        self.tail = b""  # the withheld end, once it has ended well
        self.failure: Failure | None = None  # why it ended badly
        self.committed = False
        self.first_event = 0.0  # monotonic clock; once it is committed
        self.ended_at = 0.0  # once it has ended by itself
        self.attempts: Attempts | None = None  # those before it, where there were any
        self.detached: ClientConnection | None = None  # the rest is still to come by it
        self._entry = lane.entry
        self._lane: Lane | None = lane  # until it is told how this ended
        self._admission = admission
        self._output = output
        self._held: list[bytes] = []
        self._size = 0
        self._connection: ClientConnection | None = None
        self._ended: Signal | None = None
        self._error_status = 0
        self._headers: HeaderList = []
        self._left: tuple[Exchange, float] | None = None  # once its client has gone and it is read on

    def send(
        self, connection: ClientConnection, call: Call, patience: float, begins: Callable[[], object] | None = None
    ) -> None:
        """`patience`, `begins`: see `ClientConnection.send`."""
        self._connection = connection
        connection.send(call.head, call.body, self, self._entry.config.deadlines, patience, begins)

    async def end(self) -> None:
        """Wait for the end of a committed answer; then either `tail` or `failure` is set."""
        if self._connection is not None:
            self._ended = Signal()
            await self._ended

    def abort(self) -> None:
        """Give up: the upstream is cut off in this moment."""
        self._hang_up()
        lane, self._lane = self._lane, None
        if lane is not None:
            if self.committed:  # it did answer
                lane.succeeded(self._admission, self.first_event - self.started)
            else:
                lane.dropped(self._admission)

    def leave(self, exchange: Exchange, waited: float) -> None:
        """The client has gone: cut the upstream off, or read on for the usage, which closes the exchange at its end."""
        if self._connection is None or self._entry.config.on_hangup == "abort":
            self.abort()
            note(exchange, self, waited, "cancelled")
            return
        self._output = None  # and so what follows is bounded as an answer that is not streamed
        self._left = exchange, waited
        exchange.reading_on = True
        self._connection.outlast()
        self._connection.resume()

    def fail(self, failure: Failure) -> None:
        """It ended badly."""
        self.failure = failure
        self.ended_at = now = time.monotonic()
        self._hang_up()
        lane, self._lane = self._lane, None
        if lane is not None:
            lane.failed(self._admission, failure, self.started, now)
        self._settle()

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
            connection.hurry(ERROR_SECONDS)
        if self._lane is not None and self._lane.gate.pressed:
            self._lane.hear(connection.headers())

    def on_data(self, data: bytes) -> None:
        if self._connection is None:
            return
        output = self._output
        if self._error_status or output is None:
            self._size += len(data)
            limit = MAX_ERROR_BYTES if self._error_status else self._entry.config.max_answer_bytes
            if self._size > limit:
                kind = FailureKind.MALFORMED if self._error_status else FailureKind.TOO_LARGE
                self.fail(Failure(kind, f"The provider '{self.target.provider}' sent an answer that is too large."))
                return
        if self._error_status:
            self._held.append(data)
            return
        try:
            out = self.reader.feed(data)
            if out:
                if output is not None and self.committed:
                    output.write(out)
                else:
                    self._push(out)
        except ProviderFault as fault:
            self.fail(fault.failure)
            return
        except BaseException:
            self._fail_unread()
            raise
        if self.reader.done:
            if self._connection is not None:  # else it was given up as soon as it was committed
                self._finish()
        elif self.reader.whole and self._connection is not None:
            self._connection.await_end(END_SECONDS)

    def on_end(self) -> None:
        if self._connection is None:
            return
        if self._error_status:
            self._fail_refused()
        else:
            self._finish()

    def on_fault(self, kind: FailureKind, message: str) -> None:
        if self._connection is None:
            return
        if self._error_status:  # it was refused, whatever became of the words for it
            self._fail_refused()
        elif self.reader.whole:
            self._finish()
        else:
            self.fail(Failure(kind, f"The provider '{self.target.provider}' {message}."))

    # -- inside

    def _push(self, out: bytes) -> None:
        """Hold the first events until one commits the answer."""
        if self._output is None:
            if self.reader.committed and not self.committed:
                self._begin()
            return
        self._held.append(out)
        self._size += len(out)
        if self.reader.committed or self._size > HELD_BYTES:
            self._commit()

    def _commit(self) -> None:
        assert self._output is not None
        self._begin()
        self._output.commit(self, b"".join(self._held))
        self._held = []
        self.outcome.give()

    def _begin(self) -> None:
        """The first event has come."""
        assert self._connection is not None
        self.committed = True
        self.first_event = time.monotonic()
        self._connection.first_event_seen()
        if self._admission is _PROBE and self._lane is not None:
            # It answers: others need not wait until this answer has ended, which may take minutes.
            self._admission = self._lane.health.began()

    def _finish(self) -> None:
        try:
            self.tail = self.reader.close()
            if self._output is not None and not self.committed:
                self._commit()
        except ProviderFault as fault:
            self.fail(fault.failure)
            return
        except BaseException:
            self._fail_unread()
            raise
        connection, self._connection = self._connection, None
        if connection is not None:
            if self.reader.aborts:
                connection.abort()
            elif connection.detach():
                self.detached = connection
        self.ended_at = now = time.monotonic()
        lane, self._lane = self._lane, None
        if lane is not None:
            lane.succeeded(self._admission, (self.first_event or now) - self.started)
        self._settle()

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()

    def _fail_refused(self) -> None:
        """It ended in an error status."""
        try:
            failure = self._entry.provider.failure(self._error_status, self._headers, b"".join(self._held))
        except BaseException:
            self._fail_unread()
            raise
        self.fail(failure)

    def _fail_unread(self) -> None:
        """Reader or output broke, which is our fault: the error goes to the log, and the request must not wait on."""
        self.fail(self._malformed("gave an answer that could not be read"))

    def _settle(self) -> None:
        self.outcome.give()
        if self._ended is not None:
            self._ended.give()
        if self._left is not None:
            exchange, waited = self._left
            self._left = None
            note(exchange, self, waited)
            if self.failure is None and not exchange.stream:
                exchange.whole = self.reader.head, self.tail
            exchange.close()

    def _malformed(self, what: str) -> Failure:
        return Failure(FailureKind.MALFORMED, f"The provider '{self.target.provider}' {what}.")


def note(exchange: Exchange, answer: Answer, waited: float = 0.0, outcome: str = "ok") -> None:
    """Put a finished attempt on the exchange, and its usage; its failure, if any, is its outcome.

    `waited`: seconds between the attempt before and this one.
    """
    failure = answer.failure
    exchange.usage = usage = answer.reader.usage
    exchange.finish = answer.reader.finish
    own = None
    if exchange.spent is not None:  # it goes on with another answer
        own, exchange.usage = usage, total(exchange.spent, usage)
    if failure is not None:
        status, outcome = failure.status, failure.kind.value
    else:
        status = 200 if outcome == "ok" or answer.committed else 0
    target = answer.target
    took = milliseconds((answer.ended_at or time.monotonic()) - answer.started)
    exchange.attempts.append(
        Attempt(target.provider, target.model, status, outcome, took, milliseconds(waited) if waited else 0.0, own)
    )
