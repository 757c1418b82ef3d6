"""What a store of the ledger does, whatever holds it: rows of requests and their attempts, written once and never
changed.

The rows come from journals, which are files that a worker appends to. A journal is read again after a crash, so
whatever is stored says how far its journal has been read, in the same transaction: what lies before that mark is
never stored twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import msgspec

TokenSource = Literal["reported", "estimated", "partial"]
State = Literal["complete", "partial"]


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


class Mark(msgspec.Struct, frozen=True):
    """How far a journal has been stored. `position` only ever grows."""

    journal: str
    position: int


class LedgerWriter(Protocol):
    """Takes rows. Every method may raise StoreUnavailable, and has then changed nothing."""

    async def store(self, rows: Sequence[RequestRow], marks: Sequence[Mark]) -> None:
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
