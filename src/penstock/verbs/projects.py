"""`penstock projects`: makes, lists, edits and archives projects, which keys have in common what bounds them."""

from __future__ import annotations

from typing import Any

import click
from msgspec import UNSET

from penstock.control.keys import InvalidKey, check_fields, new_project
from penstock.stores.base import ProjectChange, ProjectRecord
from penstock.verbs import access, stored
from penstock.verbs.access import as_json
from penstock.verbs.stored import Place


@click.group()
def projects() -> None:
    """Make, list, edit and archive projects. A key of a project is bound by the project's limits as by its own.

    \b
    Examples:
      penstock projects create --name web --models "gpt-5.4,gpt-5.4-mini"
      penstock limits set usd_per_month 500 --project web
      penstock keys create --name app --project web
      penstock projects archive web
    """


@projects.command()
@click.option("--name", required=True, help="What it is called; no other project may have the name.")
@click.option("--models", metavar="A,B", help="Models its keys may use, such as gpt-5.4,local-*. Default: all.")
@click.option("--endpoints", metavar="A,B", help="What its keys may call, such as chat.completions. Default: all.")
@click.option("--metadata", metavar="K=V", multiple=True, help="Anything to find it by; may be given several times.")
@click.option("--keep-content", is_flag=True, help="Keep all its chat completions, to be fetched later.")
@as_json
@stored.options
def create(place: Place, as_json: bool, keep_content: bool, **given: Any) -> None:
    """Make a project.

    \b
    Examples:
      penstock projects create --name web
      penstock projects create --name research --models "gpt-*" --metadata owner=ada --metadata cost-centre=12
    """
    try:
        new = new_project(
            given["name"],
            models=access.names(given["models"]) or (),
            endpoints=access.names(given["endpoints"]) or (),
            metadata=access.pairs(given["metadata"]),
            keeps_content=keep_content,
        )
    except InvalidKey as error:
        raise access.usage_error(error) from None
    record = access.use(place, lambda store: store.create_project(new), make=True)
    _told("Made", record, as_json)


@projects.command("list")
@as_json
@stored.options
def list_(place: Place, as_json: bool) -> None:
    """List all projects, archived ones too.

    \b
    Examples:
      penstock projects list
      penstock projects list --json
    """
    records = access.use(place, lambda store: store.projects())
    if as_json:
        access.print_json([_object(record) for record in records])
        return
    rows = (
        (
            record.id,
            record.name,
            ", ".join(record.models) or "all",
            ", ".join(record.endpoints) or "all",
            "yes" if record.keeps_content else "",
            *map(access.shown_time, (record.created_at, record.archived_at)),
        )
        for record in records
    )
    columns = ("id", "name", "models", "endpoints", "keeps content", "made", "archived")
    access.print_table(columns, rows, ("models", "endpoints"))


@projects.command(short_help="Change a project, by its id or its name.")
@click.argument("project", metavar="ID_OR_NAME")
@click.option("--name", help="Another name.")
@click.option("--models", metavar="A,B", help='Models its keys may use; "all" for all.')
@click.option("--endpoints", metavar="A,B", help='What its keys may call; "all" for everything.')
@click.option(
    "--metadata", metavar="K=V", multiple=True, help="In place of all that it has; may be given several times."
)
@click.option("--keep-content/--no-keep-content", default=None, help="Whether all its chat completions are kept.")
@as_json
@stored.options
def edit(place: Place, project: str, as_json: bool, keep_content: bool | None, **given: Any) -> None:
    """Change a project; its keys are bound by what it is now.

    \b
    Examples:
      penstock projects edit web --models "gpt-5.4,gpt-5.4-mini"
      penstock projects edit web --name website --no-keep-content
    """
    if keep_content is None and not any(value not in (None, ()) for value in given.values()):
        raise click.UsageError("There is nothing to change: give --models, --name or another option.")
    models, endpoints = access.names(given["models"]), access.names(given["endpoints"])
    change = ProjectChange(
        name=UNSET if given["name"] is None else given["name"],
        models=UNSET if models is None else models,
        endpoints=UNSET if endpoints is None else endpoints,
        metadata=access.pairs(given["metadata"]) if given["metadata"] else UNSET,
        keeps_content=UNSET if keep_content is None else keep_content,
    )
    try:
        check_fields(change)
    except InvalidKey as error:
        raise access.usage_error(error) from None
    _told("Changed", access.use(place, lambda store: store.edit_project(project, change)), as_json)


@projects.command(short_help="Archive a project, by its id or its name.")
@click.argument("project", metavar="ID_OR_NAME")
@as_json
@stored.options
def archive(place: Place, project: str, as_json: bool) -> None:
    """Archive a project: its keys stop working, for good. What they used stays on record.

    \b
    Examples:
      penstock projects archive web
    """
    _told("Archived", access.use(place, lambda store: store.archive_project(project)), as_json)


def _told(what: str, record: ProjectRecord, as_json: bool) -> None:
    if as_json:
        access.print_json(_object(record))
    else:
        click.echo(f"{what} {record.id} ({record.name}).")


def _object(record: ProjectRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "name": record.name,
        "models": record.models,
        "endpoints": record.endpoints,
        "metadata": record.metadata,
        "keeps_content": record.keeps_content,
        "created_at": access.whole(record.created_at),
        "archived_at": access.whole(record.archived_at),
    }
