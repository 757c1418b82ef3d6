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
from itertools import chain
from typing import Any, Final, TypeAlias

from msgspec.structs import astuple

from penstock.stores.base.ledger import (
    KINDS,
    MOST_NANOS,
    MOST_TOKENS,
    NOTHING,
    SOURCES,
    AttemptRow,
    Brief,
    LedgerRow,
    RequestRow,
    Series,
    row_of,
)
from penstock.stores.base.usage import DAY, HOUR, SIX_MINUTES

Groups: TypeAlias = "dict[tuple[int, int], Values]"
"""By the number of six minutes and that of a series: figures in the order of SUMS."""
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
_BRIEF: Final = (  # the columns of either table that a brief row has values for, in its order
    *("id", "series", "started_at", "stream", "finish", *TOKENS, "sources", "first_event_ms", "duration_ms"),
    *("attempt_ms", "cost_nanos"),
)
BRIEF_REQUEST: Final = tuple(name for name in _BRIEF if name != "attempt_ms")
BRIEF_ATTEMPT: Final = ("request_id", "series", *TOKENS, "sources", "duration_ms", "cost_nanos")
_OF_ATTEMPT: Final = tuple(
    _BRIEF.index({"request_id": "id", "duration_ms": "attempt_ms"}.get(name, name)) for name in BRIEF_ATTEMPT
)
SUMS: Final = ("requests", *TOKENS, "estimated_tokens", "partial_tokens", "cost_nanos", "unpriced")
UNKNOWN: Final = ("cost_nanos", "duration_ms", "first_event_ms")  # may be NULL
SPANS: Final = (SIX_MINUTES, HOUR, DAY)  # what is summed over

_WIDTH = len(_BRIEF)
_FIGURES = tuple(_BRIEF.index(name) for name in (*TOKENS, "cost_nanos", "sources"))  # in the order of `_totals`
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

    def sums(self, more: Groups | None = None) -> list[Values]:
        """What the requests add to the sums: span, beginning, series, and the figures in the order of SUMS.

        In one order whatever the batch, so that two writers never wait for each other crosswise. `more`: of others.
        """
        grouped: dict[tuple[int, int], list[Values]] = {}
        for values in chain(self.plain, self.detailed):
            group = (int(values[_STARTED]) // SIX_MINUTES, values[_SERIES])
            if group in grouped:
                grouped[group].append(values)
            else:
                grouped[group] = [values]
        groups = {group: _figures(rows) for group, rows in grouped.items()}
        for group, figures in (more or {}).items():
            groups[group] = _added(groups.get(group), figures)
        found = [(number * SIX_MINUTES, series, figures) for (number, series), figures in sorted(groups.items())]
        if found and found[0][0] == found[-1][0]:  # as nearly always: then it adds the same to all spans
            return [
                (span, begin - begin % span, series, *figures) for span in SPANS for begin, series, figures in found
            ]
        totals: dict[tuple[int, int, int], Values] = {}
        for begin, series, figures in found:
            for span in SPANS:
                place = (span, begin - begin % span, series)
                totals[place] = _added(totals.get(place), figures)
        return [(*place, *totals[place]) for place in sorted(totals)]


class Briefs:
    """Brief rows, a series as its number."""

    def __init__(self, rows: Sequence[Brief], numbers: Mapping[Series, int]) -> None:
        """Raises Unnumbered."""
        self._flat: list[Any] = list(chain.from_iterable(rows))
        flat = self._flat
        self._rows = rows
        series = flat[1::_WIDTH]
        try:
            flat[1::_WIDTH] = [numbers[one] for one in series]
        except KeyError:
            raise Unnumbered(set(series) - numbers.keys()) from None

    def requests(self) -> list[Any]:
        """The values of their requests in the order of BRIEF_REQUEST, one request after the other."""
        values = self._flat.copy()
        del values[_BRIEF.index("attempt_ms") :: _WIDTH]
        return values

    def attempts(self) -> list[Any]:
        """The values of their attempts in the order of BRIEF_ATTEMPT, one attempt after the other."""
        values = [None] * (len(self._rows) * len(_OF_ATTEMPT))
        for place, place_in_brief in enumerate(_OF_ATTEMPT):
            values[place :: len(_OF_ATTEMPT)] = self._flat[place_in_brief::_WIDTH]
        return values

    def groups(self) -> Groups:
        """Their figures."""
        if not self._rows:
            return {}
        width, flat = _WIDTH, self._flat
        times, series = flat[2::width], flat[1::width]
        columns = [flat[place::width] for place in _FIGURES]
        first = int(min(times)) // SIX_MINUTES
        if series.count(series[0]) == len(series) and int(max(times)) // SIX_MINUTES == first:
            return {(first, series[0]): _totals(*columns)}
        places = [(int(at) // SIX_MINUTES, number) for at, number in zip(times, series, strict=True)]
        grouped: dict[tuple[int, int], list[Values]] = {}
        for place, values in zip(places, zip(*columns, strict=True), strict=True):
            if place in grouped:
                grouped[place].append(values)
            else:
                grouped[place] = [values]
        return {place: _totals(*zip(*values, strict=True)) for place, values in grouped.items()}


def batch(rows: Iterable[LedgerRow], numbers: Mapping[Series, int]) -> Batch:
    """The rows as columns. `numbers`: of the series; raises Unnumbered with those that it lacks."""
    plain: list[Values] = []
    detailed: list[Values] = []
    attempts: list[Values] = []
    missing: set[Series] = set()
    sources = SOURCES
    for row in map(row_of, rows):
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
            sources[state, of_prompt, of_completion], NOTHING if cost is None else cost,
            NOTHING if duration is None else duration, NOTHING if first is None else first,
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
                NOTHING if cost is None else cost, NOTHING if duration is None else duration, wait,
            ))
            # fmt: on
    if missing:
        raise Unnumbered(missing)
    return Batch(plain, detailed, attempts)


def _bounded(*figures: int | None) -> Iterator[int | None]:
    *tokens, cost = figures
    yield from (min(count or 0, MOST_TOKENS) for count in tokens)
    yield None if cost is None else min(cost, MOST_NANOS)


def _figures(rows: Sequence[Values]) -> Values:
    """The figures of some rows together."""
    columns = tuple(zip(*rows, strict=False))  # of plain ones the others have the columns, too
    return _totals(*(columns[place] for place in (_P, _CACHED, _C, _REASONING, _COST, _SOURCES)))


def _totals(
    prompts: Sequence[int],
    cached: Sequence[int],
    completions: Sequence[int],
    reasoning: Sequence[int],
    costs: Sequence[int],
    sources: Sequence[int],
) -> Values:
    """Columns as figures in the order of SUMS."""
    unpriced = costs.count(NOTHING)
    estimated = partial = 0
    if any(sources):
        for kind, prompt, completion in zip(sources, prompts, completions, strict=True):
            _, of_prompt, of_completion = KINDS[kind]
            for source, count in ((of_prompt, prompt), (of_completion, completion)):
                if source == "estimated":
                    estimated += count
                elif source == "partial":
                    partial += count
    tokens = sum(prompts), sum(cached), sum(completions), sum(reasoning)
    return (len(prompts), *tokens, estimated, partial, sum(costs) - NOTHING * unpriced, unpriced)


def _added(before: Values | None, figures: Values) -> Values:
    return figures if before is None else tuple(map(int.__add__, before, figures))


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
