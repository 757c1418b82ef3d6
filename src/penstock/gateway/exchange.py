"""The exchange: the one mutable object of a request, on which stages note what the record will say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from penstock.types import Attempt, Claim, Dropped, Principal, Replay, Target, Usage


class Held(Protocol):
    """What was taken of limits for a request: `claim`, of the lease of that id. `held`: it has not been let go of."""

    lease: str
    claim: Claim
    held: bool

    def release(self, usage: Usage | None = None) -> None:
        """Nothing is sent for it any more."""
        ...

    def cancel(self) -> None:
        """Nothing was sent for it at all."""
        ...

    def lines(self, now: float) -> bytes:
        """The header lines that tell what is left."""
        ...


class Exchange:
    """One request in flight."""

    # Defaults stand on the class, since setting them for each request is a cost.
    principal: Principal | None = None  # once the key is known
    target: Target | None = None
    endpoint = ""  # one of a fixed set, where an upstream is to answer
    stream = False
    status = 500  # with "failed": what the record says unless a stage knows better
    ended = "failed"
    code: str | None = None
    usage: Usage | None = None
    spent: Usage | None = None  # by attempts of an answer that another goes on with
    rescue = ""  # what became of an answer that broke off
    first_event: float | None = None  # monotonic clock
    client = ""
    patience = float("inf")  # monotonic clock: when the caller will have gone, if nothing has come by then
    calls = 0  # attempts begun
    lined = 0.0  # seconds spent in line before targets that are pressed
    waited = 0.0  # seconds waited before the attempt that answers
    stopped = ""  # why no other attempt was made
    hold: Held | None = None  # what was reserved for it
    tags: tuple[str, ...] = ()  # as the client named them
    finish = ""  # the finish_reason of the answer
    room = 0  # bytes that are kept for it in the journal
    begun = False  # an attempt is in the journal
    journaled = 0  # attempts whose end is
    dropped: tuple[Dropped, ...] = ()  # targets that were not considered, and why
    client_request_id: str | None = None
    reading_on = False  # its client has gone, and its answer is read on for the usage
    close: Callable[[], None]  # to be called at the end of that: makes the record
    whole: tuple[bytes, bytes] | None = None  # what came of that, of an answer that is not streamed: head and body
    on_whole: Callable[[Replay | None], None] | None = None  # where a repeat is to get the same: told before the end

    def __init__(self, request_id: str, started: float, started_at: float) -> None:
        self.request_id = request_id
        self.started = started  # monotonic clock: a loop's own may be cut to milliseconds
        self.started_at = started_at  # Unix seconds
        self.attempts: list[Attempt] = []
