"""The ledger: requests, attempts, what repeats in them, sums, and how far each journal has been stored."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None
compatible_since = "0002"


def upgrade() -> None:
    sorted_text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    number = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # SQLite numbers rows by a column of exactly that type
    names = ("key_id", "project_id", "endpoint", "asked", "route", "provider", "model", "price_version")
    op.create_table(
        "ledger_series",
        sa.Column("id", number, primary_key=True),
        *(sa.Column(name, sa.Text, nullable=False) for name in names),
        sa.UniqueConstraint(*names),
    )
    op.create_table(
        "ledger_requests",
        sa.Column("id", sorted_text, primary_key=True),
        sa.Column("series", sa.BigInteger, nullable=False),
        sa.Column("started_at", sa.Double, nullable=False),
        sa.Column("stream", sa.SmallInteger, nullable=False),
        sa.Column("status", sa.SmallInteger, nullable=False),
        sa.Column("ended", sa.Text, nullable=False),
        sa.Column("code", sa.Text, nullable=False, server_default=""),
        sa.Column("finish", sa.Text, nullable=False),
        *tokens(),
        sa.Column("tags", sa.Text, nullable=False, server_default=""),
        sa.Column("end_user", sa.Text, nullable=False, server_default=""),
        sa.Column("safety_identifier", sa.Text, nullable=False, server_default=""),
        sa.Column("trace", sa.Text, nullable=False, server_default=""),
        sa.Column("duration_ms", sa.Double),
        sa.Column("first_event_ms", sa.Double),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "ledger_attempts",
        sa.Column("request_id", sorted_text, primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("series", sa.BigInteger, nullable=False),
        sa.Column("status", sa.SmallInteger, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        *tokens(),
        sa.Column("duration_ms", sa.Double),
        sa.Column("wait_ms", sa.Double, nullable=False),
        sqlite_with_rowid=False,
    )
    counted = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")
    figures = ("requests", *counted, "estimated_tokens", "partial_tokens", "cost_nanos", "unpriced")
    op.create_table(
        "ledger_sums",
        sa.Column("span", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("start", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("series", sa.BigInteger, primary_key=True, autoincrement=False),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in figures),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_ledger_sums_series", "ledger_sums", ["series", "span", "start"])
    op.create_table(
        "ledger_marks",
        sa.Column("journal", sa.Text, primary_key=True),
        sa.Column("position", sa.BigInteger, nullable=False),
    )


def tokens() -> tuple[sa.Column[int], ...]:
    names = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")
    return (
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in names),
        sa.Column("sources", sa.SmallInteger, nullable=False),
        sa.Column("cost_nanos", sa.BigInteger),
    )
