"""${message}."""

import sqlalchemy as sa
from alembic import op

revision = "${up_revision}"
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None
compatible_since = "${up_revision}"  # the oldest schema whose programs can work with this one


def upgrade() -> None:
    ${upgrades if upgrades else "raise NotImplementedError"}
