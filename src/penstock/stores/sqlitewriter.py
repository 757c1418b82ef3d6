"""Stores rows of the ledger in SQLite: a connection of its own in a thread of its own, one transaction for each batch.

How it works: rows are bound by the driver itself, twenty to a statement, brief ones by one list for both tables, with
`synchronous` at NORMAL: what was stored survives the end of any process at once, and a loss of power from the next
`sync` on.
In the common case every row is new, which the count of inserted rows says; else the transaction is rolled back, what
is there already is looked up and left out, and so the sums add what is really new and nothing else.

A cancelled call leaves the thread at its work: what it was given is stored whole, or not at all. When anything fails
the connection is closed, and the next call makes another.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import msgspec

from penstock.stores.base import LedgerRow, Mark
from penstock.stores.base.ledger import NOTHING, Series
from penstock.stores.batch import (
    ATTEMPT,
    PLAIN,
    REQUEST,
    SERIES,
    SUMS,
    UNKNOWN,
    Batch,
    Briefs,
    Unnumbered,
    Values,
    batch,
)
from penstock.stores.database import BUSY
from penstock.stores.sqlite import SqliteDatabase

TOGETHER = 20  # rows in one statement
CHECKPOINT = 4000  # pages of log: a page that is written again and again until then is copied once


class SqliteWriter:
    """Implements `sqlledger.Writer` on the database's file."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database
        self._thread = ThreadPoolExecutor(1, "penstock-ledger")
        self._connection: sqlite3.Connection | None = None
        self._numbers: dict[Series, int] = {}

    async def store(self, rows: Sequence[LedgerRow], marks: Sequence[Mark]) -> None:
        await self._run(lambda connection: self._store(connection, rows, marks))

    async def sync(self) -> None:
        await self._run(lambda _connection: _sync(self._database.path))

    async def close(self) -> None:
        await asyncio.to_thread(self._thread.shutdown)
        if self._connection is not None:
            self._connection.close()

    async def _run(self, act: Callable[[sqlite3.Connection], None]) -> None:
        with self._database.reported():
            await asyncio.get_running_loop().run_in_executor(self._thread, self._act, act)

    def _act(self, act: Callable[[sqlite3.Connection], None]) -> None:
        connection = self._connection
        if connection is None:
            # opened in its thread, and closed when that has ended
            connection = sqlite3.connect(
                self._database.path, timeout=BUSY, isolation_level=None, check_same_thread=False
            )
            self._connection = connection
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT}")
        try:
            act(connection)
        except BaseException:
            self._connection = None
            connection.close()  # which rolls back what was begun
            raise

    def _store(self, connection: sqlite3.Connection, rows: Sequence[LedgerRow], marks: Sequence[Mark]) -> None:
        brief, new = self._numbered(connection, rows)
        connection.execute("BEGIN IMMEDIATE")
        if _insert(connection, brief, new) != len(rows):
            connection.execute("ROLLBACK")
            connection.execute("BEGIN IMMEDIATE")
            whole = batch(rows, self._numbers)
            brief, new = Briefs((), self._numbers), whole.without(_present(connection, whole.ids()))
            _insert(connection, brief, new)
        _BRIEF_ATTEMPTS.insert(connection, brief)
        _ATTEMPTS.insert(connection, new.attempts)
        _SUMS.insert(connection, new.sums(brief.groups()))
        connection.executemany(_MARK, [(mark.journal, mark.position) for mark in marks])
        connection.execute("COMMIT")

    def _numbered(self, connection: sqlite3.Connection, rows: Sequence[LedgerRow]) -> tuple[Briefs, Batch]:
        briefs = [row for row in rows if isinstance(row, tuple)]
        others = [row for row in rows if not isinstance(row, tuple)] if len(briefs) < len(rows) else []
        while True:
            try:
                return Briefs(briefs, self._numbers), batch(others, self._numbers)
            except Unnumbered as error:
                self._number(connection, error.series)

    def _number(self, connection: sqlite3.Connection, series: Collection[Series]) -> None:
        """Give series their numbers. It is a transaction of its own: one that no row names does no harm."""
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(_NAME, series)
        found = {one: connection.execute(_NUMBER, one).fetchone()[0] for one in series}
        connection.execute("COMMIT")
        self._numbers |= found


