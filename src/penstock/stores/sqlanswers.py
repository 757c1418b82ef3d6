"""Kept answers in a database, by SQLAlchemy Core.

Metadata stands in one column, a line for each pair, in JSON: a string of JSON holds no line break, so that a pair is in
the column exactly if its line is. A page is chosen by its answers' sizes first, so that no more than a page is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from penstock.stores.base.answers import Listing, NoSuchCursor, page_of
from penstock.stores.database import Database
from penstock.stores.schema import answers
from penstock.types import KeptAnswer, Page

_shown = (answers.c.id, answers.c.model, answers.c.kept_at, answers.c.tags, answers.c.body)

_encode = msgspec.json.Encoder().encode
_pairs = msgspec.json.Decoder(dict[str, str]).decode


class SqlAnswers:
    """Implements `stores.base.answers.Answers` on a database that `open_database` made ready."""

    def __init__(self, database: Database) -> None:
        self._database = database
        on_sqlite = database.engine.dialect.name == "sqlite"
        insert = sqlite.insert(answers) if on_sqlite else postgresql.insert(answers)
        own = {column.name: insert.excluded[column.name] for column in answers.c if not column.primary_key}
        self._upsert = insert.on_conflict_do_update(index_elements=["scope", "id"], set_=own)
        self._position = sa.func.instr if on_sqlite else sa.func.strpos

    async def keep(self, kept: Sequence[KeptAnswer]) -> None:
        rows = [
            {
                "scope": one.scope,
                "id": one.id,
                "model": one.model,
                "kept_at": one.kept_at,
                "tags": _tags(one.metadata),
                "body": one.body,
                "messages": one.messages,
            }
            for one in kept
        ]
        async with self._database.change() as connection:
            await connection.execute(self._upsert, rows)

    async def find(self, scope: str, answer_id: str, since: float) -> KeptAnswer | None:
        query = sa.select(*_shown, answers.c.messages).where(*_this(scope, answer_id, since))
        async with self._database.read() as connection:
            row = (await connection.execute(query)).first()
        return None if row is None else _answer(scope, row, row.messages)

    async def list(self, scope: str, page: Page, since: float) -> Listing:
        order = (
            (answers.c.kept_at.desc(), answers.c.id.desc()) if page.descending else (answers.c.kept_at, answers.c.id)
        )
        async with self._database.read() as connection:
            where = [answers.c.scope == scope, answers.c.kept_at >= since, *self._fits(page)]
            if page.after:
                where.append(await _beyond(connection, scope, page, since))
            sizes = sa.select(answers.c.id, sa.func.length(answers.c.body)).where(*where)
            found = (await connection.execute(sizes.order_by(*order).limit(page.limit + 1))).all()
            count = page_of([size for _, size in found], page.limit)
            wanted = [found_id for found_id, _ in found[:count]]
            query = sa.select(*_shown).where(answers.c.scope == scope, answers.c.id.in_(wanted)).order_by(*order)
            rows = (await connection.execute(query)).all() if wanted else ()
        return Listing(tuple(_answer(scope, row) for row in rows), len(found) > count)

    async def edit(self, scope: str, answer_id: str, metadata: Mapping[str, str], since: float) -> KeptAnswer | None:
        change = answers.update().where(*_this(scope, answer_id, since)).values(tags=_tags(metadata))
        async with self._database.change() as connection:
            row = (await connection.execute(change.returning(*_shown))).first()
        return None if row is None else _answer(scope, row)

    async def drop(self, scope: str, answer_id: str, since: float) -> bool:
        async with self._database.change() as connection:
            dropped = await connection.execute(answers.delete().where(*_this(scope, answer_id, since)))
        return dropped.rowcount > 0

    async def sweep(self, before: float, most: int) -> int:
        old = sa.select(answers.c.scope, answers.c.id).where(answers.c.kept_at < before).limit(most)
        async with self._database.change() as connection:
            place = sa.tuple_(answers.c.scope, answers.c.id)
            return (await connection.execute(answers.delete().where(place.in_(old)))).rowcount

    def _fits(self, page: Page) -> Sequence[sa.ColumnElement[bool]]:
        fits = [answers.c.model == page.model] if page.model else []
        lines = (f"\n{_line(name, value)}\n" for name, value in page.metadata.items())
        return [*fits, *(self._position(answers.c.tags, line) > 0 for line in lines)]


async def _beyond(connection: AsyncConnection, scope: str, page: Page, since: float) -> sa.ColumnElement[bool]:
    """What comes after the answer that the page names. Raises NoSuchCursor."""
    query = sa.select(answers.c.kept_at).where(*_this(scope, page.after, since))
    kept_at = await connection.scalar(query)
    if kept_at is None:
        raise NoSuchCursor(page.after)
    place = sa.tuple_(answers.c.kept_at, answers.c.id)
    cursor = sa.tuple_(sa.literal(kept_at, sa.Double), sa.literal(page.after, sa.Text))
    return place < cursor if page.descending else place > cursor


def _this(scope: str, answer_id: str, since: float) -> tuple[sa.ColumnElement[bool], ...]:
    return answers.c.scope == scope, answers.c.id == answer_id, answers.c.kept_at >= since


def _answer(scope: str, row: sa.Row[*tuple[Any, ...]], messages: bytes = b"") -> KeptAnswer:
    metadata = _pairs(f"{{{','.join(row.tags.split(chr(10))[1:-1])}}}")
    return KeptAnswer(scope, row.id, row.model, row.kept_at, metadata, bytes(row.body), bytes(messages))


def _tags(metadata: Mapping[str, str]) -> str:
    return "".join(f"\n{_line(name, value)}" for name, value in metadata.items()) + "\n"


def _line(name: str, value: str) -> str:
    return f"{_encode(name).decode()}:{_encode(value).decode()}"
