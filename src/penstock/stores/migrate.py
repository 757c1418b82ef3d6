"""Brings a database to the schema this version needs, by Alembic; loaded only when the schema is not current."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection

from penstock.stores.base import StoreUnavailable

MIGRATIONS = Path(__file__).with_name("migrations")


def settings() -> Config:
    """Alembic's settings, without a file."""
    config = Config()
    # ConfigParser's interpolation would read a % in the path
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config


def upgrade(connection: Connection) -> None:
    """Run the missing revisions on `connection`, in the transaction that it is in; raises StoreUnavailable."""
    config = settings()
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise StoreUnavailable(
            "the database was written by another version of Penstock: "
            f"run that version or a newer one, or choose another --data-dir ({error})"
        ) from error
