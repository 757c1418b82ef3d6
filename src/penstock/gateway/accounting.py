"""The record: one frozen value per request, made, and put into the journal, before the end of the answer is written."""

from __future__ import annotations

from collections.abc import Iterable

from penstock.errors import InvalidRequest
from penstock.gateway.exchange import Exchange
from penstock.gateway.journal import Journal
from penstock.types import Dropped, Record, Skipped, milliseconds

TAGS = 10
TAG_LENGTH = 64


def tags(said: bytes) -> tuple[str, ...]:
    """What a request is to be attributed to, as its header names it, separated by commas. Raises InvalidRequest."""
    found = tuple(tag for tag in (part.strip() for part in said.decode("ascii", "replace").split(",")) if tag)
    if len(found) > TAGS or any(len(tag) > TAG_LENGTH or not (tag.isascii() and tag.isprintable()) for tag in found):
        raise InvalidRequest(
            f"Invalid 'x-penstock-tags' header: expected at most {TAGS} tags, separated by commas, "
            f"each of at most {TAG_LENGTH} printable ASCII characters.",
            param="x-penstock-tags",
            code="invalid_value",
        )
    return found


def close(exchange: Exchange, journal: Journal | None, now: float, heard: int) -> Record:
    """Make the record of this exchange and journal it. `heard`: see `Journal.done`; it counts where no usage does."""
    made = record(exchange, now)
    if journal is not None:
        journal.done(exchange, made, heard if made.usage is None else 0)
    return made


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
