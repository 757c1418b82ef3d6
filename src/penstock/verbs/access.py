"""What the verbs of keys, projects and limits share: options, how they are read, errors with a fix, and tables."""

from __future__ import annotations

import re
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, TypeVar

import click
import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from penstock.control.keys import InvalidKey
from penstock.limits import METERS, NANOS, Limit
from penstock.stores.base import (
    Access,
    AmbiguousName,
    KeyExists,
    KeyNotFound,
    KeyRevoked,
    LimitNotFound,
    ProjectArchived,
    ProjectExists,
    ProjectNotFound,
)
from penstock.verbs.stored import Place

T = TypeVar("T")
_NAMES = re.compile(r"\s*,\s*")
_SPAN = re.compile(r"([1-9]\d{0,3})([hdw])")
_HOURS = {"h": 1, "d": 24, "w": 168}

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def use(place: Place, act: Callable[[Access], Awaitable[T]], *, make: bool = False) -> T:
    """What `act` makes of the store; what is wrong with what was asked is told with a fix."""
    try:
        return place.use(lambda stores: act(stores.access), make=make)
    except InvalidKey as error:
        raise usage_error(error) from None
    except KeyNotFound as error:
        raise click.ClickException(f"no key has the id or name {error}: `penstock keys list` shows them.") from None
    except KeyRevoked as error:
        raise click.ClickException(f"{error} is revoked, which is for good: make another key.") from None
    except AmbiguousName as error:
        raise click.ClickException(
            f"several keys are named {error.name!r}: name one by its id, {' or '.join(error.ids)}."
        ) from None
    except KeyExists:
        raise click.ClickException(
            "this key is in the store already, or was revoked, after which it never works again: give another."
        ) from None
    except ProjectNotFound as error:
        raise click.ClickException(
            f"no project has the id or name {error}: `penstock projects list` shows them, `penstock projects create` "
            "makes one."
        ) from None
    except ProjectArchived as error:
        raise click.ClickException(f"the project {error} is archived, which is for good: make another.") from None
    except ProjectExists as error:
        raise click.ClickException(
            f"there is a project named {str(error)!r}: choose another name, or archive that one."
        ) from None
    except LimitNotFound:
        raise click.ClickException("there is no such limit: `penstock limits list` shows them.") from None


def usage_error(error: Exception) -> click.UsageError:
    """A complaint about what was given, as a sentence."""
    return click.UsageError(f"{str(error)[:1].upper()}{str(error)[1:]}.")


# -- what is given


def names(text: str | None, everything: str = "all") -> tuple[str, ...] | None:
    """`a,b`; the word `everything` is for no bounds, which is kept as none. None where nothing was given."""
    if text is None:
        return None
    return () if text.strip() == everything else tuple(_NAMES.split(text.strip()))


def pairs(texts: Sequence[str]) -> dict[str, str]:
    """`name=value` each."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise click.UsageError(f"Metadata is given as name=value; {text!r} has no =.")
        found[name.strip()] = value.strip()
    return found


def moment(text: str, now: datetime) -> float:
    """`30d`, `12h` or `2w` from now, or a date, of which the first second in UTC counts, or a time. Unix seconds."""
    span = _SPAN.fullmatch(text)
    if span is not None:
        return (now + timedelta(hours=int(span[1]) * _HOURS[span[2]])).timestamp()
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise click.UsageError(
            f"{text!r} is no time: give a date (2027-01-31), a time (2027-01-31T18:00) or a span (12h, 30d, 2w)."
        ) from None
    found = found.replace(tzinfo=UTC) if found.tzinfo is None else found
    if found <= now:
        raise click.UsageError(f"{text} has passed: give a time to come. To stop a key now, revoke it.")
    return found.timestamp()


def amount(meter: str, text: str) -> int:
    """In the meter's unit: US dollars become nano-dollars, exactly."""
    if meter not in METERS:
        raise click.UsageError(f"{meter!r} is no meter: give one of {', '.join(METERS)}.")
    money = METERS[meter].unit == "nanos"
    try:
        number = Decimal(text.replace("_", "")) * (NANOS if money else 1)
        whole = number == number.to_integral_value()
    except InvalidOperation:
        number, whole = Decimal(0), False
    if not number.is_finite() or not whole or not 1 <= number < 2**63:
        what = "US dollars above 0, with at most nine decimals" if money else "a whole number above 0"
        raise click.UsageError(f"{meter} takes {what}; {text!r} is not.")
    return int(number)


# -- what is shown


def said(limit: Limit) -> str:
    """The amount and what it counts."""
    meter = METERS[limit.meter]
    number = dollars(limit.amount) if meter.unit == "nanos" else f"{limit.amount:,}"
    return f"{number} {meter.words}"


def dollars(nanos: int) -> str:
    """Nano-dollars in dollars, exactly, with cents at least."""
    whole, rest = divmod(nanos, NANOS)
    return f"{whole}.{f'{rest:09}'.rstrip('0'):0<2}"


def limit_object(limit: Limit) -> dict[str, Any]:
    """What --json shows: `amount` in the meter's `unit`, and of money the dollars as well."""
    meter = METERS[limit.meter]
    shown = {"id": limit.id, **msgspec.structs.asdict(limit), "unit": meter.unit, "period": meter.period}
    return shown | ({"usd": dollars(limit.amount)} if meter.unit == "nanos" else {})


def print_json(value: object) -> None:
    click.echo(msgspec.json.encode(value).decode())


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], folded: Sequence[str] = ()) -> None:
    """`folded`: the columns that may take several lines."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=column not in folded)
    for row in rows:
        table.add_row(*map(Text, row))  # Text, so that brackets in a name are not taken for markup
    # a pipe has no width that the table would have to fit
    Console(width=None if sys.stdout.isatty() else 240).print(table)


def shown_time(seconds: float | None) -> str:
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


def whole(seconds: float | None) -> int | None:
    """A time as JSON shows it."""
    return None if seconds is None else int(seconds)
