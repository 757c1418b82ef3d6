"""`penstock usage`: what was used, summed up or a row for each request; with or without a running server."""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, TextIO

import click
import msgspec

from penstock.control.keys import ENVIRONMENT
from penstock.control.usage import EVERYTHING, InvalidUsage, known_cost, query_of, report, total
from penstock.limits import NANOS
from penstock.stores.base import Access, RequestRow, RowQuery, UsageLine, UsageQuery
from penstock.stores.sql import Stores
from penstock.verbs import access, stored
from penstock.verbs.access import as_json
from penstock.verbs.stored import Place

DEFAULT = "model"
COLUMNS = ("requests", "prompt", "cached", "completion", "reasoning", "US dollars")

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet would take for one
_encode = msgspec.json.encode


class Named(msgspec.Struct, frozen=True):
    """A query, and the names of what stands in its answer as ids."""

    query: UsageQuery
    names: Mapping[str, Mapping[str, str]]


@click.command()
@click.option("--by", metavar="A,B", help=f"Sums for each of {', '.join(EVERYTHING)}. Default: {DEFAULT}.")
@click.option("--since", metavar="WHEN", help="A date (2026-11-01, in UTC), a time, or how long ago: 12h, 7d, 4w.")
@click.option("--until", metavar="WHEN", help="Likewise; what began then is not counted any more.")
@click.option("--key", metavar="K", help="One key alone, by its id or name.")
@click.option("--project", metavar="P", help="One project alone, by its id or name.")
@click.option("--export", type=click.Choice(["csv", "jsonl"]), help="Print a row for each request instead of sums.")
@as_json
@stored.options
def usage(place: Place, as_json: bool, export: str | None, **given: str | None) -> None:
    """Tell what was used: requests, tokens and dollars. A running server's requests are there within a second.

    Sums go by whole hours, in UTC. Where nobody reported tokens they are estimated, or were left behind by an answer
    that broke off: such sums begin with ~. Where no price is known the cost is ?, and a sum over some such
    requests has a + behind it.

    \b
    Examples:
      penstock usage
      penstock usage --by key,day --since 7d
      penstock usage --project web --since 2026-11-01 --until 2026-12-01 --json
      penstock usage --export jsonl --since 24h > requests.jsonl
    """
    if export is not None and (as_json or given["by"] is not None):
        raise click.UsageError("--export prints requests, one in each row: leave out --by and --json.")
    wanted = {name: text for name in ("by", "since", "until") if (text := given[name]) is not None}
    try:
        query = query_of({"by": DEFAULT, **wanted}, EVERYTHING, time.time())
    except InvalidUsage as error:
        raise click.UsageError(f"--{error.name}: {error}.") from None
    named = access.use(place, lambda store: _named(store, query, given["key"], given["project"]))
    if export is not None:
        place.use(lambda stores: _export(stores, named.query, export))
        return
    lines = place.use(lambda stores: stores.ledger.usage(named.query))
    if as_json:
        access.print_json(_object(named, lines))
    else:
        _show(named, lines)


async def _named(store: Access, query: UsageQuery, key: str | None, project: str | None) -> Named:
    """The query, of that key and project alone; raises what the store does where there is none."""
    if key is not None and key != ENVIRONMENT.key_id:
        key = (await store.key(key)).id
    if project is not None:
        project = (await store.project(project)).id
    keys = {record.id: record.name for record in await store.keys()} | {ENVIRONMENT.key_id: ENVIRONMENT.name}
    projects = {record.id: record.name for record in await store.projects()}
    return Named(msgspec.structs.replace(query, key_id=key, project_id=project), {"key": keys, "project": projects})


# -- sums


def _object(named: Named, lines: Sequence[UsageLine]) -> dict[str, Any]:
    """As a key is told, with the names of keys and projects."""
    found = report(named.query, lines)
    for line in found["data"]:
        for dimension, names in named.names.items():
            if dimension in line:
                line[f"{dimension}_name"] = names.get(line[dimension])
    return found


def _show(named: Named, lines: Sequence[UsageLine]) -> None:
    by = named.query.by
    rows = [[*_group(named, line), *_figures(line)] for line in lines]
    if len(lines) > 1 and "tag" not in by:  # a request may have several tags
        rows.append(["all", *[""] * (len(by) - 1), *_figures(total(lines))])
    access.print_table([*by, *COLUMNS], rows)
    if any(line.estimated_tokens or line.partial_tokens for line in lines):
        click.echo(
            "~ some of these tokens were not reported: they are estimated, or of an answer that broke off", err=True
        )
    if any(line.unpriced for line in lines):
        click.echo("? no price is known; + neither is it for some of these requests, which come on top", err=True)


def _group(named: Named, line: UsageLine) -> list[str]:
    shown = []
    for dimension, value in zip(named.query.by, line.group, strict=True):
        name = named.names.get(dimension, {}).get(value)
        shown.append((value if name is None else f"{name} ({value})") or "-")
    return shown


def _figures(line: UsageLine) -> list[str]:
    mark = "~" if line.estimated_tokens or line.partial_tokens else ""
    cost = known_cost(line)
    return [
        f"{line.requests:,}",
        f"{mark}{line.prompt_tokens:,}",
        f"{line.cached_tokens:,}",
        f"{mark}{line.completion_tokens:,}",
        f"{line.reasoning_tokens:,}",
        "?" if cost is None else _dollars(cost) + ("+" if line.unpriced else ""),
    ]


def _dollars(nanos: int) -> str:
    """To a hundredth of a cent; the least that is shown is not nothing."""
    return "<0.0001" if 0 < nanos < NANOS // 10_000 else f"{nanos / NANOS:,.4f}"


# -- rows


async def _export(stores: Stores, query: UsageQuery, kind: str) -> None:
    """Print the rows as they are read, the oldest first."""
    rows = stores.ledger.rows(RowQuery(query.since, query.until, query.key_id, query.project_id))
    if kind == "csv":
        await _print_csv(rows, sys.stdout)
    else:
        async for row in rows:
            sys.stdout.write(_encode(_row(row)).decode() + "\n")
    sys.stdout.flush()


async def _print_csv(rows: AsyncIterator[RequestRow], file: TextIO) -> None:
    writer = csv.writer(file)
    names = [name for name in _FIELDS if name != "attempts"]
    writer.writerow([*names, "attempts"])
    async for row in rows:
        found = _row(row)
        found["tags"] = row.tags
        found["trace"] = row.trace.decode()
        writer.writerow([*(_cell(found[name]) for name in names), len(row.attempts)])


def _cell(value: Any) -> Any:
    """As a spreadsheet reads it; a client's text does not become a formula."""
    if isinstance(value, bool):
        return int(value)
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _row(row: RequestRow) -> dict[str, Any]:
    """A request as it is exported; `request_id` is its answer's x-request-id."""
    found = {_NAMES.get(name, name): getattr(row, name) for name in RequestRow.__struct_fields__}
    found["tags"] = row.tags.split(",") if row.tags else []
    found["trace"] = msgspec.Raw(row.trace) if row.trace else None
    found["attempts"] = [
        {name: value for name, value in msgspec.structs.asdict(attempt).items() if name not in ("id", "request_id")}
        for attempt in row.attempts
    ]
    return found


# A row says "model" for what was asked, as everything else a client sees does.
_NAMES = {"id": "request_id", "asked": "model", "model": "target_model"}
_FIELDS = [_NAMES.get(name, name) for name in RequestRow.__struct_fields__]
