"""The path of one request that an upstream answers, in order.

Everything that can be cancelled is awaited inside the `try`; the `finally` awaits nothing, so that a client that
hangs up at any moment finds its upstream cut off, its record made and its observers told. (Where the provider is
configured to be read on after a hang-up, both happen when that has come to its end.) The record is in the journal
before the end of the answer is written, be it an answer or an error: what a client has whole is on record.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Mapping

from penstock.errors import AuthenticationFailed, PermissionDenied, Refusal
from penstock.gateway import accounting
from penstock.gateway.admission import Admission, Hold
from penstock.gateway.exchange import Exchange
from penstock.gateway.journal import Journal
from penstock.gateway.keeping import Keeper, kept
from penstock.gateway.refusals import blamed
from penstock.gateway.relay import Heartbeats, Relay
from penstock.gateway.rescue import Rescue
from penstock.gateway.routing import Routes, unavailable
from penstock.gateway.telemetry import Telemetry
from penstock.gateway.upstream import Answer, Upstreams, note
from penstock.http.request import Request
from penstock.providers.base import AnyRequest
from penstock.types import Record
from penstock.wire.ceiling import lowered
from penstock.wire.estimate import BYTES_PER_TOKEN

NEVER = float("inf")
CUT_OFF = 0.02  # seconds within which an upstream sees that it was

Refuse = Callable[[Request, Refusal], None]
Decode = Callable[[bytes], AnyRequest]


class Gateway:
    """The stages of a worker, wired together by one configuration; a new one makes a new Gateway.

    A request goes by that which it began with. `requests`: how many do now. `down`: providers that cannot be used now,
    with reasons.
    """

    __slots__ = ("admission", "down", "heartbeats", "journal", "keeper", "requests", "routes", "telemetry", "upstreams")

    def __init__(
        self,
        routes: Routes,
        admission: Admission,
        upstreams: Upstreams,
        telemetry: Telemetry,
        heartbeats: Heartbeats,
        keeper: Keeper,
        journal: Journal | None = None,
    ) -> None:
        self.routes = routes
        self.admission = admission
        self.upstreams = upstreams
        self.telemetry = telemetry
        self.heartbeats = heartbeats
        self.keeper = keeper
        self.journal = journal
        self.requests = 0
        self.down: Mapping[str, str] = {}


async def complete(gateway: Gateway, request: Request, exchange: Exchange, refuse: Refuse, decode: Decode) -> None:
    """Answer one request, whose key is known; `refuse` writes a refusal when nothing has been sent."""
    principal = exchange.principal
    assert principal is not None
    gateway.telemetry.begin()
    gateway.requests += 1
    relay = Relay(request, exchange, gateway.heartbeats)
    record = None
    try:
        # Python's SDK names its read timeout, Node's its timeout, for which it waits for the first bytes of an answer.
        fields = request.headers
        if (said := fields.get(b"x-stainless-read-timeout") or fields.get(b"x-stainless-timeout")) is not None:
            exchange.patience = exchange.started + _seconds(said)
        if principal.endpoints and exchange.endpoint not in principal.endpoints:
            raise PermissionDenied(f"This API key may not use {exchange.endpoint}; ask whoever runs this gateway.")
        if (said := fields.get(b"x-penstock-tags")) is not None:
            exchange.tags = accounting.tags(said)
        asked = decode(request.body)
        exchange.stream = asked.stream
        if "store" in asked.fields or principal.keeps_content or exchange.on_whole is not None:
            relay = kept(relay, request, exchange, asked, gateway.keeper)
        plan = gateway.routes.plan(asked, principal, gateway.down, gateway.upstreams.lanes)
        exchange.dropped = plan.dropped
        if not plan.targets:
            raise unavailable(asked.model, plan.ready_in)
        if principal.limited:
            held = gateway.admission.reserve(principal, asked, plan.targets, exchange.patience)
            asked = _admitted(exchange, asked, held if isinstance(held, Hold) else await held)
        way = relay if not plan.rescue else Rescue(relay, gateway.upstreams, asked, plan, exchange)
        answer = await gateway.upstreams.open(asked, plan, exchange, way)
        if answer.committed:
            answer = await way.copy(answer)
        else:
            note(exchange, answer, exchange.waited)
        if answer.detached is not None and exchange.hold is not None and exchange.hold.claim.slots:
            await answer.detached.ended()  # an answer whose end the upstream has not sent yet is in flight there
        exchange.status, exchange.ended = 200, "ok"
        heard = 0 if exchange.usage is not None else _heard(exchange, relay, answer)
        record = accounting.close(exchange, gateway.journal, time.monotonic(), heard)
        if exchange.hold is not None:
            exchange.hold.release(exchange.usage)  # first: who has the end of an answer may use its slot
        relay.finish(answer)
    except Refusal as refusal:
        record = _give_up(gateway, request, exchange, relay, refuse, refusal)
    except asyncio.CancelledError:
        if request.stopped is not None:
            exchange.ended = "revoked" if isinstance(request.stopped, AuthenticationFailed) else "drained"
            record = _give_up(gateway, request, exchange, relay, refuse, request.stopped)
        else:
            exchange.ended = "hangup"
            if not request.started:
                exchange.status = 0
    finally:
        relay.close()
        gateway.requests -= 1
        if exchange.reading_on:
            exchange.close = functools.partial(_close, gateway, exchange, relay)
        else:
            _let_go(gateway, exchange)
            gateway.telemetry.end(record or _record(gateway, exchange, relay))


def _close(gateway: Gateway, exchange: Exchange, relay: Relay) -> None:
    _let_go(gateway, exchange)
    gateway.telemetry.end(_record(gateway, exchange, relay))


def _record(gateway: Gateway, exchange: Exchange, relay: Relay) -> Record:
    """The record of what did not end well."""
    return accounting.close(exchange, gateway.journal, time.monotonic(), _heard(exchange, relay))


def _heard(exchange: Exchange, relay: Relay, whole: Answer | None = None) -> int:
    """About how many tokens have come, where nobody reports it: most servers send one a chunk."""
    if exchange.first_event is not None:
        return relay.writes + 1
    return -(-len(whole.tail) // BYTES_PER_TOKEN) if whole is not None else 0


def _admitted(exchange: Exchange, asked: AnyRequest, hold: Hold) -> AnyRequest:
    """The request that is to be sent, for which so much is held."""
    exchange.hold = hold
    return asked if hold.cap is None else lowered(asked, hold.cap)


def _let_go(gateway: Gateway, exchange: Exchange) -> None:
    """Free what is held, where the answer did not come to its end.

    A connection that was cut off is closed in the loop's next turn, and it takes the upstream a moment to see it: until
    then it has one request more than it seems. What is in the journal is settled from there.
    """
    hold = exchange.hold
    if hold is None or not hold.held:
        return
    loop = asyncio.get_running_loop()
    if not (exchange.begun if gateway.journal is not None else exchange.calls):
        loop.call_soon(hold.cancel)
    elif exchange.attempts and exchange.attempts[-1].status >= 400:
        loop.call_soon(hold.release)  # it said all that it had to say
    else:
        loop.call_later(CUT_OFF, hold.release)


def _seconds(said: bytes) -> float:
    """A caller's timeout; for ever, if it makes no sense."""
    try:
        seconds = float(said)
    except ValueError:
        return NEVER
    return seconds if seconds > 0 else NEVER  # also of what is not a number


def _give_up(
    gateway: Gateway, request: Request, exchange: Exchange, relay: Relay, refuse: Refuse, refusal: Refusal
) -> Record | None:
    """Tell the client in the form that is still open: an error answer, or an error in the stream.

    The record is made first, unless there will be more of it.
    """
    exchange.code = refusal.code
    if request.started:
        if request.stopped is None:
            exchange.ended = "cut"
    else:
        if request.stopped is None:
            exchange.ended = blamed(refusal)
        exchange.status = refusal.status
    record = None if exchange.reading_on else _record(gateway, exchange, relay)
    if request.started:
        relay.refuse(refusal)
    else:
        refuse(request, refusal)
    return record