class _Insert:
    """Inserts rows of one table; what is there already stays, or becomes what `conflict` says."""

    def __init__(self, table: str, columns: Sequence[str], conflict: str = "NOTHING") -> None:
        self._conflict = f" ON CONFLICT DO {conflict}"
        row = ", ".join(f"nullif(?, {NOTHING})" if name in UNKNOWN else "?" for name in columns)
        self._text = f"INSERT INTO {table} ({', '.join(columns)}) VALUES "
        self._row = f"({row})"

    def insert(self, connection: sqlite3.Connection, rows: list[Values]) -> int:
        """How many were inserted."""
        whole = len(rows) // TOGETHER * TOGETHER
        inserted = 0
        if whole:
            chunks = (list(chain.from_iterable(rows[i : i + TOGETHER])) for i in range(0, whole, TOGETHER))
            inserted = connection.executemany(self._of(TOGETHER), chunks).rowcount
        if whole < len(rows):
            inserted += connection.executemany(self._of(1), rows[whole:]).rowcount
        return inserted

    def _of(self, count: int) -> str:
        return self._text + ", ".join([self._row] * count) + self._conflict


class _InsertBriefs:
    """Inserts brief rows into one table, whose columns `values` names, each with what it has of a row: a constant, or
    `columnN`, the Nth of a row's values."""

    def __init__(self, table: str, **values: str) -> None:
        self._head = f"INSERT INTO {table} ({', '.join(values)}) SELECT {', '.join(values.values())} FROM (VALUES "

    def insert(self, connection: sqlite3.Connection, brief: Briefs) -> int:
        """How many were inserted."""
        flat, each = brief.flat, TOGETHER * Briefs.WIDTH
        whole = len(flat) // each * each
        inserted = 0
        if whole:
            chunks = (flat[place : place + each] for place in range(0, whole, each))
            inserted = connection.executemany(self._of(TOGETHER), chunks).rowcount
        if whole < len(flat):
            inserted += connection.execute(self._of((len(flat) - whole) // Briefs.WIDTH), flat[whole:]).rowcount
        return inserted

    def _of(self, count: int) -> str:
        return f"{self._head}{', '.join([_BRIEF] * count)}) WHERE true ON CONFLICT DO NOTHING"


def _insert(connection: sqlite3.Connection, brief: Briefs, new: Batch) -> int:
    """How many requests were inserted."""
    inserted = _PLAIN.insert(connection, new.plain) + _REQUESTS.insert(connection, new.detailed)
    return inserted + _BRIEF_REQUESTS.insert(connection, brief)


def _sync(path: Path) -> None:
    """Write the log through to the disk. What is no longer in it is in the database, which a checkpoint writes through
    before it lets go of the log."""
    try:
        file = os.open(f"{path}-wal", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # nothing is open, or nothing was stored
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _present(connection: sqlite3.Connection, ids: list[str]) -> set[str]:
    found = connection.execute(
        "SELECT id FROM ledger_requests WHERE id IN (SELECT value FROM json_each(?))",
        (msgspec.json.encode(ids).decode(),),
    )
    return {id_ for (id_,) in found}


def _marks_of(count: int) -> str:
    return ", ".join("?" * count)


_PLAIN = _Insert("ledger_requests", PLAIN)
_REQUESTS = _Insert("ledger_requests", REQUEST)
_ATTEMPTS = _Insert("ledger_attempts", ATTEMPT)
_BRIEF = f"({_marks_of(Briefs.WIDTH)})"
_COST = {
    "prompt_tokens": "column6",
    "cached_tokens": "column7",
    "completion_tokens": "column8",
    "reasoning_tokens": "column9",
    "sources": "column10",
    "cost_nanos": f"nullif(column14, {NOTHING})",
}
_BRIEF_REQUESTS = _InsertBriefs(
    "ledger_requests",
    id="column1",
    series="column2",
    started_at="column3",
    stream="column4",
    status="200",
    ended="'ok'",
    finish="column5",
    first_event_ms=f"nullif(column11, {NOTHING})",
    duration_ms=f"nullif(column12, {NOTHING})",
    **_COST,
)
_BRIEF_ATTEMPTS = _InsertBriefs(
    "ledger_attempts",
    request_id="column1",
    number="1",
    series="column2",
    status="200",
    outcome="'ok'",
    duration_ms=f"nullif(column13, {NOTHING})",
    wait_ms="0.0",
    **_COST,
)
_SUMS = _Insert(
    "ledger_sums",
    ("span", "start", "series", *SUMS),
    "UPDATE SET " + ", ".join(f"{name} = {name} + excluded.{name}" for name in SUMS),
)
_MARK = (
    "INSERT INTO ledger_marks (journal, position) VALUES (?, ?)"
    " ON CONFLICT DO UPDATE SET position = max(position, excluded.position)"
)
_NAME = f"INSERT INTO ledger_series ({', '.join(SERIES)}) VALUES ({_marks_of(len(SERIES))}) ON CONFLICT DO NOTHING"
_NUMBER = f"SELECT id FROM ledger_series WHERE {' AND '.join(f'{name} = ?' for name in SERIES)}"
