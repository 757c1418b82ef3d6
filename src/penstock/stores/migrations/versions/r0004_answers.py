"""Chat completions that are kept, and the runs of requests with an idempotency key."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None
compatible_since = "0002"

_SORTED = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "answers",
        sa.Column("scope", sa.Text, primary_key=True),
        sa.Column("id", _SORTED, primary_key=True),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("kept_at", sa.Double, nullable=False),
        sa.Column("tags", sa.Text, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("messages", sa.LargeBinary, nullable=False),
    )
    op.create_index("ix_answers_kept_at", "answers", ["kept_at"])
    op.create_index("ix_answers_scope_kept_at", "answers", ["scope", "kept_at", "id"])
    op.create_table(
        "idempotent_runs",
        sa.Column("id", sa.LargeBinary(32), primary_key=True),
        sa.Column("fingerprint", sa.LargeBinary(32), nullable=False),
        sa.Column("claim", sa.Text, nullable=False),
        sa.Column("done", sa.Boolean, nullable=False),
        sa.Column("until", sa.Double, nullable=False),
    )
    op.create_index("ix_idempotent_runs_claim", "idempotent_runs", ["claim"])
    op.create_index("ix_idempotent_runs_until", "idempotent_runs", ["until"])
