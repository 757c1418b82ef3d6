"""Copies the answer to the client: head at the commit point, bytes as they come, in-band errors; the end is withheld.

The bytes arrive by callback from the upstream's connection and leave in the same turn of the loop, so a stream costs
no task. A client that reads slowly pauses the upstream through the request's `flow`. After the first byte the status is
spent: whatever goes wrong then is told in the stream, in the form of its endpoint, and the connection closes.
"""

from __future__ import annotations

import asyncio
import time

from penstock.errors import Refusal
from penstock.gateway import heads
from penstock.gateway.exchange import Exchange
from penstock.gateway.refusals import refusal_for
from penstock.gateway.upstream import Answer, note
from penstock.http.request import Request

PING = b": ping\n\n"


class Heartbeats:
    """Breaks a stream's silence with an SSE comment, so that idle proxies keep the connection."""

    def __init__(self, interval: float) -> None:
        self.interval = interval
        self._open: dict[Relay, tuple[int, float]] = {}  # writes seen at a sweep, and when

    def add(self, relay: Relay, now: float) -> None:
        if self.interval:
            self._open[relay] = (relay.writes, now)

    def remove(self, relay: Relay) -> None:
        self._open.pop(relay, None)

    def sweep(self, now: float) -> None:
        for relay, (writes, since) in list(self._open.items()):
            if relay.writes != writes:
                self._open[relay] = (relay.writes, now)
            elif now - since >= self.interval:
                relay.write(PING)
                self._open[relay] = (relay.writes, now)


class Relay:
    """The way of one answer to one client."""

    __slots__ = ("_answer", "_exchange", "_request", "heartbeats", "writes")

    _answer: Answer  # once it has begun

    def __init__(self, request: Request, exchange: Exchange, heartbeats: Heartbeats) -> None:
        self._request = request
        self._exchange = exchange
        self.heartbeats = heartbeats
        self.writes = 0

    # -- Output: called by the answer, synchronously

    def commit(self, answer: Answer, data: bytes) -> None:
        self._answer = answer
        exchange = self._exchange
        exchange.status = 200
        exchange.first_event = now = answer.first_event
        self._request.flow = answer  # before the first bytes: they may be enough to pause it
        head = heads.lines(exchange, now, heads.SSE_LINES, answer.target)
        self._request.start(200, head + answer.reader.head, data)
        self.heartbeats.add(self, now)

    def write(self, data: bytes) -> None:
        self.writes += 1
        self._request.write(data)

    def go_on(self, answer: Answer) -> None:
        """The bytes that follow come from another answer than the one that began."""
        self._request.flow = answer
        if self._request.connection.unwritable:
            answer.pause()

    # -- for the path of a request

    async def copy(self, answer: Answer) -> Answer:
        """Wait until a committed answer has been copied, all but its end. Raises Refusal when it was cut off."""
        exchange = self._exchange
        try:
            await answer.end()
        except asyncio.CancelledError:
            answer.leave(exchange, exchange.waited)
            raise
        note(exchange, answer, exchange.waited)
        if answer.failure is not None:
            raise refusal_for(answer.failure, answer.target)
        return answer

    def finish(self, answer: Answer) -> None:
        """Write the withheld end of an answer that ended well."""
        exchange = self._exchange
        if answer.committed:
            self._request.end(answer.tail)
        else:
            head = heads.lines(exchange, time.monotonic(), heads.JSON_LINES, answer.target)
            self._request.respond(200, head + answer.reader.head, answer.tail)

    def close(self) -> None:
        """Whatever happened, nothing more comes through here."""
        self._request.flow = None
        self.heartbeats.remove(self)

    def refuse(self, refusal: Refusal) -> None:
        """End a started stream in an error that clients raise."""
        self._request.keep_alive = False
        self._request.end(self._answer.reader.error_event(refusal))
