"""The ledger in memory, for tests and for embedding: nothing survives the process.

Every method lets other tasks run first, as a real store would. Sums are kept as the databases keep them.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence

from penstock.limits import METERS, Limit
from penstock.stores.base import LedgerRow, Mark, RequestRow, RowQuery, UsageLine, UsageQuery, row_of
from penstock.stores.base.ledger import Series
from penstock.stores.base.usage import DAY
from penstock.stores.batch import SPANS, SUMS, Unnumbered, batch
from penstock.stores.spans import group_of, id_at, pieces, span_within, tagged


class MemoryLedger:
    """Implements `stores.base.Ledger`; what follows the first await of a method is one step of the loop."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._rows: dict[str, RequestRow] = {}
        self._numbers: dict[Series, int] = {}
        self._series: list[Series] = []
        self._sums: dict[tuple[int, int, int], list[int]] = {}
        self._marks: dict[str, int] = {}

    async def store(self, rows: Sequence[LedgerRow], marks: Sequence[Mark]) -> None:
        await asyncio.sleep(0)
        new: dict[str, RequestRow] = {}
        for row in map(row_of, rows):
            if row.id not in self._rows:
                new.setdefault(row.id, row)
        for span, start, series, *figures in self._summed(new.values()):
            before = self._sums.setdefault((span, start, series), [0] * len(SUMS))
            before[:] = map(int.__add__, before, figures)
        self._rows |= new
        for mark in marks:
            self._marks[mark.journal] = max(mark.position, self._marks.get(mark.journal, 0))

    def _summed(self, rows: Iterable[RequestRow]) -> list[tuple[int, ...]]:
        rows = tuple(rows)
        try:
            return batch(rows, self._numbers).sums()
        except Unnumbered as error:
            for series in error.series:
                self._numbers[series] = len(self._series)
                self._series.append(series)
            return batch(rows, self._numbers).sums()

    async def sync(self) -> None:
        await asyncio.sleep(0)

    async def marks(self) -> Mapping[str, int]:
        await asyncio.sleep(0)
        return dict(self._marks)

    async def forget(self, journals: Sequence[str]) -> None:
        await asyncio.sleep(0)
        for journal in journals:
            self._marks.pop(journal, None)

    async def usage(self, query: UsageQuery) -> tuple[UsageLine, ...]:
        await asyncio.sleep(0)
        if "tag" in query.by:
            found = RowQuery(query.since, query.until, query.key_id, query.project_id)
            rows = list(self._found(found))
            return tagged((row.tags, self._summed([row])[0][3:]) for row in rows)
        sums: dict[tuple[str, ...], list[int]] = {}
        for span, since, until in pieces(query):
            for (kept, start, number), figures in self._sums.items():
                key_id, project_id, endpoint, asked, _, provider, model, _ = self._series[number]
                if kept != span or not since <= start < until or not _is_whose(query, key_id, project_id):
                    continue
                values = {"key": key_id, "project": project_id, "endpoint": endpoint, "model": asked}
                values |= {"provider": provider, "target": f"{provider}/{model}"}
                times = {"hour": start, "day": start - start % DAY}
                group = group_of(query.by, [(values | times)[dimension] for dimension in query.by])
                sums[group] = list(map(int.__add__, sums.get(group, [0] * len(SUMS)), figures))
        return tuple(UsageLine(group, *sums[group]) for group in sorted(sums))

    async def spent(self, limit: Limit, since: float, span: float) -> Sequence[tuple[float, int]]:
        await asyncio.sleep(0)
        unit, kept = METERS[limit.meter].unit, span_within(span)
        sums: Counter[int] = Counter()
        if kept is None:
            for row in self._found(RowQuery(since - 0.001)):
                if _counts(limit, row.key_id, row.project_id, row.asked):
                    tokens = row.prompt_tokens + row.completion_tokens
                    amounts = {"requests": 1, "tokens": tokens, "nanos": row.cost_nanos or 0}
                    sums[math.floor(row.started_at)] += amounts.get(unit, 0)
        for (width, start, number), figures in self._sums.items():
            key_id, project_id, _, asked, *_ = self._series[number]
            if width == kept and start + width > since and _counts(limit, key_id, project_id, asked):
                figure = dict(zip(SUMS, figures, strict=True))
                tokens = figure["prompt_tokens"] + figure["completion_tokens"]
                amounts = {"requests": figure["requests"], "tokens": tokens, "nanos": figure["cost_nanos"]}
                sums[start] += amounts.get(unit, 0)
        now = self._clock()
        return [(min(float(start + (kept or 1)), now), sums[start]) for start in sorted(sums) if unit != "slots"]

    async def rows(self, query: RowQuery) -> AsyncIterator[RequestRow]:
        await asyncio.sleep(0)
        for row in list(self._found(query)):
            yield row

    def _found(self, query: RowQuery) -> Iterable[RequestRow]:
        first, last = id_at(query.since), id_at(query.until)
        for id_ in sorted(self._rows):
            row = self._rows[id_]
            if first <= id_ < last and _is_whose(query, row.key_id, row.project_id):
                yield row

    async def prune(self, before: float, most: int) -> int:
        await asyncio.sleep(0)
        old = [id_ for id_ in sorted(self._rows) if id_ < id_at(before)][:most]
        for id_ in old:
            del self._rows[id_]
        return len(old)

    async def trim(self, before: float) -> None:
        await asyncio.sleep(0)
        self._sums = {
            place: figures
            for place, figures in self._sums.items()
            if place[0] != SPANS[0] or place[1] >= math.floor(before)
        }

    async def close(self) -> None:
        await asyncio.sleep(0)


def _is_whose(query: UsageQuery | RowQuery, key_id: str, project_id: str) -> bool:
    return query.key_id in (None, key_id) and query.project_id in (None, project_id)


def _counts(limit: Limit, key_id: str, project_id: str, asked: str) -> bool:
    """Whether the limit counts what this key asked of this model."""
    whose = key_id if limit.scope == "key" else project_id
    if limit.model.endswith("*"):
        return whose == limit.scope_id and asked.startswith(limit.model[:-1])
    return whose == limit.scope_id and limit.model in ("", asked)
