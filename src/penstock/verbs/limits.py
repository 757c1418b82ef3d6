"""`penstock limits`: sets, lists and removes what a key or a project may use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from penstock.control.keys import check_limit
from penstock.limits import METERS, Limit, Scope
from penstock.stores.base import Access
from penstock.verbs import access, stored
from penstock.verbs.access import as_json
from penstock.verbs.stored import Place


@click.group()
def limits() -> None:
    """Set, list and remove limits of keys and projects. A running server takes every change within a second.

    \b
    Examples:
      penstock limits set rpm 60 --key reports
      penstock limits set usd_per_month 500 --project web
      penstock limits list --project web
      penstock limits remove rpm --key reports
    """


def _whose(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say for what a limit holds."""
    for option in (
        click.option("--project", metavar="P", help="The project, by its id or name."),
        click.option("--key", metavar="K", help="The key, by its id or name."),
    ):
        command = option(command)
    return command


_model = click.option(
    "--model", metavar="M", default="", help="For this model alone, as clients name it, or for a prefix such as gpt-*."
)
_meter = click.argument("meter", type=click.Choice(list(METERS)), metavar="METER")


@limits.command("set", short_help="Set a limit, or change it.")
@_meter
@click.argument("amount")
@_whose
@_model
@click.option(
    "--rolling", is_flag=True, help="A day is any 24 hours, a month any 30 days; else those of the calendar, UTC."
)
@click.option("--hard", is_flag=True, help="Cap the output of each answer at what is left of tokens or dollars.")
@click.option("--shadow", is_flag=True, help="Count, report what would be refused, and refuse nothing.")
@click.option(
    "--fail-open/--fail-closed",
    "fails_open",
    default=None,
    help="What is done while nobody can say what is left. Default: budgets are closed, other limits open.",
)
@as_json
@stored.options
def set_(place: Place, as_json: bool, key: str | None, project: str | None, amount: str, **given: Any) -> None:
    """Set the limit METER of a key or a project to AMOUNT.

    \b
    METER is one of:
      rpm, tpm                                   requests or tokens per minute
      concurrency                                requests at once
      requests_per_day, requests_per_month       requests
      tokens_per_day, tokens_per_month           tokens of prompts and answers
      usd_per_day, usd_per_month, usd_total      US dollars

    \b
    Examples:
      penstock limits set rpm 60 --key reports
      penstock limits set tpm 100000 --project web --model "gpt-5.4*"
      penstock limits set usd_per_month 12.50 --key intern --hard
      penstock limits set tokens_per_day 2000000 --key batch --rolling --shadow
    """
    number = access.amount(given["meter"], amount)

    async def kept(store: Access) -> Limit:
        scope, scope_id = await _scope(store, key, project)
        limit = Limit(scope, scope_id, amount=number, **given)
        check_limit(limit)
        await store.set_limit(limit)
        return limit

    limit = access.use(place, kept)
    if as_json:
        access.print_json(access.limit_object(limit))
    else:
        click.echo(f"Set: {access.said(limit)}{f' of {limit.model}' if limit.model else ''}, for {key or project}.")


@limits.command("list", short_help="List limits.")
@_whose
@as_json
@stored.options
def list_(place: Place, as_json: bool, key: str | None, project: str | None) -> None:
    """List all limits, or those of one key or project.

    \b
    Examples:
      penstock limits list
      penstock limits list --key reports --json
    """

    async def listed(store: Access) -> tuple[tuple[Limit, ...], dict[str, str]]:
        names = {record.id: record.name for record in await store.keys()}
        names |= {record.id: record.name for record in await store.projects()}
        if key is None and project is None:
            return await store.limits(), names
        return await store.limits(*await _scope(store, key, project)), names

    found, names = access.use(place, listed)
    if as_json:
        access.print_json([access.limit_object(limit) for limit in found])
        return
    rows = (
        (
            f"{limit.scope} {names.get(limit.scope_id, '')}",
            limit.scope_id,
            limit.meter,
            access.said(limit),
            limit.model or "all",
            ", ".join(_manner(limit)),
        )
        for limit in found
    )
    access.print_table(("of", "id", "meter", "at most", "models", "manner"), rows, ("manner",))


@limits.command(short_help="Remove a limit.")
@_meter
@_whose
@_model
@as_json
@stored.options
def remove(place: Place, as_json: bool, meter: str, key: str | None, project: str | None, model: str) -> None:
    """Remove the limit METER of a key or a project.

    \b
    Examples:
      penstock limits remove rpm --key reports
      penstock limits remove tpm --project web --model "gpt-5.4*"
    """

    async def removed(store: Access) -> Limit:
        scope, scope_id = await _scope(store, key, project)
        return await store.remove_limit(Limit(scope, scope_id, meter, 0, model).id)

    limit = access.use(place, removed)
    if as_json:
        access.print_json(access.limit_object(limit))
    else:
        click.echo(f"Removed: {access.said(limit)}, of {key or project}.")


async def _scope(store: Access, key: str | None, project: str | None) -> tuple[Scope, str]:
    if (key is None) == (project is None):
        raise click.UsageError("Give either --key or --project.")
    if key is not None:
        return "key", (await store.key(key)).id
    return "project", (await store.project(project or "")).id


def _manner(limit: Limit) -> list[str]:
    found = [name for name in ("rolling", "hard", "shadow") if getattr(limit, name)]
    if limit.fails_open is not None:
        found.append("fails open" if limit.fails_open else "fails closed")
    return found
