"""How a question about time is answered from sums over whole spans of it; the same for every kind of store."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from penstock.stores.base.usage import DAY, HOUR, Dimension, UsageLine, UsageQuery
from penstock.stores.batch import SPANS

_LAST = 2**48 - 1  # milliseconds: twelve hexadecimal digits
_END = _LAST // 1000 // DAY * DAY  # no request begins later


def pieces(query: UsageQuery) -> list[tuple[int, int, int]]:
    """Span, beginning and end of the sums that together make up the query's time: days, and hours around them."""
    since = math.floor(max(query.since, 0) / HOUR) * HOUR
    until = _END if query.until >= _END else math.ceil(query.until / HOUR) * HOUR
    first, last = math.ceil(since / DAY) * DAY, until // DAY * DAY
    if "hour" in query.by or first >= last:
        found = [(HOUR, since, until)]
    else:
        found = [(HOUR, since, first), (DAY, first, last), (HOUR, last, until)]
    return [(span, begin, end) for span, begin, end in found if begin < end]


def span_within(seconds: float) -> int | None:
    """The longest span that is summed over and is not longer; None if there is none."""
    return max((span for span in SPANS if span <= seconds), default=None)


def id_at(moment: float) -> str:
    """Where the ids of requests begin that began then or later: they start with their time in milliseconds."""
    if moment * 1000 > _LAST:
        return "req_g"  # above every hexadecimal digit
    return f"req_{max(0, math.ceil(moment * 1000)):012x}"


def group_of(by: Sequence[Dimension], values: Sequence[Any]) -> tuple[str, ...]:
    """A sum's group as it is shown, where hours and days are the seconds in which they begin."""
    return tuple(_shown(dimension, value) for dimension, value in zip(by, values, strict=False))


def tagged(sums: Iterable[tuple[str, Sequence[int]]]) -> tuple[UsageLine, ...]:
    """A line for each tag, of sums by all tags of a request; one with several tags counts for each."""
    found: dict[str, list[int]] = {}
    for tags, figures in sums:
        for tag in set(tags.split(",")):
            before = found.get(tag)
            found[tag] = list(figures) if before is None else list(map(int.__add__, before, figures))
    return tuple(UsageLine((tag,), *found[tag]) for tag in sorted(found))


def _shown(dimension: Dimension, value: Any) -> str:
    if dimension == "day":
        return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d")
    if dimension == "hour":
        return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%dT%H:%MZ")
    return str(value)
