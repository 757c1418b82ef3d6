"""What a store of the ledger does, whatever holds it: rows of requests and their attempts, written once and never
changed.

The rows come from journals, which are files that a worker appends to. A journal is read again after a crash, so
whatever is stored says how far its journal has been read, in the same transaction: what lies before that mark is
never stored twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Final, Literal, Protocol, TypeAlias, get_args

import msgspec

TokenSource = Literal["reported", "estimated", "partial"]
State = Literal["complete", "partial"]

# One number for whether a row is whole, the source of the prompt's tokens, and that of the completion's.
SOURCES: Final[Mapping[tuple[State, TokenSource, TokenSource], int]] = {
    kinds: number for number, kinds in enumerate(product(get_args(State), get_args(TokenSource), get_args(TokenSource)))
}
KINDS: Final = tuple(SOURCES)

NOTHING: Final = -1  # a figure that is not known, of a brief row

# Above these a figure is not believed, for the sums of many must stay below 2**63.
MOST_TOKENS: Final = 2**40  # of all kinds together
MOST_NANOS: Final = 2**50

Series: TypeAlias = tuple[str, str, str, str, str, str, str, str]
"""The texts of a request that repeat: key, project, endpoint, model as asked, route, provider, its model, prices."""


class AttemptRow(msgspec.Struct, frozen=True, gc=False):
    """One call to an upstream. `id`: that of its request, a slash, and its number in the request's trace, from 1.

    `outcome`: as of `types.Attempt`; "unknown" where `state` is partial: its worker ended before it did. Tokens: cached
    ones are among those of the prompt, reasoning among those of the completion, and each pair has one source. `partial`
    tokens are what was seen, or in a partial row what had been reserved. `cost_nanos`: nano-dollars, None where the
    price is not known. `wait_ms`: since the attempt before.
    """

    id: str
    request_id: str
    number: int
    provider: str
    model: str
    status: int
    outcome: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    prompt_source: TokenSource
    completion_source: TokenSource
    cost_nanos: int | None
    price_version: str
    duration_ms: float | None
    wait_ms: float
    state: State


class RequestRow(msgspec.Struct, frozen=True, gc=False):
    """One request of which at least one attempt was begun. `id` is the answer's ``x-request-id``, and sorts by time.

    `started_at`: Unix seconds. `asked`: the model's name as the client gave it; `route` the configured name or pattern
    that it matched; `provider` and `model` who answered, or was tried last. `ended`: as of `types.Record`; "lost" where
    `state` is partial. `finish`: the answer's finish_reason, empty if none is known. Tokens and cost: of all its
    attempts together; a cost is None if that of any is. `tags`: separated by commas, empty if none. `trace`: JSON, all
    that was decided: attempts, skipped targets, why it stopped, what became of a rescue; empty where the first target
    was called and that was all.
    """

    id: str
    started_at: float
    key_id: str
    project_id: str
    endpoint: str
    asked: str
    route: str
    provider: str
    model: str
    stream: bool
    status: int
    ended: str
    code: str | None
    finish: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    prompt_source: TokenSource
    completion_source: TokenSource
    cost_nanos: int | None
    price_version: str
    duration_ms: float | None
    first_event_ms: float | None
    tags: str
    user: str | None
    safety_identifier: str | None
    trace: bytes
    state: State
    attempts: tuple[AttemptRow, ...]


Brief: TypeAlias = tuple[str, Series, float, int, str, int, int, int, int, int, float, float, float, int]
"""A request as nearly all are, in a form that costs little: its one attempt answered it with 200, to the end, and that
is all there is to tell. Its values are id, series, started_at, stream, finish, the tokens of prompt, cached, completion
and reasoning, their sources as SOURCES numbers them, first_event_ms, duration_ms, the attempt's, and cost_nanos. What
is not known is NOTHING, and the figures are believed."""

LedgerRow: TypeAlias = RequestRow | Brief


def row_of(row: LedgerRow) -> RequestRow:
    """The same with all its values."""
    if isinstance(row, RequestRow):
        return row
    # fmt: off
    (
        id_, series, started_at, stream, finish, prompt, cached, completion, reasoning, sources, first, took, its, cost,
    ) = row
    key_id, project_id, endpoint, asked, route, provider, model, price = series
    state, of_prompt, of_completion = KINDS[sources]
    nanos = None if cost == NOTHING else cost
    first_event = None if first == NOTHING else first
    # By position, in the order of the declaration: names would cost as much as the rest.
    attempt = AttemptRow(
        f"{id_}/1", id_, 1, provider, model, 200, "ok", prompt, cached, completion, reasoning,
        of_prompt, of_completion, nanos, price, its, 0.0, state,
    )
    return RequestRow(
        id_, started_at, key_id, project_id, endpoint, asked, route, provider, model, bool(stream), 200, "ok", None,
        finish, prompt, cached, completion, reasoning, of_prompt, of_completion, nanos, price, took, first_event,
        "", None, None, b"", state, (attempt,),
    )
    # fmt: on


class Mark(msgspec.Struct, frozen=True):
    """How far a journal has been stored. `position` only ever grows."""

    journal: str
    position: int


class LedgerWriter(Protocol):
    """Takes rows. Every method may raise StoreUnavailable, and has then changed nothing."""

    async def store(self, rows: Sequence[LedgerRow], marks: Sequence[Mark]) -> None:
        """Add the rows, and set the marks, in one transaction. A row whose id is there already is left as it is."""
        ...

    async def sync(self) -> None:
        """Return when all that was stored would survive a loss of power: no journal is deleted before."""
        ...

    async def marks(self) -> Mapping[str, int]:
        """The position of every journal that is not forgotten."""
        ...

    async def forget(self, journals: Sequence[str]) -> None:
        """Drop the marks of journals that are no more. Idempotent."""
        ...
