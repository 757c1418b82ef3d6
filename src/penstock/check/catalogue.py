"""All rows, in the order of the contract, and the choice among them."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.check.row import LEVELS, Row
from penstock.check.rows import access, endings, formats, http, messages, parameters, reasoning, shape, streams, tools

SECTIONS = {
    "A": "HTTP and envelope",
    "B": "Keys",
    "C": "Models",
    "D": "Answers",
    "E": "Messages",
    "F": "Parameters",
    "G": "Tools",
    "H": "Structured output",
    "I": "Streams",
    "J": "Endings",
    "K": "Limits and repeats",
    "N": "Reasoning models",
}

ROWS: tuple[Row, ...] = tuple(
    sorted(
        (
            row
            for module in (
                *(access, endings, formats, http, messages),
                *(parameters, reasoning, shape, streams, tools),
            )
            for row in module.ROWS
        ),
        key=lambda row: row.id,
    )
)


def select(only: Sequence[str] = (), levels: Sequence[str] = ()) -> tuple[Row, ...]:
    """The rows whose id or section is among `only` and whose level is among `levels`; nothing given is everything.

    Raises ValueError for a name that is no row, section or level.
    """
    known = {row.id for row in ROWS} | set(SECTIONS)
    for name in only:
        if name not in known:
            raise ValueError(f"{name!r} is neither a row such as I07 nor a section ({', '.join(SECTIONS)})")
    for level in levels:
        if level not in LEVELS:
            raise ValueError(f"{level!r} is no level: they are {', '.join(LEVELS)}")
    return tuple(
        row for row in ROWS if (not only or row.id in only or row.id[0] in only) and (not levels or row.level in levels)
    )
