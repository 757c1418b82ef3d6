"""Keys, projects and limits in a database, by SQLAlchemy Core.

Whatever changes something locks the generation's row first: changes go one after the other, also in PostgreSQL, where
transactions otherwise run side by side, so what a change has read still holds when it writes, and the generation never
moves back. A lookup reads in two statements; a change between them moves the generation, and the caller asks again.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from penstock.limits import Limit, Scope
from penstock.stores.base import (
    KeyChange,
    KeyExists,
    KeyNotFound,
    KeyRecord,
    KeyRevoked,
    Known,
    LimitNotFound,
    NewKey,
    NewProject,
    ProjectArchived,
    ProjectChange,
    ProjectExists,
    ProjectNotFound,
    ProjectRecord,
    choose_key,
    choose_project,
    given,
)
from penstock.stores.database import Database
from penstock.stores.schema import generation, keys, limits, projects

_KEY = tuple(keys.c[name] for name in KeyRecord.__struct_fields__)
_PROJECT = tuple(projects.c[name] for name in ProjectRecord.__struct_fields__)
_LIMIT = tuple(limits.c[name] for name in Limit.__struct_fields__)

_GENERATION = str(sa.select(generation.c.value))

R = TypeVar("R", KeyRecord, ProjectRecord)
_Row = sa.Row[*tuple[Any, ...]]


class SqlAccess:
    """Implements `stores.base.Access` on a database that `open_database` made ready."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    # -- keys

    async def create_key(self, key: NewKey, limits: Sequence[Limit] = ()) -> KeyRecord:
        async with self._change() as connection:
            return await self._create_key(connection, key, limits)

    async def create_first_key(self, key: NewKey) -> KeyRecord | None:
        async with self._change() as connection:
            if (await connection.execute(sa.select(keys.c.id).limit(1))).first() is not None:
                return None
            return await self._create_key(connection, key, ())

    async def _create_key(self, connection: AsyncConnection, key: NewKey, own: Sequence[Limit]) -> KeyRecord:
        await _working_project(connection, key.project_id)
        fields = msgspec.structs.asdict(key)
        digest = fields.pop("digest")
        record = KeyRecord(created_at=self._clock(), **fields)
        try:
            await connection.execute(keys.insert().values(digest=digest, **_values(record)))
        except sa.exc.IntegrityError as error:
            raise KeyExists(key.id) from error
        for limit in own:
            await connection.execute(limits.insert().values(_values(limit)))
        await _move(connection)
        return record

    async def keys(self) -> tuple[KeyRecord, ...]:
        async with self._database.read() as connection:
            return await _keys(connection, sa.true())

    async def key(self, id_or_name: str) -> KeyRecord:
        async with self._database.read() as connection:
            return await _key(connection, id_or_name)

    async def edit_key(self, id_or_name: str, change: KeyChange) -> KeyRecord:
        async with self._change() as connection:
            key = await _key(connection, id_or_name)
            if key.revoked_at is not None:
                raise KeyRevoked(key.id)
            if isinstance(change.project_id, str):
                await _working_project(connection, change.project_id)
            return await _replace(connection, keys, key, given(change))

    async def revoke_key(self, id_or_name: str) -> KeyRecord:
        async with self._change() as connection:
            key = await _key(connection, id_or_name)
            if key.revoked_at is not None:
                return key
            return await _replace(connection, keys, key, {"revoked_at": self._clock()})

    async def lookup(self, digest: bytes) -> Known | None:
        async with self._database.read() as connection:
            query = sa.select(*_KEY, keys.c.digest).where(keys.c.digest == digest, keys.c.revoked_at.is_(None))
            row = (await connection.execute(query)).first()
            if row is None or not hmac.compare_digest(row.digest, digest):
                return None
            key = _to_key(row)
            found = await _projects(connection, projects.c.id == key.project_id) if key.project_id else ()
            project = found[0] if found else None
            if project is not None and project.archived_at is not None:
                return None
            own = _of("key", key.id)
            condition = own if project is None else sa.or_(own, _of("project", project.id))
            return Known(key, project, await _limits(connection, condition))

    # -- projects

    async def create_project(self, project: NewProject) -> ProjectRecord:
        record = ProjectRecord(created_at=self._clock(), **msgspec.structs.asdict(project))
        async with self._change() as connection:
            try:
                await connection.execute(projects.insert().values(_values(record)))
            except sa.exc.IntegrityError as error:
                raise ProjectExists(project.name) from error
            await _move(connection)
        return record

    async def projects(self) -> tuple[ProjectRecord, ...]:
        async with self._database.read() as connection:
            return await _projects(connection, sa.true())

    async def project(self, id_or_name: str) -> ProjectRecord:
        async with self._database.read() as connection:
            return await _project(connection, id_or_name)

    async def edit_project(self, id_or_name: str, change: ProjectChange) -> ProjectRecord:
        async with self._change() as connection:
            project = await _project(connection, id_or_name)
            if project.archived_at is not None:
                raise ProjectArchived(project.id)
            try:
                return await _replace(connection, projects, project, given(change))
            except sa.exc.IntegrityError as error:
                raise ProjectExists(change.name) from error

    async def archive_project(self, id_or_name: str) -> ProjectRecord:
        async with self._change() as connection:
            project = await _project(connection, id_or_name)
            if project.archived_at is not None:
                return project
            return await _replace(connection, projects, project, {"archived_at": self._clock()})

    # -- limits

    async def set_limit(self, limit: Limit) -> None:
        async with self._change() as connection:
            if limit.scope == "project":
                await _working_project(connection, limit.scope_id)
            else:
                await _working_key(connection, limit.scope_id)
            there = await _limits(connection, _is(limit.id))
            if there == (limit,):
                return
            if there:
                await connection.execute(limits.update().where(_is(limit.id)).values(_values(limit)))
            else:
                await connection.execute(limits.insert().values(_values(limit)))
            await _move(connection)

    async def remove_limit(self, limit_id: str) -> Limit:
        async with self._change() as connection:
            there = await _limits(connection, _is(limit_id))
            if not there:
                raise LimitNotFound(limit_id)
            await connection.execute(limits.delete().where(_is(limit_id)))
            await _move(connection)
            return there[0]

    async def limits(self, scope: Scope | None = None, scope_id: str | None = None) -> tuple[Limit, ...]:
        condition: sa.ColumnElement[bool] = sa.true()
        if scope is not None:
            condition = limits.c.scope == scope
        if scope_id is not None:
            condition = sa.and_(condition, limits.c.scope_id == scope_id)
        async with self._database.read() as connection:
            return await _limits(connection, condition)

    async def generation(self) -> int:
        return int(await self._database.scalar(_GENERATION))

    @asynccontextmanager
    async def _change(self) -> AsyncIterator[AsyncConnection]:
        async with self._database.change() as connection:
            await connection.execute(sa.select(generation.c.value).with_for_update())
            yield connection


