"""`penstock keys`: makes, lists, edits and revokes keys in a server's store, with or without a running server."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import click
import msgspec
from msgspec import UNSET

from penstock.control.keys import LONGEST, InvalidKey, check_fields, check_limit, generate, new_key
from penstock.limits import Limit
from penstock.stores.base import Access, KeyChange, KeyRecord, NewKey
from penstock.types import ENDPOINTS
from penstock.verbs import access, stored
from penstock.verbs.access import as_json
from penstock.verbs.stored import Place

BUDGETS = {"day": "usd_per_day", "month": "usd_per_month", "total": "usd_total"}


@click.group()
def keys() -> None:
    """Make, list, edit and revoke API keys. A running server takes every change within a second.

    \b
    Examples:
      penstock keys create --name reports --models "gpt-5.4,local-*" --rpm 60 --budget-usd 20
      penstock keys list
      penstock keys edit reports --expires 30d
      penstock keys revoke reports
    """


@keys.command()
@click.option("--name", required=True, help="What the key is for; shown in lists. A model's `for_keys` goes by it.")
@click.option("--project", metavar="P", help="The project it belongs to, by its id or name.")
@click.option("--models", metavar="A,B", help="Models it may use, such as gpt-5.4,local-*. Default: all.")
@click.option("--endpoints", metavar="A,B", help=f"What it may call, of {', '.join(ENDPOINTS)}. Default: all.")
@click.option("--rpm", metavar="N", help="Requests per minute.")
@click.option("--tpm", metavar="N", help="Tokens per minute, of prompts and answers.")
@click.option("--concurrency", metavar="N", help="Requests at once.")
@click.option("--budget-usd", metavar="X", help="US dollars, such as 12.50, per month or as --budget-period says.")
@click.option("--budget-period", type=click.Choice(list(BUDGETS)), default="month", show_default=True, help="Of it.")
@click.option(
    "--expires", metavar="WHEN", help="A date, 2027-01-31 (its first second in UTC), or a span: 12h, 30d, 2w."
)
@click.option("--weight", type=float, default=1.0, help="Its share where several keys wait for a limit. Default: 1.")
@click.option("--metadata", metavar="K=V", multiple=True, help="Anything to find it by; may be given several times.")
@click.option("--key-stdin", is_flag=True, help="Keep the key that standard input holds, instead of making one.")
@as_json
@stored.options
def create(place: Place, as_json: bool, key_stdin: bool, **given: Any) -> None:
    """Make a key and print it, this once: only a hash of it is kept. `penstock limits` sets further limits.

    \b
    Examples:
      penstock keys create --name reports
      penstock keys create --name app --project web --rpm 600 --tpm 200000 --concurrency 20
      penstock keys create --name intern --budget-usd 12.50 --expires 30d --endpoints chat.completions
      KEY=$(penstock keys create --name ci --models "gpt-5.4")
      penstock keys create --name legacy --key-stdin < deployed-key
    """
    key = _from_stdin() if key_stdin else generate()
    try:
        new, limits = _wished(key, given)
    except InvalidKey as error:
        raise access.usage_error(error) from None

    async def made(store: Access) -> KeyRecord:
        if given["project"] is None:
            return await store.create_key(new, limits)
        project = await store.project(given["project"])
        return await store.create_key(_in_project(new, project.id), limits)

    record = access.use(place, made, make=True)
    if as_json:
        access.print_json({"key": key, **_object(record, limits)})
        return
    click.echo(f"Kept as {record.id} ({record.name}).", err=True)
    for limit in limits:
        click.echo(f"At most {access.said(limit)}.", err=True)
    if not key_stdin:
        click.echo("It is shown this once:", err=True)
        click.echo(key)


def _wished(key: str, given: dict[str, Any]) -> tuple[NewKey, list[Limit]]:
    """The key and its limits; raises InvalidKey."""
    new = new_key(
        key,
        given["name"],
        access.names(given["models"]) or (),
        endpoints=access.names(given["endpoints"]) or (),
        expires_at=None if given["expires"] is None else access.moment(given["expires"], datetime.now(UTC)),
        weight=given["weight"],
        metadata=access.pairs(given["metadata"]),
    )
    meters = {"rpm": "rpm", "tpm": "tpm", "concurrency": "concurrency", "budget_usd": BUDGETS[given["budget_period"]]}
    limits = [
        Limit("key", new.id, meter, access.amount(meter, given[option]))
        for option, meter in meters.items()
        if given[option] is not None
    ]
    for limit in limits:
        check_limit(limit)
    return new, limits


@keys.command("list")
@as_json
@stored.options
def list_(place: Place, as_json: bool) -> None:
    """List all keys, revoked ones too. The keys themselves are not kept and cannot be shown.

    \b
    Examples:
      penstock keys list
      penstock keys list --json
    """

    async def listed(store: Access) -> tuple[tuple[KeyRecord, ...], dict[str, str], tuple[Limit, ...]]:
        projects = {project.id: project.name for project in await store.projects()}
        return await store.keys(), projects, await store.limits("key")

    records, projects, limits = access.use(place, listed)
    if as_json:
        access.print_json(
            [_object(record, [limit for limit in limits if limit.scope_id == record.id]) for record in records]
        )
        return
    rows = (
        (
            record.id,
            record.name,
            record.hint,
            projects.get(record.project_id, record.project_id),
            ", ".join(record.models) or "all",
            *map(access.shown_time, (record.created_at, record.expires_at, record.revoked_at)),
        )
        for record in records
    )
    access.print_table(("id", "name", "key", "project", "models", "made", "expires", "revoked"), rows, ("models",))


@keys.command(short_help="Change what a key may do, by its id or its name.")
@click.argument("key", metavar="ID_OR_NAME")
@click.option("--name", help="Another name.")
@click.option(
    "--project", metavar="P", help='The project it belongs to from now on; "none" takes it out of its project.'
)
@click.option("--models", metavar="A,B", help='Models it may use; "all" for all.')
@click.option("--endpoints", metavar="A,B", help='What it may call; "all" for everything.')
@click.option("--expires", metavar="WHEN", help='A date or a span, as with `create`; "never".')
@click.option("--weight", type=float, help="Its share where several keys wait for a limit.")
@click.option(
    "--metadata", metavar="K=V", multiple=True, help="In place of all that it has; may be given several times."
)
@as_json
@stored.options
def edit(place: Place, key: str, as_json: bool, **given: Any) -> None:
    """Change what a key may do. Limits are changed by `penstock limits`.

    \b
    Examples:
      penstock keys edit reports --models "gpt-5.4,gpt-5.4-mini" --expires 2027-01-31
      penstock keys edit reports --models all --expires never
      penstock keys edit key_7d1c0a55e2b94f3c8a6e1b02 --name reports-old --project none
    """
    change = _change(given)

    async def edited(store: Access) -> KeyRecord:
        wanted = given["project"]
        if wanted in (None, "none"):
            return await store.edit_key(key, change)
        project = await store.project(wanted)
        return await store.edit_key(key, _in_project(change, project.id))

    record = access.use(place, edited)
    if as_json:
        access.print_json(_object(record))
    else:
        click.echo(f"Changed {record.id} ({record.name}).")


def _change(given: dict[str, Any]) -> KeyChange:
    if not any(value not in (None, ()) for value in given.values()):
        raise click.UsageError("There is nothing to change: give --models, --expires or another option.")
    models, endpoints = access.names(given["models"]), access.names(given["endpoints"])
    expires: Any = UNSET
    if given["expires"] is not None:
        expires = None if given["expires"] == "never" else access.moment(given["expires"], datetime.now(UTC))
    change = KeyChange(
        name=UNSET if given["name"] is None else given["name"],
        models=UNSET if models is None else models,
        project_id="" if given["project"] == "none" else UNSET,
        endpoints=UNSET if endpoints is None else endpoints,
        expires_at=expires,
        weight=UNSET if given["weight"] is None else given["weight"],
        metadata=access.pairs(given["metadata"]) if given["metadata"] else UNSET,
    )
    try:
        check_fields(change)
    except InvalidKey as error:
        raise access.usage_error(error) from None
    return change


@keys.command(short_help="Revoke a key, by its id or its name.")
@click.argument("key", metavar="ID_OR_NAME")
@as_json
@stored.options
def revoke(place: Place, key: str, as_json: bool) -> None:
    """Revoke a key, by its id or by a name that no other working key has. It never works again.

    \b
    Examples:
      penstock keys revoke reports
      penstock keys revoke key_7d1c0a55e2b94f3c8a6e1b02
    """
    record = access.use(place, lambda store: store.revoke_key(key))
    if as_json:
        access.print_json(_object(record))
    else:
        click.echo(f"Revoked {record.id} ({record.name}).")


def _from_stdin() -> str:
    """The key that standard input holds, without the line end; read bounded, whatever it is."""
    data = sys.stdin.buffer.read(4 * LONGEST)
    try:
        return data.decode("ascii").strip("\r\n")
    except UnicodeDecodeError:
        raise click.UsageError("A key is made of printable ASCII characters without spaces.") from None


def _in_project(fields: Any, project_id: str) -> Any:
    return msgspec.structs.replace(fields, project_id=project_id)


def _object(record: KeyRecord, limits: Sequence[Limit] | None = None) -> dict[str, Any]:
    """What --json shows; with its own limits, where they are at hand."""
    shown = {} if limits is None else {"limits": [access.limit_object(limit) for limit in limits]}
    return {
        "id": record.id,
        "name": record.name,
        "project_id": record.project_id or None,
        "models": record.models,
        "endpoints": record.endpoints,
        "hint": record.hint,
        "weight": record.weight,
        "metadata": record.metadata,
        "created_at": access.whole(record.created_at),
        "expires_at": access.whole(record.expires_at),
        "revoked_at": access.whole(record.revoked_at),
        **shown,
    }
