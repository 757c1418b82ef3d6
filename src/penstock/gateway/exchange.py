"""The exchange: the one mutable object of a request, on which stages note what the record will say."""

from __future__ import annotations

from penstock.types import Attempt, Principal, Target, Usage


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
    first_event: float | None = None  # monotonic clock
    client = ""
    client_request_id: str | None = None

    def __init__(self, request_id: str, started: float, started_at: float) -> None:
        self.request_id = request_id
        self.started = started  # monotonic clock: a loop's own may be cut to milliseconds
        self.started_at = started_at  # Unix seconds
        self.attempts: list[Attempt] = []
