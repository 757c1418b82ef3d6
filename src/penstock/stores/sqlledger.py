"""The ledger in SQL: what is asked of it, in one dialect for SQLite and PostgreSQL; rows go in by a writer of each.

How it works: sums by the hour and by the day answer what was used, so that a question costs by the number of keys,
models and days that it spans, and not by that of requests. Rows are found by their ids, which begin with their time in
milliseconds: there is no other index of them. What is exported is read in pages, each by a query of its own, so that
neither memory nor a transaction grows with it.

When it fails: as every store on `Database`. What a reader gets while rows are stored is what was committed when its
query began, a page at a time.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

import sqlalchemy as sa

from penstock.limits import METERS, Limit
from penstock.stores import schema
from penstock.stores.base import LedgerRow, Mark, RequestRow
from penstock.stores.base.ledger import AttemptRow
from penstock.stores.base.usage import Dimension, RowQuery, UsageLine, UsageQuery
from penstock.stores.batch import ATTEMPT, REQUEST, SERIES, SPANS, SUMS, attempt_of, request_of
from penstock.stores.database import Database
from penstock.stores.spans import group_of, id_at, pieces, span_within, tagged

PAGE = 500  # rows of an export that are held at once
ROW_SPAN = 1  # seconds over which rows are summed up where no kept sum is fine enough

_SERIES = ", ".join(f"s.{name}" for name in SERIES)
_SUMS = ", ".join(f"sum(u.{name}) AS {name}" for name in SUMS)
_OF_ROWS = (
    "count(*), sum(r.prompt_tokens), sum(r.cached_tokens), sum(r.completion_tokens), sum(r.reasoning_tokens), "
    + ", ".join(
        # as `batch.SOURCES` numbers them
        f"sum(CASE WHEN r.sources / 3 % 3 = {source} THEN r.prompt_tokens ELSE 0 END"
        f" + CASE WHEN r.sources % 3 = {source} THEN r.completion_tokens ELSE 0 END)"
        for source in (1, 2)
    )
    + ", coalesce(sum(r.cost_nanos), 0), count(*) - count(r.cost_nanos)"
)
_GROUPS: dict[Dimension, str] = {
    "key": "s.key_id",
    "project": "s.project_id",
    "model": "s.asked",
    "provider": "s.provider",
    "target": "s.provider || '/' || s.model",
    "endpoint": "s.endpoint",
    "hour": "u.start",
    "day": "u.start",  # of days, and of the hours around them, which make a day when they are put together
}
_AMOUNTS = {
    "requests": ("u.requests", "1"),
    "tokens": ("u.prompt_tokens + u.completion_tokens", "r.prompt_tokens + r.completion_tokens"),
    "nanos": ("u.cost_nanos", "coalesce(r.cost_nanos, 0)"),
}


class Writer(Protocol):
    """What stores rows in one kind of database, as `stores.base.LedgerWriter` says."""

    async def store(self, rows: Sequence[LedgerRow], marks: Sequence[Mark]) -> None: ...

    async def sync(self) -> None: ...

    async def close(self) -> None: ...


class SqlLedger:
    """Implements `stores.base.Ledger` on a database and the writer for it."""

    def __init__(self, database: Database, writer: Writer, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._writer = writer
        self._clock = clock
        # SQLite joins in the order of a CROSS JOIN and has no statistics to choose an index by; PostgreSQL chooses both
        self._is_sqlite = database.engine.dialect.name == "sqlite"
        self._by_series = " INDEXED BY ix_ledger_sums_series" if self._is_sqlite else ""

    # -- what goes in

    async def store(self, rows: Sequence[LedgerRow], marks: Sequence[Mark]) -> None:
        await self._writer.store(rows, marks)

    async def sync(self) -> None:
        await self._writer.sync()

    async def marks(self) -> Mapping[str, int]:
        rows = await self._ask("SELECT journal, position FROM ledger_marks", {})
        return {str(journal): int(position) for journal, position in rows}

    async def forget(self, journals: Sequence[str]) -> None:
        async with self._database.change() as connection:
            await connection.execute(schema.marks.delete().where(schema.marks.c.journal.in_(journals)))

    async def prune(self, before: float, most: int) -> int:
        async with self._database.change() as connection:
            oldest = sa.text("SELECT id FROM ledger_requests WHERE id < :before ORDER BY id LIMIT :most")
            ids = (await connection.execute(oldest, {"before": id_at(before), "most": most})).scalars().all()
            if ids:
                last = {"last": ids[-1]}
                await connection.execute(sa.text("DELETE FROM ledger_attempts WHERE request_id <= :last"), last)
                await connection.execute(sa.text("DELETE FROM ledger_requests WHERE id <= :last"), last)
        return len(ids)

    async def trim(self, before: float) -> None:
        async with self._database.change() as connection:
            old = sa.text("DELETE FROM ledger_sums WHERE span = :span AND start < :before")
            await connection.execute(old, {"span": SPANS[0], "before": math.floor(before)})

    async def close(self) -> None:
        await self._writer.close()

    # -- what was used

    async def usage(self, query: UsageQuery) -> tuple[UsageLine, ...]:
        if "tag" in query.by:
            return await self._by_tag(query)
        groups = [_GROUPS[dimension] for dimension in query.by]
        columns = "".join(f"{group}, " for group in groups)
        whose, values = _whose(query.key_id, query.project_id)
        then, joined = "u.span = :span AND u.start >= :since AND u.start < :until", "s.id = u.series"
        if whose:  # few series, of which the sums are looked up, instead of all that were made in the time
            source = (
                f"ledger_series s CROSS JOIN ledger_sums u{self._by_series} WHERE s.id = u.series AND {then}{whose}"
            )
        elif "u.start" in groups:  # they are read in this order
            source = f"ledger_sums u CROSS JOIN ledger_series s WHERE {joined} AND {then}"
        else:
            sums = f"SELECT u.series, {_SUMS} FROM ledger_sums u WHERE {then} GROUP BY u.series"
            source = f"({sums}) u CROSS JOIN ledger_series s WHERE {joined}"
        text = f"SELECT {columns}{_SUMS} FROM {source}" + (f" GROUP BY {', '.join(groups)}" if groups else "")
        found: dict[tuple[str, ...], list[int]] = {}
        for span, since, until in pieces(query):
            for row in await self._ask(text, {"span": span, "since": since, "until": until, **values}):
                if row[len(groups)] is None:
                    continue  # the sum of nothing
                group, figures = group_of(query.by, row), list(map(int, row[len(groups) :]))
                before = found.get(group)
                found[group] = figures if before is None else list(map(int.__add__, before, figures))
        return tuple(UsageLine(group, *found[group]) for group in sorted(found))

    async def _by_tag(self, query: UsageQuery) -> tuple[UsageLine, ...]:
        whose, values = _whose(query.key_id, query.project_id)
        text = (
            f"SELECT r.tags, {_OF_ROWS} FROM ledger_requests r JOIN ledger_series s ON s.id = r.series"
            f" WHERE r.id >= :since AND r.id < :until{whose} GROUP BY r.tags"
        )
        rows = await self._ask(text, {"since": id_at(query.since), "until": id_at(query.until), **values})
        return tagged((row[0], list(map(int, row[1:]))) for row in rows)

    async def spent(self, limit: Limit, since: float, span: float) -> Sequence[tuple[float, int]]:
        unit = METERS[limit.meter].unit
        if unit == "slots":
            return ()
        whose, values = _limited(limit)
        of_sums, of_rows = _AMOUNTS[unit]
        kept = span_within(span)
        if kept is None:
            width, begin = ROW_SPAN, f"{self._floor('r.started_at')} * {ROW_SPAN}"
            text = (
                f"SELECT {begin}, sum({of_rows}) FROM ledger_requests r JOIN ledger_series s ON s.id = r.series"
                f" WHERE r.id >= :since{whose} GROUP BY {begin} ORDER BY 1"
            )
            values["since"] = id_at(since - 0.001)
        else:
            width = kept
            text = (
                f"SELECT u.start, sum({of_sums}) FROM ledger_series s CROSS JOIN ledger_sums u{self._by_series}"
                f" WHERE u.series = s.id AND u.span = :span AND u.start > :since{whose} GROUP BY u.start ORDER BY 1"
            )
            values |= {"span": kept, "since": math.floor(since) - kept}
        now = self._clock()
        return [(min(float(start) + width, now), int(amount)) for start, amount in await self._ask(text, values)]

    def _floor(self, of: str) -> str:
        return f"CAST({of} AS INTEGER)" if self._is_sqlite else f"floor({of})"

    # -- the rows

    async def rows(self, query: RowQuery) -> AsyncIterator[RequestRow]:
        whose, values = _whose(query.key_id, query.project_id)
        columns = ", ".join(f"r.{name}" for name in REQUEST)
        text = (
            f"SELECT {columns}, {_SERIES} FROM ledger_requests r JOIN ledger_series s ON s.id = r.series"
            " WHERE r.id {} :after AND r.id < :until" + whose + f" ORDER BY r.id LIMIT {PAGE}"
        )
        after, compared = id_at(query.since), ">="
        while True:
            page = await self._ask(text.format(compared), {"after": after, "until": id_at(query.until), **values})
            attempts = await self._attempts([row[0] for row in page])
            for row in page:
                *series, price_version = row[len(REQUEST) :]
                yield request_of(row[: len(REQUEST)], (*series, price_version), attempts[row[0]])
            if len(page) < PAGE:
                return
            after, compared = page[-1][0], ">"

    async def _attempts(self, ids: Collection[str]) -> Mapping[str, list[AttemptRow]]:
        columns = ", ".join(f"a.{name}" for name in ATTEMPT)
        text = sa.text(
            f"SELECT {columns}, s.provider, s.model, s.price_version"
            " FROM ledger_attempts a JOIN ledger_series s ON s.id = a.series"
            " WHERE a.request_id IN :ids ORDER BY a.request_id, a.number"
        ).bindparams(sa.bindparam("ids", type_=sa.Text, expanding=True))
        found: defaultdict[str, list[AttemptRow]] = defaultdict(list)
        async with self._database.read() as connection:
            for row in await connection.execute(text, {"ids": list(ids)}):
                found[row[0]].append(attempt_of(row[: len(ATTEMPT)], *row[len(ATTEMPT) :]))
        return found

    async def _ask(self, text: str, values: dict[str, Any]) -> Sequence[sa.Row[*tuple[Any, ...]]]:
        async with self._database.read() as connection:
            return (await connection.execute(sa.text(text), values)).all()


def _whose(key_id: str | None, project_id: str | None) -> tuple[str, dict[str, Any]]:
    """The condition on series, and its values."""
    condition, values = "", {}
    if key_id is not None:
        condition += " AND s.key_id = :key_id"
        values["key_id"] = key_id
    if project_id is not None:
        condition += " AND s.project_id = :project_id"
        values["project_id"] = project_id
    return condition, values


def _limited(limit: Limit) -> tuple[str, dict[str, Any]]:
    """The condition that series meet which the limit counts."""
    condition = f" AND s.{limit.scope}_id = :scope_id"
    values: dict[str, Any] = {"scope_id": limit.scope_id}
    if limit.model.endswith("*"):
        prefix = limit.model[:-1]
        condition += " AND substr(s.asked, 1, :length) = :asked"
        values |= {"length": len(prefix), "asked": prefix}
    elif limit.model:
        condition += " AND s.asked = :asked"
        values["asked"] = limit.model
    return condition, values