async def _move(connection: AsyncConnection) -> None:
    await connection.execute(generation.update().values(value=generation.c.value + 1))


async def _replace(connection: AsyncConnection, table: sa.Table, record: R, fields: dict[str, Any]) -> R:
    """Write what differs, if anything does."""
    changed = msgspec.structs.replace(record, **fields)
    if changed != record:
        values = {name: value for name, value in _values(changed).items() if name in fields}
        await connection.execute(table.update().where(table.c.id == record.id).values(values))
        await _move(connection)
    return changed


async def _keys(connection: AsyncConnection, condition: sa.ColumnElement[bool]) -> tuple[KeyRecord, ...]:
    query = sa.select(*_KEY).where(condition).order_by(keys.c.created_at, keys.c.id)
    return tuple(map(_to_key, await connection.execute(query)))


async def _key(connection: AsyncConnection, id_or_name: str) -> KeyRecord:
    matching = sa.or_(keys.c.id == id_or_name, keys.c.name == id_or_name)
    return choose_key(await _keys(connection, matching), id_or_name)


async def _working_key(connection: AsyncConnection, key_id: str) -> None:
    found = await _keys(connection, keys.c.id == key_id)
    if not found:
        raise KeyNotFound(key_id)
    if found[0].revoked_at is not None:
        raise KeyRevoked(key_id)


async def _projects(connection: AsyncConnection, condition: sa.ColumnElement[bool]) -> tuple[ProjectRecord, ...]:
    query = sa.select(*_PROJECT).where(condition).order_by(projects.c.created_at, projects.c.id)
    return tuple(map(_to_project, await connection.execute(query)))


async def _project(connection: AsyncConnection, id_or_name: str) -> ProjectRecord:
    matching = sa.or_(projects.c.id == id_or_name, projects.c.name == id_or_name)
    return choose_project(await _projects(connection, matching), id_or_name)


async def _working_project(connection: AsyncConnection, project_id: str) -> None:
    """Raises where there is no such project, or it is archived; a key may have none, which is the empty id."""
    if not project_id:
        return
    found = await _projects(connection, projects.c.id == project_id)
    if not found:
        raise ProjectNotFound(project_id)
    if found[0].archived_at is not None:
        raise ProjectArchived(project_id)


async def _limits(connection: AsyncConnection, condition: sa.ColumnElement[bool]) -> tuple[Limit, ...]:
    rows = await connection.execute(sa.select(*_LIMIT).where(condition))
    # sorted here, for how a database sorts text is a setting of it
    return tuple(sorted((Limit(**row._mapping) for row in rows), key=_order))


def _order(limit: Limit) -> tuple[str, ...]:
    return limit.scope, limit.scope_id, limit.meter, limit.model


def _of(scope: Scope, scope_id: str) -> sa.ColumnElement[bool]:
    return sa.and_(limits.c.scope == scope, limits.c.scope_id == scope_id)


def _is(limit_id: str) -> sa.ColumnElement[bool]:
    """As `Limit.id` is put together; a model's name may have slashes."""
    scope, scope_id, meter, model = [*limit_id.split("/", 3), "", "", ""][:4]
    columns = (limits.c.scope, limits.c.scope_id, limits.c.meter, limits.c.model)
    parts = zip(columns, (scope, scope_id, meter, model), strict=True)
    return sa.and_(*(column == value for column, value in parts))


def _values(record: KeyRecord | ProjectRecord | Limit) -> dict[str, Any]:
    """The record's fields as columns take them."""
    values = msgspec.structs.asdict(record)
    for name, value in values.items():
        if isinstance(value, tuple):
            values[name] = list(value)
    if "project_id" in values:
        values["project_id"] = values["project_id"] or None
    return values


def _to_key(row: _Row) -> KeyRecord:
    fields = {name: row._mapping[name] for name in KeyRecord.__struct_fields__}
    fields |= {"models": tuple(row.models), "endpoints": tuple(row.endpoints), "project_id": row.project_id or ""}
    return KeyRecord(**fields)


def _to_project(row: _Row) -> ProjectRecord:
    fields = {name: row._mapping[name] for name in ProjectRecord.__struct_fields__}
    return ProjectRecord(**fields | {"models": tuple(row.models), "endpoints": tuple(row.endpoints)})
