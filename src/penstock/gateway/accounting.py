"""The record: one frozen value per request, made before the end of the answer is written."""

from __future__ import annotations

from penstock.gateway.exchange import Exchange
from penstock.types import Record, milliseconds


def record(exchange: Exchange, now: float) -> Record:
    """What is kept of this exchange; `now` is of the monotonic clock, as the exchange's times are."""
    target = exchange.target
    first = exchange.first_event
    return Record(
        request_id=exchange.request_id,
        started_at=exchange.started_at,
        key_id=exchange.principal.key_id if exchange.principal is not None else "",
        route=target.route if target is not None else "",
        provider=target.provider if target is not None else "",
        model=target.model if target is not None else "",
        stream=exchange.stream,
        status=exchange.status,
        ended=exchange.ended,
        code=exchange.code,
        usage=exchange.usage,
        duration_ms=milliseconds(now - exchange.started),
        first_event_ms=milliseconds(first - exchange.started) if first is not None else None,
        attempts=tuple(exchange.attempts),
        client_request_id=exchange.client_request_id,
        client=exchange.client,
    )
