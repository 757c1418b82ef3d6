"""Stores rows of the ledger in PostgreSQL: one transaction for each batch, one statement for each table.

How it works: asyncpg sends the columns as arrays, which `unnest` makes rows of. An INSERT returns the ids that were not
there, so that the sums add what is really new and nothing else, whoever else writes at the same time: one of two that
store the same row waits for the other, and then finds it there. Rows and sums are gone through in one order, so that
writers on several hosts never wait for each other crosswise.

What PostgreSQL cannot hold is the character of code 0, in whatever a client sent: it is left out.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from operator import itemgetter
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from penstock.stores import schema
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
    Unnumbered,
    Values,
    batch,
)
from penstock.stores.database import Database


class PostgresWriter:
    """Implements `sqlledger.Writer` on the connections of a database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._numbers: dict[Series, int] = {}

    async def store(self, rows: Sequence[LedgerRow], marks: Sequence[Mark]) -> None:
        try:
            new = batch(rows, self._numbers)
        except Unnumbered as error:
            await self._number(error.series)
            new = batch(rows, self._numbers)
        async with self._database.change() as connection:
            driver = await _driver(connection)
            ids = {row["id"] for row in await driver.fetch(_REQUESTS, *_columns(_whole(new), len(REQUEST)))}
            if len(ids) < len(new):
                new = new.without(set(new.ids()) - ids)
            await driver.execute(_ATTEMPTS, *_columns(new.attempts, len(ATTEMPT)))
            await driver.execute(_ADD, *_columns(new.sums(), 3 + len(SUMS)))
            await driver.execute(_MARKS, *_columns(sorted((mark.journal, mark.position) for mark in marks), 2))

    async def sync(self) -> None:
        """A commit waits for the server's disk, unless its owner says otherwise."""

    async def close(self) -> None:
        """Its connections are the database's."""

    async def _number(self, series: Collection[Series]) -> None:
        """Give series their numbers. It is a transaction of its own: one that no row names does no harm."""
        kept = {one: tuple(map(_clean, one)) for one in series}
        columns = _columns(sorted(kept.values()), len(SERIES))
        async with self._database.change() as connection:
            driver = await _driver(connection)
            await driver.execute(_NAME, *columns)
            found = {tuple(row)[1:]: row["id"] for row in await driver.fetch(_NUMBER, *columns)}
        self._numbers |= {one: found[clean] for one, clean in kept.items()}


async def _driver(connection: AsyncConnection) -> Any:
    """asyncpg's own connection, in the transaction that `connection` is in, which SQLAlchemy begins when first used."""
    await connection.execute(sa.text("SELECT 1"))
    return (await connection.get_raw_connection()).driver_connection


def _whole(new: Batch) -> list[Values]:
    """Its requests, plain ones with all columns, too, in the order of their ids."""
    nothing = ("",) * (len(REQUEST) - len(PLAIN))
    return sorted([*((*values, *nothing) for values in new.plain), *new.detailed], key=itemgetter(0))


def _columns(rows: Sequence[Values], width: int) -> list[list[Any]]:
    """The rows as columns, fit for PostgreSQL."""
    columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(width)]
    for column in columns:
        if column and isinstance(column[0], str) and any("\0" in text for text in column):
            column[:] = map(_clean, column)
    return columns


def _clean(text: str) -> str:
    return text.replace("\0", "")


def _of_arrays(table: sa.Table, names: Sequence[str]) -> str:
    """The table's columns of these names as rows of arrays."""
    kinds = {sa.Text: "text", sa.Double: "float8", sa.BigInteger: "int8", sa.Integer: "int4", sa.SmallInteger: "int2"}
    columns = ", ".join(f"nullif({name}, {NOTHING})" if name in UNKNOWN else name for name in names)
    arrays = ", ".join(f"${place}::{kinds[type(table.c[name].type)]}[]" for place, name in enumerate(names, start=1))
    return f"SELECT {columns} FROM unnest({arrays}) AS given ({', '.join(names)})"


def _insert(table: sa.Table, names: Sequence[str]) -> str:
    return f"INSERT INTO {table.name} ({', '.join(names)}) {_of_arrays(table, names)} ON CONFLICT"


_PLACE = ("span", "start", "series")
_REQUESTS = f"{_insert(schema.requests, REQUEST)} DO NOTHING RETURNING id"
_ATTEMPTS = f"{_insert(schema.attempts, ATTEMPT)} DO NOTHING"
_ADD = f"{_insert(schema.sums, (*_PLACE, *SUMS))} ({', '.join(_PLACE)}) DO UPDATE SET " + ", ".join(
    f"{name} = ledger_sums.{name} + excluded.{name}" for name in SUMS
)
_MARKS = (
    f"{_insert(schema.marks, ('journal', 'position'))} (journal)"
    " DO UPDATE SET position = greatest(ledger_marks.position, excluded.position)"
)
_NAME = f"{_insert(schema.series, SERIES)} DO NOTHING"
_NUMBER = (
    f"SELECT id, {', '.join(SERIES)} FROM ledger_series"
    f" WHERE ({', '.join(SERIES)}) IN ({_of_arrays(schema.series, SERIES)})"
)
