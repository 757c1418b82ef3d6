"""The header lines that every answer carries, and the ids they name."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from penstock.gateway.exchange import Exchange
from penstock.http.request import Request
from penstock.types import Replay, Target

_VERSION = b"openai-version: 2020-10-01\r\n"
JSON_LINES = b"Content-Type: application/json\r\n" + _VERSION
SSE_LINES = b"Content-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n" + _VERSION


class RequestIds:
    """Ids that sort by time: milliseconds, a counter, and this worker's random mark, in hexadecimal."""

    def __init__(self, wall_clock: Callable[[], float] = time.time, mark: bytes | None = None) -> None:
        self._wall_clock = wall_clock
        self._mark = mark if mark is not None else os.urandom(6).hex().encode()
        self._count = 0

    def open(self, request: Request) -> Exchange:
        """Give a request, whose head has been read, its exchange."""
        request.context = exchange = self.exchange(time.monotonic())
        return exchange

    def exchange(self, started: float) -> Exchange:
        """A new exchange that began at `started`, of the monotonic clock."""
        self._count = count = (self._count + 1) & 0xFFFFFF
        started_at = self._wall_clock()
        request_id = b"req_%012x%06x%s" % (int(started_at * 1000), count, self._mark)
        return Exchange(request_id.decode(), started, started_at)


def lines(exchange: Exchange, now: float, kind: bytes, target: Target | None = None) -> bytes:
    """All header lines of an answer: `kind` is JSON_LINES or SSE_LINES; `target` is who answered."""
    elapsed_ms = int((now - exchange.started) * 1000)
    request_id = exchange.request_id.encode()
    if exchange.hold is not None:
        kind += exchange.hold.lines(now)
    if target is None:
        return b"%sx-request-id: %s\r\nopenai-processing-ms: %d\r\n" % (kind, request_id, elapsed_ms)
    return b"%sx-request-id: %s\r\nopenai-processing-ms: %d\r\nx-penstock-target: %s\r\nx-penstock-attempts: %d\r\n" % (
        kind,
        request_id,
        elapsed_ms,
        target.label,
        exchange.calls,
    )


def replay(exchange: Exchange, target: Target, more: bytes, body: bytes) -> Replay:
    """An answer of `target` as a repeat of its request gets it; `more` are the header lines of its reader."""
    head = b"x-penstock-target: %s\r\nx-penstock-attempts: %d\r\n%s" % (target.label, exchange.calls, more)
    return Replay(exchange.request_id, exchange.stream, head, body)
