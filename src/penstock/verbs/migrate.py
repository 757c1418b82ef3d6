"""`penstock migrate`: brings a server's database to this version's schema ahead of time."""

from __future__ import annotations

import click

from penstock.stores.schema import SCHEMA
from penstock.stores.sql import Stores
from penstock.verbs import stored
from penstock.verbs.stored import Place


@click.command()
@stored.options
def migrate(place: Place) -> None:
    """Bring the database to this version's schema. Servers that run may go on running, of the version before too.

    A server does the same when it starts. Do it ahead of time where the server's own database user may not change
    tables, or to choose the hour. It is one transaction: what fails changes nothing.

    \b
    Examples:
      penstock migrate --config /etc/penstock/penstock.toml
      penstock migrate --data-dir /var/lib/penstock
    """

    async def where(stores: Stores) -> str:
        return stores.database.where

    click.echo(f"{place.use(where, make=True)}: the schema is {SCHEMA}.")
