"""Stores rows of the ledger in SQLite: a connection of its own in a thread of its own, one transaction for each batch.

How it works: rows are bound by the driver itself, forty to a statement, with `synchronous` at NORMAL: what was stored
survives the end of any process at once, and a loss of power from the next `sync` on.
In the common case every row is new, which the count of inserted rows says; else the transaction is rolled back, what
is there already is looked up and left out, and so the sums add what is really new and nothing else.

A cancelled call leaves the thread at its work: what it was given is stored whole, or not at all.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec

from penstock.stores.base import LedgerRow, Mark
from penstock.stores.base.ledger import NOTHING, Series
from penstock.stores.batch import (
    ATTEMPT,
    BRIEF_ATTEMPT,
    BRIEF_REQUEST,
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
from penstock.stores.sqlite import Apart, SqliteDatabase

TOGETHER = (40, 5, 1)  # rows in one statement
CHECKPOINT = 4000  # pages of log: a page that is written again and again until then is copied once


class SqliteWriter:
    """Implements `sqlledger.Writer` on the database's file."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database
        pragmas = "PRAGMA synchronous=NORMAL", f"PRAGMA wal_autocheckpoint={CHECKPOINT}"
        self._apart = Apart(database.path, "penstock-ledger", *pragmas)
        self._numbers: dict[Series, int] = {}

    async def store(self, rows: Sequence[LedgerRow], marks: Sequence[Mark]) -> None:
        await self._run(lambda connection: self._store(connection, rows, marks))

    async def sync(self) -> None:
        await self._run(lambda _connection: _sync(self._database.path))

    async def close(self) -> None:
        await self._apart.close()

    async def _run(self, act: Callable[[sqlite3.Connection], None]) -> None:
        with self._database.reported():
            await self._apart.run(act)

    def _store(self, connection: sqlite3.Connection, rows: Sequence[LedgerRow], marks: Sequence[Mark]) -> None:
        brief, new = self._numbered(connection, rows)
        connection.execute("BEGIN IMMEDIATE")
        if _insert(connection, brief, new) != len(rows):
            connection.execute("ROLLBACK")
            connection.execute("BEGIN IMMEDIATE")
            whole = batch(rows, self._numbers)
            brief, new = Briefs((), self._numbers), whole.without(_present(connection, whole.ids()))
            _insert(connection, brief, new)
        _BRIEF_ATTEMPTS.insert(connection, brief.attempts())
        _ATTEMPTS.insert(connection, _flat(new.attempts))
        _SUMS.insert(connection, _flat(new.sums(brief.groups())))
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
    """Inserts rows of one table, whose columns `values` names, each with a constant or, in the order of a row's values,
    `?`. What is there already stays, or becomes what `conflict` says."""

    def __init__(self, table: str, values: Mapping[str, str], conflict: str = "NOTHING") -> None:
        # Not numbered, which Python 3.12 takes for names and warns of at each value.
        row = f"({', '.join(values.values())})"
        self._width = row.count("?")
        head = f"INSERT INTO {table} ({', '.join(values)}) VALUES "
        self._texts = {count: f"{head}{', '.join([row] * count)} ON CONFLICT DO {conflict}" for count in TOGETHER}

    def insert(self, connection: sqlite3.Connection, flat: list[Any]) -> int:
        """How many were inserted. `flat`: the values of all rows, one after the other."""
        at = inserted = 0
        for count, text in self._texts.items():
            each = count * self._width
            end = len(flat) - (len(flat) - at) % each
            if at < end:
                chunks = (flat[place : place + each] for place in range(at, end, each))
                inserted += connection.executemany(text, chunks).rowcount
                at = end
        return inserted


def _insert(connection: sqlite3.Connection, brief: Briefs, new: Batch) -> int:
    """How many requests were inserted."""
    inserted = _PLAIN.insert(connection, _flat(new.plain)) + _REQUESTS.insert(connection, _flat(new.detailed))
    return inserted + _BRIEF_REQUESTS.insert(connection, brief.requests())


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


def _flat(rows: Iterable[Values]) -> list[Any]:
    return list(chain.from_iterable(rows))


def _columns(table: str, columns: Sequence[str], conflict: str = "NOTHING") -> _Insert:
    """Inserts rows that have a value for each of these columns."""
    return _Insert(table, {name: _KNOWN if name in UNKNOWN else "?" for name in columns}, conflict)


_KNOWN = f"nullif(?, {NOTHING})"  # a value, or NULL where it is NOTHING
_PLAIN = _columns("ledger_requests", PLAIN)
_REQUESTS = _columns("ledger_requests", REQUEST)
_ATTEMPTS = _columns("ledger_attempts", ATTEMPT)
_BRIEF_REQUESTS = _Insert(
    "ledger_requests",
    {
        **dict.fromkeys(BRIEF_REQUEST, "?"),
        "first_event_ms": _KNOWN,
        "cost_nanos": _KNOWN,
        "status": "200",
        "ended": "'ok'",
    },
)
_BRIEF_ATTEMPTS = _Insert(
    "ledger_attempts",
    {
        **dict.fromkeys(BRIEF_ATTEMPT, "?"),
        "cost_nanos": _KNOWN,
        "number": "1",
        "status": "200",
        "outcome": "'ok'",
        "wait_ms": "0.0",
    },
)
_SUMS = _columns(
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
