"""Keys in a database, by SQLAlchemy Core.

Whatever changes a key locks the generation's row first: changes go one after the other, also in PostgreSQL, where
transactions otherwise run side by side, and the generation never moves back.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from penstock.stores.base import KeyExists, KeyRecord, NewKey, choose
from penstock.stores.database import Database
from penstock.stores.schema import generation, keys

_record = (keys.c.id, keys.c.name, keys.c.models, keys.c.hint, keys.c.created_at, keys.c.revoked_at)
_oldest_first = (keys.c.created_at, keys.c.id)


class SqlKeys:
    """Implements `stores.base.Keys` on a database that `open_database` made ready."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    async def create(self, key: NewKey) -> KeyRecord:
        async with self._change() as connection:
            return await self._insert(connection, key)

    async def create_first(self, key: NewKey) -> KeyRecord | None:
        async with self._change() as connection:
            if (await connection.execute(sa.select(keys.c.id).limit(1))).first() is not None:
                return None
            return await self._insert(connection, key)

    async def _insert(self, connection: AsyncConnection, key: NewKey) -> KeyRecord:
        record = KeyRecord(key.id, key.name, key.models, key.hint, self._clock())
        values = {
            "id": record.id,
            "digest": key.digest,
            "name": record.name,
            "models": list(record.models),
            "hint": record.hint,
            "created_at": record.created_at,
        }
        try:
            await connection.execute(keys.insert().values(values))
        except sa.exc.IntegrityError as error:
            raise KeyExists(key.id) from error
        await self._move(connection)
        return record

    async def list(self) -> tuple[KeyRecord, ...]:
        async with self._database.read() as connection:
            rows = await connection.execute(sa.select(*_record).order_by(*_oldest_first))
            return tuple(_to_record(row) for row in rows)

    async def revoke(self, id_or_name: str) -> KeyRecord:
        async with self._change() as connection:
            matching = sa.or_(keys.c.id == id_or_name, keys.c.name == id_or_name)
            rows = await connection.execute(sa.select(*_record).where(matching).order_by(*_oldest_first))
            chosen = choose(tuple(_to_record(row) for row in rows), id_or_name)
            if chosen.revoked_at is not None:
                return chosen
            now = self._clock()
            await connection.execute(keys.update().where(keys.c.id == chosen.id).values(revoked_at=now))
            await self._move(connection)
            return KeyRecord(chosen.id, chosen.name, chosen.models, chosen.hint, chosen.created_at, now)

    async def lookup(self, digest: bytes) -> KeyRecord | None:
        async with self._database.read() as connection:
            query = sa.select(*_record, keys.c.digest).where(keys.c.digest == digest)
            row = (await connection.execute(query)).first()
        if row is None or not hmac.compare_digest(row.digest, digest) or row.revoked_at is not None:
            return None
        return _to_record(row)

    async def generation(self) -> int:
        async with self._database.read() as connection:
            return int((await connection.execute(sa.select(generation.c.value))).scalar_one())

    @asynccontextmanager
    async def _change(self) -> AsyncIterator[AsyncConnection]:
        async with self._database.change() as connection:
            await connection.execute(sa.select(generation.c.value).with_for_update())
            yield connection

    @staticmethod
    async def _move(connection: AsyncConnection) -> None:
        await connection.execute(generation.update().values(value=generation.c.value + 1))


def _to_record(row: sa.Row[*tuple[Any, ...]]) -> KeyRecord:
    return KeyRecord(row.id, row.name, tuple(row.models), row.hint, row.created_at, row.revoked_at)
