"""Runs of requests with an idempotency key in a database, by SQLAlchemy Core.

A claim is one statement: a row is inserted, or takes the place of one whose time is over; whoever comes second finds
the row, and in PostgreSQL waits for the first one's transaction.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from penstock.stores.base.runs import Verdict
from penstock.stores.database import Database
from penstock.stores.schema import idempotent_runs as runs
from penstock.types import Run

_MANY = 500  # claims in one statement


class SqlRuns:
    """Implements `stores.base.runs.Runs` on a database that `open_database` made ready."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._insert = sqlite.insert if database.engine.dialect.name == "sqlite" else postgresql.insert

    async def claim(self, run: Run, now: float, until: float) -> Verdict:
        values = {"fingerprint": run.fingerprint, "claim": run.claim, "done": False, "until": until}
        insert = self._insert(runs).values(id=run.id, **values)
        claim = insert.on_conflict_do_update(index_elements=["id"], set_=values, where=runs.c.until <= now)
        async with self._database.change() as connection:
            if (await connection.execute(claim.returning(runs.c.id))).first() is not None:
                return Verdict.CLAIMED
            query = sa.select(runs.c.fingerprint, runs.c.done).where(runs.c.id == run.id)
            row = (await connection.execute(query)).one()
        if bytes(row.fingerprint) != run.fingerprint:
            return Verdict.REUSED
        return Verdict.DONE if row.done else Verdict.RUNNING

    async def finish(self, run: Run, until: float) -> bool:
        finish = runs.update().where(runs.c.id == run.id, runs.c.claim == run.claim).values(done=True, until=until)
        async with self._database.change() as connection:
            return (await connection.execute(finish)).rowcount > 0

    async def release(self, run: Run) -> None:
        release = runs.delete().where(runs.c.id == run.id, runs.c.claim == run.claim, runs.c.done.is_(False))
        async with self._database.change() as connection:
            await connection.execute(release)

    async def renew(self, claims: Sequence[str], until: float) -> None:
        async with self._database.change() as connection:
            for start in range(0, len(claims), _MANY):
                some = runs.c.claim.in_(claims[start : start + _MANY])
                await connection.execute(runs.update().where(some, runs.c.done.is_(False)).values(until=until))

    async def sweep(self, now: float, most: int) -> int:
        over = sa.select(runs.c.id).where(runs.c.until <= now).limit(most)
        async with self._database.change() as connection:
            return (await connection.execute(runs.delete().where(runs.c.id.in_(over)))).rowcount
