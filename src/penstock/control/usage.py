"""What was used, as it is asked for and told: to a key of its own use over HTTP, to an operator by `penstock usage`.

Numbers are told with what is known of them: how many tokens nobody reported, and how many requests have no price, whose
cost is then not told as nothing but as unknown.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, get_args
from urllib.parse import parse_qsl

import msgspec

from penstock.link import UsageAnswer, UsageQuestion
from penstock.stores.base import Dimension, Ledger, StoreUnavailable, UsageLine, UsageQuery

LIMIT = 2.0  # seconds that the ledger has for a key's question
OWN: Final = ("model", "provider", "target", "endpoint", "hour", "day", "tag")  # what a key may ask by
EVERYTHING: Final[tuple[Dimension, ...]] = get_args(Dimension)

_SPAN = re.compile(r"(\d{1,5})([hdw])")
_HOURS = {"h": 1, "d": 24, "w": 168}
_LONGEST = 1000  # characters of a query


class InvalidUsage(ValueError):
    """What cannot be asked; the message says what can, and `name` which parameter it was."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


def query_of(given: Mapping[str, str], allowed: Sequence[str], now: float) -> UsageQuery:
    """Of `by`, `since` and `until` as people write them; raises InvalidUsage."""
    return UsageQuery(
        dimensions(given.get("by", "model"), allowed),
        moment("since", given["since"], now) if "since" in given else 0.0,
        moment("until", given["until"], now) if "until" in given else float("inf"),
    )


def dimensions(text: str, allowed: Sequence[str]) -> tuple[Dimension, ...]:
    """`day,model`; raises InvalidUsage."""
    names = tuple(part.strip() for part in text.split(","))
    for name in names:
        if name not in allowed:
            raise InvalidUsage("by", f"usage is told by {', '.join(allowed)}")
    if len(set(names)) < len(names) or ("tag" in names and len(names) > 1):
        raise InvalidUsage("by", "name each once, and tag alone")
    return names  # type: ignore[return-value]  # all of them are allowed


def moment(name: str, text: str, now: float) -> float:
    """`7d`, `12h` or `2w` ago, or a date, of which the first second in UTC counts, or a time. Raises InvalidUsage."""
    span = _SPAN.fullmatch(text)
    if span is not None:
        return now - timedelta(hours=int(span[1]) * _HOURS[span[2]]).total_seconds()
    try:
        found = datetime.fromisoformat(text)
        return (found.replace(tzinfo=UTC) if found.tzinfo is None else found).timestamp()
    except (ValueError, OverflowError):
        message = "give a date (2026-11-01), a time (2026-11-01T18:00) or how long ago (12h, 7d, 4w)"
        raise InvalidUsage(name, message) from None


def report(query: UsageQuery, lines: Iterable[UsageLine]) -> dict[str, Any]:
    """The whole answer, fit for JSON."""
    lines = tuple(lines)
    return {
        "object": "usage",
        "by": list(query.by),
        "since": int(query.since) if query.since > 0 else None,
        "until": int(query.until) if query.until < float("inf") else None,
        "data": [dict(zip(query.by, line.group, strict=True)) | figures(line) for line in lines],
        "total": figures(total(lines)) if "tag" not in query.by else None,  # one request may have several
    }


def figures(line: UsageLine) -> dict[str, Any]:
    """A line without its group. The cost is of the requests whose price is known, and null where none is."""
    found = msgspec.structs.asdict(line)
    del found["group"], found["unpriced"]
    return found | {"cost_nanos": known_cost(line), "unpriced_requests": line.unpriced}


def known_cost(line: UsageLine) -> int | None:
    """Nano-dollars, as far as prices are known; None where no request has one."""
    return None if line.unpriced == line.requests and line.requests else line.cost_nanos


def total(lines: Iterable[UsageLine]) -> UsageLine:
    """All of them together."""
    columns = [msgspec.structs.astuple(line)[1:] for line in lines]
    return UsageLine((), *map(sum, zip(*columns, strict=True)))


class OwnUsage:
    """Answers a worker that asks, for a key, what that key has used, whatever becomes of the store within LIMIT."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ledger: asyncio.Future[Ledger] = asyncio.get_running_loop().create_future()
        self._running: set[asyncio.Task[Any]] = set()

    def open(self, ledger: Ledger) -> None:
        """The ledger is there: questions that came before are answered now."""
        self._ledger.set_result(ledger)

    async def answer(self, question: UsageQuestion) -> UsageAnswer:
        """Bounded: a disk or a database that hangs is left alone, and its answer with it."""
        try:
            query = query_of(_given(question.query), OWN, self._clock())
        except InvalidUsage as error:
            return UsageAnswer(question.ref, problem=str(error), param=error.name)
        query = msgspec.structs.replace(query, key_id=question.key_id)
        task = asyncio.ensure_future(self._ask(query))
        self._running.add(task)
        task.add_done_callback(self._done)
        done, _ = await asyncio.wait({task}, timeout=LIMIT)
        try:
            if done:
                return UsageAnswer(question.ref, msgspec.json.encode(report(query, task.result())))
        except StoreUnavailable:
            pass
        return UsageAnswer(question.ref)

    async def _ask(self, query: UsageQuery) -> tuple[UsageLine, ...]:
        ledger = await asyncio.shield(self._ledger)  # opened some tenths of a second after the start
        return await ledger.usage(query)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # looked at, whoever still waits


def _given(query: bytes) -> dict[str, str]:
    """The parameters of a URL; raises InvalidUsage for what nobody asked for, which would be taken for a filter."""
    try:
        pairs = parse_qsl(query[:_LONGEST].decode("ascii"), keep_blank_values=True, max_num_fields=8)
    except ValueError:
        raise InvalidUsage("by", "the query of the URL cannot be read") from None
    for name, _ in pairs:
        if name not in ("by", "since", "until"):
            raise InvalidUsage(name[:64] if name.isprintable() else "?", "usage takes by, since and until")
    if len(dict(pairs)) < len(pairs):
        raise InvalidUsage("by", "give each parameter once")
    return dict(pairs)
