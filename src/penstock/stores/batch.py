"""Rows of the ledger as columns, and the sums that they add to.

A request's texts that repeat (whose, of what, answered by whom, at which prices) are kept once, as a *series*; the rows
of requests, of attempts and of sums name it by its number. That makes rows half as large, and a sum over a year an
addition of few numbers.

Everything here is written for the number of rows. What is not known goes to the driver as a value that cannot be,
NOTHING or an empty text, for SQLite's takes three times as long over a None as over all else; the statements turn
NOTHING into NULL.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain, product
from typing import Any, Final, TypeAlias, get_args

from msgspec.structs import astuple

from penstock.stores.base.ledger import AttemptRow, RequestRow, State, TokenSource
from penstock.stores.base.usage import DAY, HOUR, SIX_MINUTES

Series: TypeAlias = tuple[str, str, str, str, str, str, str, str]
Values: TypeAlias = tuple[Any, ...]

SERIES: Final = ("key_id", "project_id", "endpoint", "asked", "route", "provider", "model", "price_version")
TOKENS: Final = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")
PLAIN: Final = (
    *("id", "series", "started_at", "stream", "status", "ended", "finish", *TOKENS, "sources", "cost_nanos"),
    *("duration_ms", "first_event_ms"),
)
REQUEST: Final = (*PLAIN, "code", "tags", "end_user", "safety_identifier", "trace")  # which are empty in most rows
ATTEMPT: Final = (
    *(
        "request_id",
        "number",
        "series",
        "status",
        "outcome",
        *TOKENS,
        "sources",
        "cost_nanos",
        "duration_ms",
        "wait_ms",
    ),
)
SUMS: Final = ("requests", *TOKENS, "estimated_tokens", "partial_tokens", "cost_nanos", "unpriced")
UNKNOWN: Final = ("cost_nanos", "duration_ms", "first_event_ms")  # may be NULL
NOTHING: Final = -1

SPANS: Final = (SIX_MINUTES, HOUR, DAY)  # what is summed over

# One number for the source of the prompt's tokens, that of the completion's, and whether the row is whole.
SOURCES: Final[Mapping[tuple[str, str, str], int]] = {
    kinds: number for number, kinds in enumerate(product(get_args(State), get_args(TokenSource), get_args(TokenSource)))
}
KINDS: Final = tuple(SOURCES)

# Above these a figure is not believed, for the sums of many must stay below 2**63.
MOST_TOKENS: Final = 2**40
MOST_NANOS: Final = 2**50

_P, _CACHED, _C, _REASONING, _SOURCES, _COST = (REQUEST.index(name) for name in (*TOKENS, "sources", "cost_nanos"))
_SERIES, _STARTED = REQUEST.index("series"), REQUEST.index("started_at")


class Unnumbered(Exception):
    """Some series have no number yet."""

    def __init__(self, series: Collection[Series]) -> None:
        super().__init__(len(series))
        self.series = series


class Batch:
    """Rows as tuples: of requests, `plain` ones in the order of PLAIN and others of REQUEST; of attempts of ATTEMPT."""

    def __init__(self, plain: list[Values], detailed: list[Values], attempts: list[Values]) -> None:
        self.plain = plain
        self.detailed = detailed
        self.attempts = attempts

    def __len__(self) -> int:
        return len(self.plain) + len(self.detailed)

    def without(self, ids: Collection[str]) -> Batch:
        """The same without the requests of these ids, and each request and attempt once."""
        requests: dict[str, Values] = {}
        for values in chain(self.plain, self.detailed):
            if values[0] not in ids:
                requests.setdefault(values[0], values)
        attempts: dict[tuple[str, int], Values] = {}
        for values in self.attempts:
            if values[0] in requests:
                attempts.setdefault(values[:2], values)
        plain = [values for values in requests.values() if len(values) == len(PLAIN)]
        detailed = [values for values in requests.values() if len(values) > len(PLAIN)]
        return Batch(plain, detailed, list(attempts.values()))

    def ids(self) -> list[str]:
        return [values[0] for values in chain(self.plain, self.detailed)]

    def sums(self) -> list[Values]:
        """What the requests add to the sums: span, beginning, series, and the figures in the order of SUMS.

        In one order whatever the batch, so that two writers never wait for each other crosswise.
        """
        groups: dict[tuple[int, int], list[Values]] = {}
        for values in chain(self.plain, self.detailed):
            group = (int(values[_STARTED]) // SIX_MINUTES, values[_SERIES])
            if group in groups:
                groups[group].append(values)
            else:
                groups[group] = [values]
        found = [(number * SIX_MINUTES, series, _figures(rows)) for (number, series), rows in sorted(groups.items())]
        if found and found[0][0] == found[-1][0]:  # as nearly always: then it adds the same to all spans
            return [
                (span, begin - begin % span, series, *figures) for span in SPANS for begin, series, figures in found
            ]
        totals: dict[tuple[int, int, int], Values] = {}
        for begin, series, figures in found:
            for span in SPANS:
                place = (span, begin - begin % span, series)
                before = totals.get(place)
                totals[place] = figures if before is None else tuple(map(int.__add__, before, figures))
        return [(*place, *totals[place]) for place in sorted(totals)]


def batch(rows: Iterable[RequestRow], numbers: Mapping[Series, int]) -> Batch:
    """The rows as columns. `numbers`: of the series; raises Unnumbered with those that it lacks."""
    plain: list[Values] = []
    detailed: list[Values] = []
    attempts: list[Values] = []
    missing: set[Series] = set()
    sources = SOURCES
    for row in rows:
        # fmt: off
        (
            id_, started_at, key_id, project_id, endpoint, asked, route, provider, model, stream, status, ended, code,
            finish, prompt, cached, completion, reasoning, of_prompt, of_completion, cost, price, duration, first,
            tags, user, safety, trace, state, tries,
        ) = astuple(row)
        # fmt: on
        series = (key_id, project_id, endpoint, asked, route, provider, model, price)
        number = numbers.get(series)
        if number is None:
            missing.add(series)
        if prompt + cached + completion + reasoning > MOST_TOKENS or (cost is not None and cost > MOST_NANOS):
            prompt, cached, completion, reasoning, cost = _bounded(prompt, cached, completion, reasoning, cost)
        # fmt: off
        values = (
            id_, number, started_at, 1 if stream else 0, status, ended, finish, prompt, cached, completion, reasoning,
            sources[state, of_prompt, of_completion], -1 if cost is None else cost,
            -1.0 if duration is None else duration, -1.0 if first is None else first,
        )
        # fmt: on
        if code or tags or user or safety or trace:
            detailed.append((*values, code or "", tags, user or "", safety or "", trace.decode()))
        else:
            plain.append(values)
        for attempt in tries:
            # fmt: off
            (
                _, request_id, place, its_provider, its_model, status, outcome, prompt, cached, completion, reasoning,
                of_prompt, of_completion, cost, its_price, duration, wait, state,
            ) = astuple(attempt)
            # fmt: on
            its = number
            if its_provider != provider or its_model != model or its_price != price:
                series = (key_id, project_id, endpoint, asked, route, its_provider, its_model, its_price)
                its = numbers.get(series)
                if its is None:
                    missing.add(series)
            if prompt + cached + completion + reasoning > MOST_TOKENS or (cost is not None and cost > MOST_NANOS):
                prompt, cached, completion, reasoning, cost = _bounded(prompt, cached, completion, reasoning, cost)
            # fmt: off
            attempts.append((
                request_id, place, its, status, outcome, prompt, cached, completion, reasoning,
                sources[state, of_prompt, of_completion],
                -1 if cost is None else cost, -1.0 if duration is None else duration, wait,
            ))
            # fmt: on
    if missing:
        raise Unnumbered(missing)
    return Batch(plain, detailed, attempts)


def _bounded(*figures: int | None) -> Iterator[int | None]:
    *tokens, cost = figures
    yield from (min(count or 0, MOST_TOKENS) for count in tokens)
    yield None if cost is None else min(cost, MOST_NANOS)


def _figures(rows: Sequence[Values]) -> tuple[int, ...]:
    """The figures of some rows together, in the order of SUMS."""
    if len(rows) == 1 and not rows[0][_SOURCES]:  # as most are where many keys call
        row = rows[0]
        priced = row[_COST] != NOTHING
        cost = row[_COST] if priced else 0
        return 1, row[_P], row[_CACHED], row[_C], row[_REASONING], 0, 0, cost, 0 if priced else 1
    columns = tuple(zip(*rows, strict=False))  # of plain ones the others have the columns, too
    costs = columns[_COST]
    unpriced = costs.count(NOTHING)
    estimated = partial = 0
    if any(columns[_SOURCES]):
        for row in rows:
            _, of_prompt, of_completion = KINDS[row[_SOURCES]]
            for source, tokens in ((of_prompt, row[_P]), (of_completion, row[_C])):
                if source == "estimated":
                    estimated += tokens
                elif source == "partial":
                    partial += tokens
    return (
        len(rows),
        sum(columns[_P]),
        sum(columns[_CACHED]),
        sum(columns[_C]),
        sum(columns[_REASONING]),
        estimated,
        partial,
        sum(costs) + unpriced,
        unpriced,
    )


def request_of(values: Sequence[Any], series: Series, attempts: Sequence[AttemptRow]) -> RequestRow:
    """A row as it was stored, of its columns in the order of REQUEST, None where nothing is known."""
    # fmt: off
    (
        id_, _, started_at, stream, status, ended, finish, prompt, cached, completion, reasoning, sources, cost,
        duration, first, code, tags, user, safety, trace,
    ) = values
    key_id, project_id, endpoint, asked, route, provider, model, price = series
    state, of_prompt, of_completion = KINDS[sources]
    return RequestRow(
        id_, started_at, key_id, project_id, endpoint, asked, route, provider, model, bool(stream), status, ended,
        code or None, finish, prompt, cached, completion, reasoning,
        of_prompt, of_completion,
        cost, price, duration, first, tags, user or None, safety or None, trace.encode(),
        state,
        tuple(attempts),
    )
    # fmt: on


def attempt_of(values: Sequence[Any], provider: str, model: str, price_version: str) -> AttemptRow:
    """An attempt as it was stored, of its columns in the order of ATTEMPT."""
    # fmt: off
    (
        request_id, number, _, status, outcome, prompt, cached, completion, reasoning, sources, cost, duration, wait,
    ) = values
    state, of_prompt, of_completion = KINDS[sources]
    return AttemptRow(
        f"{request_id}/{number}", request_id, number, provider, model, status, outcome, prompt, cached, completion,
        reasoning,
        of_prompt, of_completion,
        cost, price_version, duration, wait,
        state,
    )
    # fmt: on
