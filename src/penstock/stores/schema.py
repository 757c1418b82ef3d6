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

# -- the ledger

_sorted_text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")  # by bytes, whatever the database's order
_number = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # SQLite numbers rows by a column of exactly that type


def _counts(*names: str) -> tuple[sa.Column[int], ...]:
    return tuple(sa.Column(name, sa.BigInteger, nullable=False) for name in names)


def _cost() -> tuple[sa.Column[int], ...]:
    """What a request or an attempt came to; `sources` as `batch.SOURCES` numbers them."""
    return (
        *_counts("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens"),
        sa.Column("sources", sa.SmallInteger, nullable=False),
        sa.Column("cost_nanos", sa.BigInteger),
    )


# Whose, of what, answered by whom, at which prices: the texts that repeat, which the rows name by a number.
series = sa.Table(
    "ledger_series",
    metadata,
    sa.Column("id", _number, primary_key=True),
    sa.Column("key_id", sa.Text, nullable=False),
    sa.Column("project_id", sa.Text, nullable=False),
    sa.Column("endpoint", sa.Text, nullable=False),
    sa.Column("asked", sa.Text, nullable=False),
    sa.Column("route", sa.Text, nullable=False),
    sa.Column("provider", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("price_version", sa.Text, nullable=False),
    sa.UniqueConstraint("key_id", "project_id", "endpoint", "asked", "route", "provider", "model", "price_version"),
)
requests = sa.Table(
    "ledger_requests",
    metadata,
    sa.Column("id", _sorted_text, primary_key=True),
    sa.Column("series", sa.BigInteger, nullable=False),
    sa.Column("started_at", sa.Double, nullable=False),
    sa.Column("stream", sa.SmallInteger, nullable=False),
    sa.Column("status", sa.SmallInteger, nullable=False),
    sa.Column("ended", sa.Text, nullable=False),
    sa.Column("code", sa.Text, nullable=False, server_default=""),
    sa.Column("finish", sa.Text, nullable=False),
    *_cost(),
    sa.Column("tags", sa.Text, nullable=False, server_default=""),
    sa.Column("end_user", sa.Text, nullable=False, server_default=""),
    sa.Column("safety_identifier", sa.Text, nullable=False, server_default=""),
    sa.Column("trace", sa.Text, nullable=False, server_default=""),
    sa.Column("duration_ms", sa.Double),
    sa.Column("first_event_ms", sa.Double),
    sqlite_with_rowid=False,
)
attempts = sa.Table(
    "ledger_attempts",
    metadata,
    sa.Column("request_id", _sorted_text, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("series", sa.BigInteger, nullable=False),
    sa.Column("status", sa.SmallInteger, nullable=False),
    sa.Column("outcome", sa.Text, nullable=False),
    *_cost(),
    sa.Column("duration_ms", sa.Double),
    sa.Column("wait_ms", sa.Double, nullable=False),
    sqlite_with_rowid=False,
)
sums = sa.Table(
    "ledger_sums",
    metadata,
    sa.Column("span", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("start", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("series", sa.BigInteger, primary_key=True, autoincrement=False),
    *_counts("requests", "prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens"),
    *_counts("estimated_tokens", "partial_tokens", "cost_nanos", "unpriced"),
    sa.Index("ix_ledger_sums_series", "series", "span", "start"),
    sqlite_with_rowid=False,
)
marks = sa.Table(
    "ledger_marks",
    metadata,
    sa.Column("journal", sa.Text, primary_key=True),
    sa.Column("position", sa.BigInteger, nullable=False),
)

# -- what was answered

answers = sa.Table(
    "answers",
    metadata,
    sa.Column("scope", sa.Text, primary_key=True),
    sa.Column("id", _sorted_text, primary_key=True),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("kept_at", sa.Double, nullable=False, index=True),
    sa.Column("tags", sa.Text, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("messages", sa.LargeBinary, nullable=False),
)
sa.Index("ix_answers_scope_kept_at", answers.c.scope, answers.c.kept_at, answers.c.id)
idempotent_runs = sa.Table(
    "idempotent_runs",
    metadata,
    sa.Column("id", sa.LargeBinary(32), primary_key=True),
    sa.Column("fingerprint", sa.LargeBinary(32), nullable=False),
    sa.Column("claim", sa.Text, nullable=False, index=True),
    sa.Column("done", sa.Boolean, nullable=False),
    sa.Column("until", sa.Double, nullable=False, index=True),
)
