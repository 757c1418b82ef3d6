"""`penstock check`: holds anyone's OpenAI-compatible server to the wire contract, and says which clients it breaks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from penstock.check import report
from penstock.check.ask import CannotRun, Settings
from penstock.check.catalogue import select
from penstock.check.client import Place, parse_place
from penstock.check.row import Row
from penstock.check.run import FAILED, Finding, Report, Run, Watcher, redact
from penstock.check.verdict import plain
from penstock.data_dir import DataDirError, read_secret

WIDTH = 120  # of a report that goes to a file
COULD_NOT_RUN = 2


class _Progress(Watcher):
    """A line on the terminal: which row, how many, how many failed."""

    def __init__(self, progress: Progress, count: int) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=count, row="", failed=0)
        self._failed = 0
        self._row = ""

    def begins(self, row: Row, number: int, count: int) -> None:
        self._row = f"{row.id} {row.asks}"
        self._progress.update(self._task, row=self._row)

    def ended(self, finding: Finding) -> None:
        self._failed += finding.result == FAILED
        self._progress.update(self._task, advance=1, failed=self._failed)

    def told(self, text: str) -> None:
        self._progress.update(self._task, row=f"{self._row}: {text}")


def _place(context: click.Context, parameter: click.Parameter, value: str) -> Place:
    try:
        return parse_place(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is no base URL such as http://127.0.0.1:8000/v1: {error}") from None


def _names(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    return tuple(name.strip().upper() for name in value.split(",") if name.strip())


@click.command("check")
@click.argument("place", metavar="URL", callback=_place)
@click.option("--model", help="The model to ask. Default: the first that the server lists.")
@click.option("--key", envvar="PENSTOCK_CHECK_KEY", show_envvar=True, help="The API key; a file is safer.")
@click.option("--key-file", type=click.Path(path_type=Path), metavar="FILE", help="A file that holds the API key.")
@click.option("--only", default="", callback=_names, metavar="A,I07", help="Only these rows and sections.")
@click.option("--level", "levels", default="", callback=_names, metavar="M,S,O,P", help="Only rows of these levels.")
@click.option("--tokens", default=20_000, show_default=True, type=click.IntRange(1), help="The budget, never exceeded.")
@click.option("--max-requests", default=600, show_default=True, type=click.IntRange(1), help="The most requests.")
@click.option("--pace", default=0.0, type=click.FloatRange(0), metavar="SECONDS", help="Time between two requests.")
@click.option(
    "--timeout", default=60.0, show_default=True, type=click.FloatRange(1), help="Seconds of silence to bear."
)
@click.option("--heavy", is_flag=True, help="Also rows that cost the server much: huge bodies, long waits.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
def check_url(place: Place, key: str | None, key_file: Path | None, **options: Any) -> None:
    """Hold the OpenAI-compatible server at URL to the wire contract, row by row.

    URL is what an SDK takes as its base URL. For each row that fails the report says what was expected, what came, why
    it matters and which client breaks. Requests go out one at a time and ask for a few tokens each; nothing is stored,
    and the key is shown nowhere.

    Levels: M, a client breaks; S, OpenAI's document says so; O, OpenAI does so; P, servers differ, and the row only
    informs.

    Exit status: 0 when nothing failed, 1 when a row failed, 2 when the check could not run or not to its end.

    \b
    Examples:
      penstock check http://127.0.0.1:8000/v1 --model gpt-5.4 --key-file key.txt
      penstock check http://127.0.0.1:8000/v1 --only A,I07 --level M
      penstock check http://127.0.0.1:8000/v1 --tokens 5000 --pace 0.5 --json > report.json
    """
    only, levels, as_json = options["only"], options["levels"], options["as_json"]
    try:
        rows = select(only, levels)
    except ValueError as error:
        raise click.UsageError(f"{error}.") from None
    if not rows:
        raise click.UsageError("There is no row of that level among these.")
    settings = Settings(
        place=place,
        key=_key(key, key_file),
        model=options["model"],
        tokens=options["tokens"],
        requests=options["max_requests"],
        patience=options["timeout"],
        pace=options["pace"],
    )
    try:
        found = _run(rows, settings, options["heavy"])
    except CannotRun as error:
        raise _give_up(settings, str(error), as_json) from None
    if as_json:
        click.echo(report.as_json(found))
    else:
        console = Console()
        report.show_report(found, console if console.is_terminal else Console(width=WIDTH))
    raise SystemExit(found.exit_status)


def _run(rows: Sequence[Row], settings: Settings, heavy: bool) -> Report:
    screen = Console(stderr=True)
    columns = (MofNCompleteColumn(), BarColumn(20), TextColumn("{task.fields[failed]} failed"))
    progress = Progress(
        *columns, TextColumn("{task.fields[row]}", markup=False), console=screen, transient=True, expand=True
    )
    shown: AbstractContextManager[object] = progress if screen.is_terminal else nullcontext()
    running = Run(rows, settings, heavy=heavy, watcher=_Progress(progress, len(rows)))
    try:
        with shown:
            return asyncio.run(running.go())
    except KeyboardInterrupt:
        return running.report("it was interrupted")


def _give_up(settings: Settings, reason: str, as_json: bool) -> SystemExit:
    reason = plain(redact(reason, settings.secret))
    if as_json:
        told = {"url": settings.place.url, "exit_status": COULD_NOT_RUN, "stopped": reason}
        click.echo(msgspec.json.encode(told).decode())
    else:
        click.echo(f"The check of {settings.place.url} could not run: {reason}.", err=True)
    return SystemExit(COULD_NOT_RUN)


def _key(key: str | None, file: Path | None) -> str | None:
    if file is not None:
        try:
            key = read_secret(file)
        except DataDirError as error:
            raise click.UsageError(f"{error}.") from None
        if key is None:
            raise click.UsageError(f"There is no key in {file}.")
    if not key:
        return None
    if not key.isascii() or not key.isprintable() or " " in key:
        raise click.UsageError("What was given as the key is none: it holds other characters than a key may.")
    return key
