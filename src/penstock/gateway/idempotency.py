"""A request with an Idempotency-Key: run once, however often it is sent.

The parent says what becomes of it (`control.runs`). Where it may run, it takes the path of every request, and what its
client gets in the end is handed to the parent before the last byte is written; a repeat is then given the same, and
neither an upstream nor a limit nor the ledger hears of it. Whatever is no whole answer (a refusal, a failure, an error
in the stream, a client that left) releases the key, so that a retry runs. An answer that is read on after its client
has gone keeps the key until its end, and is then the repeat's, unless it is streamed.

A request without the header pays for one look at its headers.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable

from penstock.errors import Conflict, InvalidRequest, Overloaded, Refusal
from penstock.gateway import heads
from penstock.gateway.complete import Decode, Gateway, Refuse, complete
from penstock.gateway.exchange import Exchange
from penstock.http.request import Request
from penstock.link import FinishRun, ReleaseRun, RunClaimed
from penstock.types import Replay, Run

HEADER = b"idempotency-key"
LONGEST_KEY = 255

_AGAIN = ((b"Retry-After", b"1"),)
_NEVER = ((b"x-should-retry", b"false"),)


class Idempotency:
    """The runs of one worker. `ask` the parent for one: None where it does not answer; `send` it how one ended."""

    def __init__(
        self, ask: Callable[[Run], Awaitable[RunClaimed | None]], send: Callable[[FinishRun | ReleaseRun], object]
    ) -> None:
        self._ask = ask
        self._send = send

    async def claim(self, run: Run) -> Replay | None:
        """None where the request is to be run; else the answer that it is given. Raises Refusal."""
        try:
            claimed = await self._ask(run)
        except asyncio.CancelledError:
            self.release(run)
            raise
        if claimed is None:
            self.release(run)  # it may be claimed yet
        elif claimed.outcome == "claimed" or claimed.replay is not None:
            return claimed.replay
        raise _refusal("unavailable" if claimed is None else claimed.outcome)

    def finish(self, run: Run, replay: Replay | None) -> None:
        self._send(FinishRun(run, replay))

    def release(self, run: Run) -> None:
        self._send(ReleaseRun(run))


async def once(
    gateway: Gateway, request: Request, exchange: Exchange, refuse: Refuse, decode: Decode, runs: Idempotency
) -> Replay | None:
    """Run the request, or return the answer that it had. Raises Refusal, where it may not run."""
    run = _run(request, exchange)
    found = await runs.claim(run)
    if found is not None:
        return found
    finished = False

    def finish(replay: Replay | None) -> None:
        nonlocal finished
        finished = True
        runs.finish(run, replay)

    exchange.on_whole = finish
    try:
        await complete(gateway, request, exchange, refuse, decode)
    finally:
        if exchange.reading_on:
            _read_on(exchange, run, runs)
        elif not finished:
            runs.release(run)
    return None


def answer_again(request: Request, exchange: Exchange, replay: Replay) -> None:
    """Give a repeat the answer that there was."""
    lines = heads.lines(exchange, time.monotonic(), heads.SSE_LINES if replay.stream else heads.JSON_LINES)
    marks = b"x-penstock-replayed: true\r\nx-penstock-original-request-id: %s\r\n" % replay.request_id.encode()
    request.respond(200, lines + replay.head + marks, replay.body)


def _read_on(exchange: Exchange, run: Run, runs: Idempotency) -> None:
    """When the answer has come to its end, without a client, keep it or release the key."""
    close = exchange.close

    def ended() -> None:
        if exchange.whole is not None and exchange.target is not None:
            head, body = exchange.whole
            runs.finish(run, heads.replay(exchange, exchange.target, head, body))
        else:
            runs.release(run)
        close()

    exchange.close = ended


def _run(request: Request, exchange: Exchange) -> Run:
    key = request.headers[HEADER]
    if not 1 <= len(key) <= LONGEST_KEY or not (key.isascii() and key.decode().isprintable()):
        raise InvalidRequest(
            f"The header Idempotency-Key must hold 1 to {LONGEST_KEY} printable ASCII characters.",
            code="invalid_idempotency_key",
        )
    assert exchange.principal is not None
    scope = exchange.principal.key_id.encode()
    return Run(_digest(scope, key), _digest(request.path, request.body), exchange.request_id)


def _digest(first: bytes, second: bytes) -> bytes:
    return hashlib.sha256(b"%s\0%s" % (first, second)).digest()


def _refusal(outcome: str) -> Refusal:
    if outcome == "running":
        message = "A request with this Idempotency-Key is being answered; try again shortly."
        return Conflict(message, code="idempotent_request_running", headers=_AGAIN)
    if outcome == "reused":
        message = "This Idempotency-Key was used for another request. Take a new key for each request."
        return Conflict(message, code="idempotency_key_reused", headers=_NEVER)
    if outcome == "gone":
        message = "A request with this Idempotency-Key was answered, and the answer is not kept any more."
        return Conflict(message, code="idempotent_answer_gone", headers=_NEVER)
    message = "Whether this Idempotency-Key was used cannot be told now; try again shortly."
    return Overloaded(message, code="idempotency_unavailable", headers=_AGAIN)
