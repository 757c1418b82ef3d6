"""The record: one frozen value per request, made before the end of the answer is written."""

from __future__ import annotations

from collections.abc import Iterable

from penstock.gateway.exchange import Exchange
from penstock.types import Dropped, Record, Skipped, milliseconds


def record(exchange: Exchange, now: float) -> Record:
    """What is kept of this exchange; `now` is of the monotonic clock, as the exchange's times are."""
    target = exchange.target
    routed = target or (exchange.dropped[0].target if exchange.dropped else None)
    first = exchange.first_event
    # By position, in the order of the declaration: names would cost as much as the rest.
    return Record(
        exchange.request_id,
        exchange.started_at,
        exchange.principal.key_id if exchange.principal is not None else "",
        routed.route if routed is not None else "",
        target.provider if target is not None else "",
        target.model if target is not None else "",
        exchange.stream,
        exchange.status,
        exchange.ended,
        exchange.code,
        exchange.usage,
        milliseconds(now - exchange.started),
        milliseconds(first - exchange.started) if first is not None else None,
        tuple(exchange.attempts),
        exchange.client_request_id,
        exchange.client,
        exchange.endpoint,
        _skipped(exchange.dropped) if exchange.dropped else (),
        exchange.stopped,
        exchange.rescue,
    )


def _skipped(dropped: Iterable[Dropped]) -> tuple[Skipped, ...]:
    return tuple(Skipped(one.target.provider, one.target.model, one.reason) for one in dropped)
