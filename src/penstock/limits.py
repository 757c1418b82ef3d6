"""What may be limited: the meters, the scopes they are held in, and a limit as an operator sets it."""

from __future__ import annotations

from typing import Literal

import msgspec

Unit = Literal["requests", "tokens", "nanos", "slots"]
Period = Literal["minute", "day", "month", "lifetime", "held"]
Scope = Literal["project", "key"]


class Meter(msgspec.Struct, frozen=True):
    """A kind of limit. `unit`: what it counts (nanos: nano-dollars; slots: requests in flight). `period`: over what
    time; "held" counts what is in use now. `words` says it to people, after a number.

    `spent`: it is a quota or a budget, so that waiting for seconds does not help. `fails_open`: what is done by default
    while nobody can say what is left: let requests through, or refuse them.
    """

    name: str
    unit: Unit
    period: Period
    words: str
    spent: bool = False
    fails_open: bool = True


METERS = {
    meter.name: meter
    for meter in (
        Meter("rpm", "requests", "minute", "requests per minute"),
        Meter("tpm", "tokens", "minute", "tokens per minute"),
        Meter("concurrency", "slots", "held", "requests at once"),
        Meter("requests_per_day", "requests", "day", "requests per day", spent=True),
        Meter("requests_per_month", "requests", "month", "requests per month", spent=True),
        Meter("tokens_per_day", "tokens", "day", "tokens per day", spent=True),
        Meter("tokens_per_month", "tokens", "month", "tokens per month", spent=True),
        Meter("usd_per_day", "nanos", "day", "US dollars per day", spent=True, fails_open=False),
        Meter("usd_per_month", "nanos", "month", "US dollars per month", spent=True, fails_open=False),
        Meter("usd_total", "nanos", "lifetime", "US dollars in all", spent=True, fails_open=False),
    )
}

NANOS = 1_000_000_000  # nano-dollars in a US dollar


class Limit(msgspec.Struct, frozen=True):
    """One limit. `scope_id`: the id of the project or key; `model`: a name as asked or ``prefix*``, empty for all
    models together; `meter`: a name of METERS; `amount` in the meter's unit.

    `rolling`: a day is any 24 hours and a month any 30 days, not those of the calendar (in UTC). `hard`: the output of
    a request is capped at what is left. `shadow`: it is counted and refuses nothing. `fails_open`: None as its meter.
    """

    scope: Scope
    scope_id: str
    meter: str
    amount: int
    model: str = ""
    rolling: bool = False
    hard: bool = False
    shadow: bool = False
    fails_open: bool | None = None

    @property
    def id(self) -> str:
        """What tells it from every other, and is the same on every host."""
        return f"{self.scope}/{self.scope_id}/{self.meter}/{self.model}"
