"""What is asked of the ledger: what was used, by whom and of what; and what is kept of it, and for how long.

Rows are stored by `base.ledger`. In the same transaction each really new row is added to sums, by the hour and by the
day, which are kept for ever and answer nearly every question; rows may be deleted after a time. All times are Unix
seconds, all hours and days those of UTC; a request belongs to the moment in which it began.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Literal, Protocol

import msgspec

from penstock.limits import Limit
from penstock.stores.base.ledger import LedgerWriter, RequestRow

Dimension = Literal["key", "project", "model", "provider", "target", "endpoint", "hour", "day", "tag"]

SIX_MINUTES, HOUR, DAY = 360, 3600, 86_400


class UsageQuery(msgspec.Struct, frozen=True):
    """Sums, one for each combination of what `by` names; of `key_id` or `project_id` alone where given.

    model: as asked; provider and target: who answered. The time is rounded to whole hours: `since` down, `until` up.
    By tag, which stands alone, the rows are read instead of sums: they are counted to the millisecond, once for each
    tag that they have, those without one as "", and only as far back as they are kept.
    """

    by: tuple[Dimension, ...] = ()
    since: float = 0.0
    until: float = float("inf")
    key_id: str | None = None
    project_id: str | None = None


class UsageLine(msgspec.Struct, frozen=True):
    """One sum. `group`: a value for each of the query's `by`: ids and names as they are kept, an hour as
    2026-11-01T13:00Z, a day as 2026-11-01. Cached tokens are among those of the prompt, reasoning among those of the
    completion.

    `estimated_tokens`, `partial_tokens`: how many of prompt and completion nobody reported. `cost_nanos`: nano-dollars
    of the requests whose price is known; `unpriced` is how many have none.
    """

    group: tuple[str, ...]
    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    estimated_tokens: int = 0
    partial_tokens: int = 0
    cost_nanos: int = 0
    unpriced: int = 0


class RowQuery(msgspec.Struct, frozen=True):
    """Requests that began from `since` to before `until`, to the millisecond; of one key or project where given."""

    since: float = 0.0
    until: float = float("inf")
    key_id: str | None = None
    project_id: str | None = None


class Ledger(LedgerWriter, Protocol):
    """The whole ledger. Every method may raise StoreUnavailable, and has then changed nothing."""

    async def usage(self, query: UsageQuery) -> tuple[UsageLine, ...]:
        """The sums, in the order of their groups."""
        ...

    async def spent(self, limit: Limit, since: float, span: float) -> Sequence[tuple[float, int]]:
        """What was used of what `limit` counts since then: the time and the amount of sums over at most `span` seconds,
        or over one, oldest first. Never too little: a sum that `since` cuts is there whole, and its time is its latest
        moment.

        Requests whose price is not known cost nothing, and slots leave no trace. Below six minutes rows are summed up,
        which needs them to be kept, and is meant for a few minutes.
        """
        ...

    def rows(self, query: RowQuery) -> AsyncIterator[RequestRow]:
        """The rows, with their attempts, in the order of their ids, which is that of time. Few are held at once; what
        is stored or deleted meanwhile may be among them or not."""
        ...

    async def prune(self, before: float, most: int) -> int:
        """Delete the rows of requests that began before that time, with their attempts, at most `most` of them; how
        many were. Sums stay."""
        ...

    async def trim(self, before: float) -> None:
        """Drop the sums over six minutes before that time, which only windows of a day are counted from."""
        ...

    async def close(self) -> None:
        """Free what it holds. No call may follow."""
        ...
