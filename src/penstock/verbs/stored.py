"""Opens, for a verb, the stores that a server uses: found as the server finds them, with or without a running one."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from penstock import data_dir as data_directory
from penstock.providers.secrets import Secret
from penstock.stores.base import StoreUnavailable
from penstock.stores.sql import Stores, open_stores
from penstock.stores.sqlite import FILE
from penstock.verbs import state

T = TypeVar("T")


class Place:
    """Where the stores are: what `server.store` says, and the data directory, which need not exist."""

    def __init__(self, store: str, directory: Path) -> None:
        self.store = store
        self.directory = directory

    def use(self, act: Callable[[Stores], Awaitable[T]], *, make: bool = False) -> T:
        """What `act` makes of the stores. Unless `make`, SQLite's file must be there: a wrong --data-dir shall not look
        like a server without keys. Raises ClickException."""
        if self.store == "sqlite":
            self._check(make)
        try:
            return asyncio.run(self._used(act))
        except StoreUnavailable as error:
            raise click.ClickException(str(error)) from None

    def _check(self, make: bool) -> None:
        if not make and not (self.directory / FILE).exists():
            raise click.ClickException(
                f"there are no keys in {self.directory}: give the server's --data-dir, or its --config."
            )
        try:
            data_directory.prepare(str(self.directory))
        except data_directory.DataDirError as error:
            raise click.ClickException(str(error)) from None

    async def _used(self, act: Callable[[Stores], Awaitable[T]]) -> T:
        stores = await open_stores(self.store, self.directory)
        try:
            return await act(stores)
        finally:
            await stores.close()


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give `command` the options that find the stores, and their `place` as an argument."""

    @state.option
    @click.option(
        "--config",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="The server's configuration, which says where its store is. Default: the file that PENSTOCK_CONFIG names.",
    )
    @functools.wraps(command)
    def placed(*arguments: Any, config: Path | None, data_dir: str | None, **named: Any) -> Any:
        file = state.file(config)
        kind, colon, name = (state.configured(file, "store") or "sqlite").partition(":")
        try:
            store = Secret(kind + colon + (os.path.expanduser(name) if kind == "file" else name), "server.store").value
        except ValueError as error:
            raise click.ClickException(f"{error}.") from None
        return command(*arguments, place=Place(store, state.directory(data_dir, file)), **named)

    return placed
