"""The short form of `python -m soak.ledger`: what is asked is found by keys, and every row counts once."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from penstock.limits import Limit
from penstock.stores.base import RowQuery, UsageQuery
from penstock.stores.database import Database
from penstock.stores.sql import open_stores
from soak import ledger as soak
from support.databases import Place

ROWS = 6_000


def test_every_row_counts_once_whichever_way_it_is_asked(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "TURNS", 1)

    async def main() -> None:
        stores = await open_stores(place.store, place.directory, lambda: soak.LAST)
        try:
            await soak.fill(stores.ledger, ROWS, "short")
            for query in (UsageQuery(by=("key",)), UsageQuery(by=("day", "model")), UsageQuery(by=("hour",))):
                assert sum(line.requests for line in await stores.ledger.usage(query)) == ROWS
            asked = {timed.question: timed.lines for timed in await soak.asked(stores.ledger)}
            assert asked["by day, all the time"] == soak.DAYS
            assert asked["by model, all the time"] == len(soak.MODELS)
            some = RowQuery(soak.LAST - 86_400)
            assert len([row async for row in stores.ledger.rows(some)]) == ROWS // soak.DAYS
        finally:
            await stores.close()

    asyncio.run(main())


class Plans:
    """Notes how SQLite goes about each question of the ledger."""

    def __init__(self, database: Database) -> None:
        self.steps: list[str] = []
        sa.event.listen(database.engine.sync_engine, "before_cursor_execute", self._before)

    def _before(self, connection: Any, cursor: Any, statement: str, values: Any, *_: Any) -> None:
        if statement.startswith("SELECT") and "ledger_" in statement:
            cursor.execute(f"EXPLAIN QUERY PLAN {statement}", values)
            self.steps += [row[3] for row in cursor.fetchall()]


def sums_by(ledger: Any, **narrowed: Any) -> Any:
    return ledger.usage(UsageQuery(by=("day",), since=soak.FIRST + 3600, until=soak.LAST - 3600, **narrowed))


async def all_rows(ledger: Any) -> None:
    async for _ in ledger.rows(RowQuery(soak.FIRST, soak.LAST)):
        pass


def spent(case: tuple[Limit, float, float], ledger: Any) -> Any:
    return ledger.spent(*case)


QUESTIONS: dict[str, Callable[[Any], Any]] = {
    "usage": sums_by,
    "usage of a key": lambda ledger: sums_by(ledger, key_id="key_a"),
    "usage of a project": lambda ledger: sums_by(ledger, project_id="prj_3"),
    "usage by tag": lambda ledger: ledger.usage(UsageQuery(by=("tag",), since=soak.LAST - 3600)),
    "rows": all_rows,
    **{f"spent: {name}": functools.partial(spent, case) for name, case in soak.SPENT.items()},
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_no_question_reads_all_rows_or_all_sums(question: str, tmp_path: Any) -> None:
    async def main() -> None:
        stores = await open_stores("sqlite", tmp_path, lambda: soak.LAST)
        try:
            await stores.ledger.store(list(soak.made(50)), [])
            plans = Plans(stores.database)
            await QUESTIONS[question](stores.ledger)
        finally:
            await stores.close()
        assert plans.steps
        assert [step for step in plans.steps if step.startswith("SCAN") and step != "SCAN s"] == []

    asyncio.run(main())
