"""The tables of every store, as the newest revision in `migrations/versions` leaves them.

A revision that adds a table or a column adds it here, too; a test compares the two. A new column of an old table is
nullable or has a default in the database, so that programs that do not know it can go on writing rows.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

VERSIONS = Path(__file__).parent / "migrations" / "versions"
SCHEMA = max(path.name[1:5] for path in VERSIONS.glob("r[0-9]*.py"))  # the newest revision: r0001_keys.py is 0001

metadata = sa.MetaData()

# The oldest schema whose programs can work with this database, whatever newer revisions have added.
compatible = sa.Table(
    "schema_compatible",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("since", sa.Text, nullable=False),
)

# -- access

keys = sa.Table(
    "keys",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("digest", sa.LargeBinary(32), nullable=False, unique=True),
    sa.Column("name", sa.Text, nullable=False, index=True),
    sa.Column("models", sa.JSON, nullable=False),
    sa.Column("hint", sa.Text, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("revoked_at", sa.Double),
    sa.Column("project_id", sa.Text),
    sa.Column("endpoints", sa.JSON, nullable=False, server_default="[]"),
    sa.Column("expires_at", sa.Double),
    sa.Column("weight", sa.Double, nullable=False, server_default="1"),
    sa.Column("metadata", sa.JSON, nullable=False, server_default="{}"),
)
projects = sa.Table(
    "projects",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("models", sa.JSON, nullable=False),
    sa.Column("endpoints", sa.JSON, nullable=False),
    sa.Column("metadata", sa.JSON, nullable=False),
    sa.Column("keeps_content", sa.Boolean, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("archived_at", sa.Double),
)
sa.Index(
    "ix_projects_living_name",
    projects.c.name,
    unique=True,
    sqlite_where=projects.c.archived_at.is_(None),
    postgresql_where=projects.c.archived_at.is_(None),
)
limits = sa.Table(
    "limits",
    metadata,
    sa.Column("scope", sa.Text, primary_key=True),
    sa.Column("scope_id", sa.Text, primary_key=True),
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("meter", sa.Text, primary_key=True),
    sa.Column("amount", sa.BigInteger, nullable=False),
    sa.Column("rolling", sa.Boolean, nullable=False),
    sa.Column("hard", sa.Boolean, nullable=False),
    sa.Column("shadow", sa.Boolean, nullable=False),
    sa.Column("fails_open", sa.Boolean),
)
generation = sa.Table(
    "key_generation",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("value", sa.BigInteger, nullable=False),
)
