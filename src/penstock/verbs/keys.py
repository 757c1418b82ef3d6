"""`penstock keys`: makes, lists and revokes keys in the store of a data directory, with or without a running server."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from penstock import data_dir as data_directory
from penstock.control.keys import LONGEST, InvalidKey, generate, new_key
from penstock.stores.base import AmbiguousName, KeyExists, KeyNotFound, KeyRecord, Keys, StoreUnavailable
from penstock.stores.sql import open_stores
from penstock.stores.sqlite import FILE
from penstock.verbs import state

T = TypeVar("T")


@click.group()
def keys() -> None:
    """Make, list and revoke API keys. A running server takes every change within a second.

    \b
    Examples:
      penstock keys create --name reports --models "gpt-5.4,local-*"
      penstock keys list
      penstock keys revoke reports
    """


@keys.command()
@click.option("--name", required=True, help="What the key is for; shown in lists. A model's `for_keys` goes by it.")
@click.option("--models", metavar="A,B", help="Models it may use, such as gpt-5.4,local-*. Default: all.")
@click.option("--key-stdin", is_flag=True, help="Keep the key that standard input holds, instead of making one.")
@click.option("--json", "as_json", is_flag=True, help="Print an object with `id`, `key` and what else is kept.")
@state.option
def create(name: str, models: str | None, key_stdin: bool, as_json: bool, data_dir: str | None) -> None:
    """Make a key and print it, this once: only a hash of it is kept.

    \b
    Examples:
      penstock keys create --name reports
      KEY=$(penstock keys create --name ci --models "gpt-5.4")
      penstock keys create --name legacy --key-stdin < deployed-key
    """
    key = _from_stdin() if key_stdin else generate()
    try:
        new = new_key(key, name, () if models is None else tuple(part.strip() for part in models.split(",")))
    except InvalidKey as error:
        raise click.UsageError(f"{str(error)[:1].upper()}{str(error)[1:]}.") from None
    try:
        record = _in_store(_prepared(data_dir), lambda store: store.create(new))
    except KeyExists:
        raise click.ClickException(
            "this key is in the store already, or was revoked, after which it never works again: give another."
        ) from None
    if as_json:
        click.echo(msgspec.json.encode({"key": key, **_object(record)}).decode())
        return
    click.echo(f"Kept as {record.id} ({record.name}).", err=True)
    if not key_stdin:
        click.echo("It is shown this once:", err=True)
        click.echo(key)


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print an array of objects.")
@state.option
def list_(as_json: bool, data_dir: str | None) -> None:
    """List all keys, revoked ones too. The keys themselves are not kept and cannot be shown.

    \b
    Examples:
      penstock keys list
      penstock keys list --json
    """
    records = _in_store(_existing(data_dir), lambda store: store.list())
    if as_json:
        click.echo(msgspec.json.encode([_object(record) for record in records]).decode())
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in ("id", "name", "key", "models", "made", "revoked"):
        table.add_column(column, no_wrap=column != "models")
    for record in records:
        models = ", ".join(record.models) or "all"
        made, revoked = _time(record.created_at), _time(record.revoked_at)
        # Text, so that brackets in a name are not taken for markup
        table.add_row(*map(Text, (record.id, record.name, record.hint, models, made, revoked)))
    # a pipe has no width that the table would have to fit
    Console(width=None if sys.stdout.isatty() else 200).print(table)


@keys.command(short_help="Revoke a key, by its id or its name.")
@click.argument("key", metavar="ID_OR_NAME")
@click.option("--json", "as_json", is_flag=True, help="Print the key's object.")
@state.option
def revoke(key: str, as_json: bool, data_dir: str | None) -> None:
    """Revoke a key, by its id or by a name that no other working key has. It never works again.

    \b
    Examples:
      penstock keys revoke reports
      penstock keys revoke key_7d1c0a55e2b94f3c8a6e1b02
    """
    try:
        record = _in_store(_existing(data_dir), lambda store: store.revoke(key))
    except KeyNotFound:
        raise click.ClickException(f"no key has the id or name {key!r}: `penstock keys list` shows them.") from None
    except AmbiguousName as error:
        raise click.ClickException(
            f"several keys are named {error.name!r}: revoke one by its id, {' or '.join(error.ids)}."
        ) from None
    if as_json:
        click.echo(msgspec.json.encode(_object(record)).decode())
    else:
        click.echo(f"Revoked {record.id} ({record.name}).")


def _from_stdin() -> str:
    """The key that standard input holds, without the line end; read bounded, whatever it is."""
    data = sys.stdin.buffer.read(4 * LONGEST)
    try:
        return data.decode("ascii").strip("\r\n")
    except UnicodeDecodeError:
        raise click.UsageError("A key is made of printable ASCII characters without spaces.") from None


def _prepared(given: str | None) -> Path:
    try:
        return data_directory.prepare(str(state.directory(given)))
    except data_directory.DataDirError as error:
        raise click.ClickException(str(error)) from None


def _existing(given: str | None) -> Path:
    """A directory that has a store: a wrong --data-dir shall not look like a server without keys."""
    directory = state.directory(given)
    if not (directory / FILE).exists():
        raise click.ClickException(f"there are no keys in {directory}: give the server's --data-dir.")
    return directory


def _in_store(directory: Path, act: Callable[[Keys], Awaitable[T]]) -> T:
    async def opened() -> T:
        stores = await open_stores("sqlite", directory)
        try:
            return await act(stores.keys)
        finally:
            await stores.close()

    try:
        return asyncio.run(opened())
    except StoreUnavailable as error:
        raise click.ClickException(str(error)) from None


def _object(record: KeyRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "name": record.name,
        "models": record.models,
        "hint": record.hint,
        "created_at": int(record.created_at),
        "revoked_at": None if record.revoked_at is None else int(record.revoked_at),
    }


def _time(seconds: float | None) -> str:
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
