"""Projects and limits; what a key may do beyond its models; and the mark of which programs a database still serves."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None
compatible_since = "0002"


def upgrade() -> None:
    marks = op.create_table(
        "schema_compatible",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("since", sa.Text, nullable=False),
    )
    op.bulk_insert(marks, [{"id": 1, "since": "0002"}])
    op.add_column("keys", sa.Column("project_id", sa.Text))
    op.add_column("keys", sa.Column("endpoints", sa.JSON, nullable=False, server_default="[]"))
    op.add_column("keys", sa.Column("expires_at", sa.Double))
    op.add_column("keys", sa.Column("weight", sa.Double, nullable=False, server_default="1"))
    op.add_column("keys", sa.Column("metadata", sa.JSON, nullable=False, server_default="{}"))
    op.create_table(
        "projects",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("models", sa.JSON, nullable=False),
        sa.Column("endpoints", sa.JSON, nullable=False),
        sa.Column("metadata", sa.JSON, nullable=False),
        sa.Column("keeps_content", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("archived_at", sa.Double),
    )
    living = sa.text("archived_at IS NULL")
    op.create_index(
        "ix_projects_living_name", "projects", ["name"], unique=True, sqlite_where=living, postgresql_where=living
    )
    op.create_table(
        "limits",
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
