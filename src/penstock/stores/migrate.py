"""Brings a database to the schema this version needs, by Alembic; loaded only when the schema is not current."""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection

from penstock.stores.base import StoreUnavailable
from penstock.stores.schema import VERSIONS, compatible


def settings() -> Config:
    """Alembic's settings, without a file."""
    config = Config()
    # ConfigParser's interpolation would read a % in the path
    config.set_main_option("script_location", str(VERSIONS.parent).replace("%", "%%"))
    return config


def upgrade(connection: Connection) -> None:
    """Run the missing revisions on `connection`, in the transaction that it is in; raises StoreUnavailable.

    Of several processes that had to, the later ones find the work done, be it by a newer version.
    """
    config = settings()
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise StoreUnavailable(
            "the database was written by another version of Penstock: "
            f"run that version or a newer one, or choose another database ({error})"
        ) from error
    script = ScriptDirectory.from_config(config)
    since = max(revision.module.compatible_since for revision in script.walk_revisions())
    connection.execute(compatible.update().values(since=since))
