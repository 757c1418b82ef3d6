"""The exchange: the one mutable object of a request, on which stages note what the record will say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from penstock.types import Attempt, Claim, Dropped, Principal, Replay, Target, Usage

NEVER = float("inf")


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

    __slots__ = (
        *("attempts", "begun", "calls", "client", "client_request_id", "close", "code"),
        *("dropped", "ended", "endpoint", "finish", "first_event", "hold", "journaled"),
        *("lined", "on_whole", "patience", "principal", "reading_on", "request_id", "rescue"),
        *("room", "spent", "started", "started_at", "status", "stopped", "stream"),
        *("tags", "target", "usage", "waited", "whole"),
    )

    close: Callable[[], None]  # to be called at the end of what is read on: makes the record

    def __init__(self, request_id: str, started: float, started_at: float) -> None:
        self.request_id = request_id
        self.started = started  # monotonic clock: a loop's own may be cut to milliseconds
        self.started_at = started_at  # Unix seconds
        self.attempts: list[Attempt] = []
        self.principal: Principal | None = None  # once the key is known
        self.target: Target | None = None
        self.endpoint = ""  # one of a fixed set, where an upstream is to answer
        self.stream = False
        self.status = 500  # with "failed": what the record says unless a stage knows better
        self.ended = "failed"
        self.code: str | None = None
        self.usage: Usage | None = None
        self.spent: Usage | None = None  # by attempts of an answer that another goes on with
        self.rescue = ""  # what became of an answer that broke off
        self.first_event: float | None = None  # monotonic clock
        self.client = ""
        self.patience = NEVER  # monotonic clock: when the caller will have gone, if nothing has come by then
        self.calls = 0  # attempts begun
        self.lined = 0.0  # seconds spent in line before targets that are pressed
        self.waited = 0.0  # seconds waited before the attempt that answers
        self.stopped = ""  # why no other attempt was made
        self.hold: Held | None = None  # what was reserved for it
        self.tags: tuple[str, ...] = ()  # as the client named them
        self.finish = ""  # the finish_reason of the answer
        self.room = 0  # bytes that are kept for it in the journal
        self.begun = False  # an attempt is in the journal
        self.journaled = 0  # attempts whose end is
        self.dropped: tuple[Dropped, ...] = ()  # targets that were not considered, and why
        self.client_request_id: str | None = None
        self.reading_on = False  # its client has gone, and its answer is read on for the usage
        self.whole: tuple[bytes, bytes] | None = None  # of what was read on, not streamed: head and body
        self.on_whole: Callable[[Replay | None], None] | None = None  # for repeats: told before the end
