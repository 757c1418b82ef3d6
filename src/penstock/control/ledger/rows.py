"""What a journal's entries say of one request, as rows of the ledger and a settlement.

The provider's own figures are taken where there are any. Else the policy is, for every kind of provider:

- an answer that ended well and reported nothing is estimated, by the bytes of the request and the chunks of the answer;
- one that broke off, or that its client left, is charged its prompt and what came of it, marked partial; one that is
  not streamed, of which nobody saw anything, what was reserved for it, if anything was;
- an attempt that was refused with an error status, or whose connection turned out to be closed, costs nothing;
- one of which it is not known how it ended, since its worker died, costs what was reserved for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeAlias

import msgspec

from penstock.errors import FailureKind
from penstock.journal import Answered, Begun, Context, Done, End, Ended, Entry, Reserved, Sent, Spent, Tried
from penstock.stores.base import AttemptRow, Brief, LedgerRow, RequestRow
from penstock.stores.base.ledger import MOST_TOKENS, NOTHING, SOURCES, Series, TokenSource
from penstock.types import Settlement
from penstock.wire.estimate import BYTES_PER_TOKEN

LOST = "lost"
UNKNOWN = "unknown"


class Tariff(Protocol):
    """What tokens cost from `since` until `until` (Unix seconds), by the prices that `version` names."""

    @property
    def version(self) -> str: ...

    @property
    def since(self) -> float: ...

    @property
    def until(self) -> float: ...

    def cost(self, prompt: int, completion: int, cached: int = 0, reasoning: int = 0) -> int | None:
        """Nano-dollars for the tokens of one request; None where a price of any of them is not known."""
        ...


Price = Callable[[str, str, float], Tariff]
"""Of a provider and its model, at a moment (Unix seconds): what tokens cost."""

Opened: TypeAlias = "list[Entry] | tuple[Sent, Common]"
"""How a request began, and what came until now: entries of which the first is a Begun, or the one that says it all."""

Closed: TypeAlias = tuple[Opened, End]
"""A request that has ended: what came before its last entry, and that."""

_STALE = FailureKind.STALE.value
_CANCELLED = "cancelled"
_encode = msgspec.json.Encoder().encode


class _Cost(NamedTuple):
    prompt: int
    cached: int
    completion: int
    reasoning: int
    prompt_source: TokenSource
    completion_source: TokenSource
    nanos: int | None
    version: str


_FREE = _Cost(0, 0, 0, 0, "estimated", "estimated", 0, "")
_REPORTED, _ESTIMATED, _PARTIAL = (
    SOURCES["complete", source, source] for source in ("reported", "estimated", "partial")
)
_WORST: dict[TokenSource, int] = {"reported": 0, "estimated": 1, "partial": 2}


def account(entries: Sequence[Entry], done: End | None, price: Price) -> tuple[RequestRow, Settlement | None]:
    """The row of a request, and what becomes of its reservation, if it had one. `entries` begin with a Begun; `done` is
    None where the worker has died."""
    begun = entries[0]
    assert isinstance(begun, Begun)
    if isinstance(done, Answered):
        done = _told_at_length(begun, done)
    ends: dict[int, Tried] = {}
    for entry in (*entries, *(() if done is None else (done,))):
        if isinstance(entry, Ended | Done):
            ends |= enumerate(entry.attempts, entry.first)
    attempts, cost = _attempts(entries, done, ends, price)
    row = _lost(begun, attempts, cost) if done is None else _request(begun, done, attempts, cost, _trace(done, ends))
    if begun.reserved is None:
        return row, None
    return row, _settlement(begun.reserved, cost)


class Common:
    """What the beginnings of many requests have in common, and the series of their rows by version of the prices."""

    __slots__ = ("context", "series")

    def __init__(self, context: Context) -> None:
        self.context = context
        self.series: dict[str, Series] = {}

    def learn(self, version: str, known: dict[Series, Series]) -> Series:
        """The series at these prices: that which is `known`, if it is, so that rows which wait share it."""
        it = self.context
        texts = _clean(it.asked), it.route, it.provider, _clean(it.model)
        series = (it.key_id, it.project_id, it.endpoint, *texts, version)
        self.series[version] = series = known.setdefault(series, series)
        return series


def at_length(opened: Opened) -> list[Entry]:
    """The entries that say the same."""
    if isinstance(opened, list):
        return opened
    sent, common = opened
    return [sent.begun(common.context)]


def accounts(
    closed: Sequence[Closed], price: Price, known: dict[Series, Series]
) -> tuple[list[LedgerRow], list[Settlement]]:
    """The rows of requests that have ended, and what becomes of those reservations that they had. `known`: the series
    of other rows."""
    rows: list[LedgerRow] = []
    settlements = []
    last, tariff = None, None
    for opened, done in closed:
        row: LedgerRow | None = None
        settlement = None
        if type(opened) is tuple and type(done) is Answered:
            sent, common = opened
            at = sent.started_at
            if tariff is None or common is not last or not tariff.since <= at < tariff.until:
                last, tariff = common, price(common.context.provider, common.context.model, at)
            row, settlement = _brief(sent, common, done, tariff, known)
        if row is None:
            row, settlement = account(at_length(opened), done, price)
        rows.append(row)
        if settlement is not None:
            settlements.append(settlement)
    return rows, settlements


def _brief(
    sent: Sent, common: Common, done: Answered, tariff: Tariff, known: dict[Series, Series]
) -> tuple[Brief | None, Settlement | None]:
    """As `account`, and quicker, of what is nearly all; no row where a figure is not believed."""
    prompt, completion, cached, reasoning = (
        done.prompt_tokens,
        done.completion_tokens,
        done.cached_tokens,
        done.reasoning_tokens,
    )
    sources = _REPORTED
    if done.source != "reported":
        sources = _PARTIAL if done.source == "partial" else _ESTIMATED
        if not done.source:
            prompt, completion = -(-sent.prompt_bytes // BYTES_PER_TOKEN), done.heard
    nanos = tariff.cost(prompt, completion, cached, reasoning)
    if prompt + completion + cached + reasoning > MOST_TOKENS:
        return None, None
    version = "" if nanos is None else tariff.version
    first = done.first_event_ms
    row = (
        sent.id,
        common.series.get(version) or common.learn(version, known),
        sent.started_at,
        1 if sent.stream else 0,
        done.finish,
        prompt,
        cached,
        completion,
        reasoning,
        sources,
        NOTHING if first is None else first,
        done.duration_ms,
        done.took_ms,
        NOTHING if nanos is None else nanos,
    )
    lease = sent.lease
    if lease is None:
        return row, None
    reserved = sent.nanos
    used = reserved if nanos is None else nanos
    return row, Settlement(lease, sent.requests, sent.tokens, reserved, prompt + completion, used)


def _told_at_length(begun: Begun, done: Answered) -> Done:
    usage = None
    if done.source:
        usage = Spent(
            done.prompt_tokens, done.completion_tokens, done.cached_tokens, done.reasoning_tokens, done.source
        )
    return Done(
        done.id,
        200,
        "ok",
        None,
        done.finish,
        begun.provider,
        begun.model,
        usage,
        done.heard,
        done.duration_ms,
        done.first_event_ms,
        0,
        (Tried(begun.provider, begun.model, 200, "ok", done.took_ms),),
    )


def _attempts(
    entries: Sequence[Entry], done: Done | None, ends: Mapping[int, Tried], price: Price
) -> tuple[tuple[AttemptRow, ...], _Cost]:
    """The attempts of a request that were begun, and their cost together. `ends`: how attempts ended, by number."""
    begun = {entry.number: entry for entry in entries if isinstance(entry, Begun)}
    last = max(begun)
    apart = any(one.usage is not None for one in ends.values())  # then each has its own, and the record's is their sum
    attempts, total = [], None
    for number, one in sorted(begun.items()):
        found = ends.get(number)
        if found is None and (done is not None or number != last):
            # Nobody noted how it ended, though the worker went on: a fault of ours, or a list that was cut.
            found = Tried(one.provider, one.model, 0, UNKNOWN, 0.0)
        usage, heard = (None, 0) if done is None or number != last else (done.usage, done.heard)
        if apart:
            usage = None if found is None else found.usage
        cost = _cost(one, found, usage, heard, price)
        attempts.append(_attempt(one, found, cost))
        total = cost if total is None else _sum(total, cost)
    assert total is not None
    return tuple(attempts), total


def _cost(begun: Begun, tried: Tried | None, usage: Spent | None, heard: int, price: Price) -> _Cost:
    """What one attempt has cost; `tried` is None where nobody knows how it ended."""
    if tried is None:
        return _reserved(begun, price)
    ok = tried.outcome == "ok"
    of_prompt: TokenSource = "reported"
    of_completion: TokenSource = "reported"
    if usage is not None:
        counted = usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens, usage.reasoning_tokens
        if usage.source != "reported":
            of_prompt = of_completion = "partial" if usage.source == "partial" else "estimated"
        elif not ok:
            of_completion = "partial"
    elif tried.status >= 400 or tried.outcome == _STALE:
        return _FREE
    elif tried.outcome == _CANCELLED and not begun.stream and begun.reserved is not None:
        # Nobody saw how much was generated: who hangs up must not get it for the price of the prompt.
        return _reserved(begun, price)
    else:
        counted = -(-begun.prompt_bytes // BYTES_PER_TOKEN), 0, heard, 0
        of_prompt = of_completion = "estimated" if ok else "partial"
    return _Cost(*counted, of_prompt, of_completion, *_priced(begun, counted, price))


def _priced(begun: Begun, counted: tuple[int, int, int, int], price: Price) -> tuple[int | None, str]:
    """Nano-dollars for tokens in the order of `_Cost`, and which prices say so; None, and nothing, if none do."""
    prompt, cached, completion, reasoning = counted
    tariff = price(begun.provider, begun.model, begun.started_at)
    nanos = tariff.cost(prompt, completion, cached, reasoning)
    return nanos, "" if nanos is None else tariff.version


def _reserved(begun: Begun, price: Price) -> _Cost:
    """What an attempt is charged of which nobody knows how it ended."""
    prompt, completion, reserved = -(-begun.prompt_bytes // BYTES_PER_TOKEN), 0, begun.reserved
    if reserved is not None and reserved.tokens:
        prompt = min(prompt, reserved.tokens)
        completion = reserved.tokens - prompt
    counted = prompt, 0, completion, 0
    nanos, version = _priced(begun, counted, price)
    if reserved is not None and reserved.nanos:
        nanos = reserved.nanos
    return _Cost(*counted, "partial", "partial", nanos, version)


def _sum(one: _Cost, other: _Cost) -> _Cost:
    """Both together."""
    return _Cost(
        one.prompt + other.prompt,
        one.cached + other.cached,
        one.completion + other.completion,
        one.reasoning + other.reasoning,
        _source(one.prompt, one.prompt_source, other.prompt, other.prompt_source),
        _source(one.completion, one.completion_source, other.completion, other.completion_source),
        None if one.nanos is None or other.nanos is None else one.nanos + other.nanos,
        other.version or one.version,
    )


def _source(tokens: int, source: TokenSource, more: int, other: TokenSource) -> TokenSource:
    """Of two figures together: the source that promises less, but for that of nothing."""
    if not tokens or not more:
        return other if more or not tokens else source
    return max(source, other, key=_WORST.__getitem__)


def _attempt(begun: Begun, tried: Tried | None, cost: _Cost) -> AttemptRow:
    status, outcome, took, waited = 0, UNKNOWN, None, 0.0
    if tried is not None:
        status, outcome, took, waited = tried.status, tried.outcome, tried.duration_ms, tried.wait_ms
    # By position, in the order of the declaration: names would cost as much as the rest.
    return AttemptRow(
        f"{begun.id}/{begun.number + 1}",
        begun.id,
        begun.number + 1,
        begun.provider,
        _clean(begun.model),
        status,
        outcome,
        *cost,
        took,
        waited,
        "partial" if tried is None else "complete",
    )


def _request(begun: Begun, done: Done, attempts: tuple[AttemptRow, ...], cost: _Cost, trace: bytes) -> RequestRow:
    return RequestRow(
        begun.id,
        begun.started_at,
        begun.key_id,
        begun.project_id,
        begun.endpoint,
        _clean(begun.asked),
        begun.route,
        done.provider,
        _clean(done.model),
        begun.stream,
        done.status,
        done.ended,
        done.code and _clean(done.code),
        done.finish,
        *cost,
        done.duration_ms,
        done.first_event_ms,
        ",".join(begun.tags),
        begun.user and _clean(begun.user),
        begun.safety_identifier and _clean(begun.safety_identifier),
        trace,
        "complete",
        attempts,
    )


def _lost(begun: Begun, attempts: tuple[AttemptRow, ...], cost: _Cost) -> RequestRow:
    """The row of a request whose worker died before it had ended."""
    return RequestRow(
        begun.id,
        begun.started_at,
        begun.key_id,
        begun.project_id,
        begun.endpoint,
        _clean(begun.asked),
        begun.route,
        attempts[-1].provider,
        attempts[-1].model,
        begun.stream,
        0,
        LOST,
        None,
        "",
        *cost,
        None,
        None,
        ",".join(begun.tags),
        begun.user and _clean(begun.user),
        begun.safety_identifier and _clean(begun.safety_identifier),
        b"",
        "partial",
        attempts,
    )


def _trace(done: Done, tried: Mapping[int, Tried]) -> bytes:
    """What was decided, where it was more than to call the first target; attempts that were never sent among it."""
    if len(tried) == 1 and not (done.first or done.skipped or done.stopped or done.rescue or done.lined_ms):
        return b""
    return _encode(
        {
            "attempts": [
                {
                    "number": number + 1,
                    "provider": one.provider,
                    "model": _clean(one.model),
                    "status": one.status,
                    "outcome": one.outcome,
                    "duration_ms": one.duration_ms,
                    "wait_ms": one.wait_ms,
                }
                for number, one in tried.items()
            ],
            "skipped": [
                {"provider": provider, "model": _clean(model), "reason": reason}
                for provider, model, reason in done.skipped
            ],
            "stopped": done.stopped,
            "rescue": done.rescue,
            "lined_ms": done.lined_ms,
        }
    )


def _settlement(reserved: Reserved, cost: _Cost) -> Settlement:
    """Slots are no part of it: the worker gives those back itself."""
    tokens = cost.prompt + cost.completion
    used = reserved.nanos if cost.nanos is None else cost.nanos
    return Settlement(reserved.lease, reserved.requests, reserved.tokens, reserved.nanos, tokens, used)


def _clean(text: str) -> str:
    """A client's text without the one character that a database does not take."""
    return text.replace("\0", "\ufffd") if "\0" in text else text
