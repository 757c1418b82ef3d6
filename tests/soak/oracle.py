"""What limits promise, said as simply as possible: every admission with its true time, and sums over all of them.

It knows nothing of slices, buckets or messages. Of each lease it notes which limits the parent had when it was asked;
each request that was admitted counts against those. What is checked, at every admission, which alone adds something:

- requests: no rolling window, and no period of the calendar, holds more than the limit had when it last granted;
- slots: no more are in flight than that, those of a worker that crashed included until the parent is told;
- tokens and money, of the same windows: let c(i) be what request i reserved, or, as soon as it is settled with less,
  what it came to; and d(j) what request j came to beyond what it had reserved. Then the sum of all c, and of those d
  that were settled before the limit last granted, is at most the limit. So a limit is exceeded by nothing but what
  requests in flight come to beyond their reservations, and until that is settled.

A request is admitted at most LONGEST after its lease was granted, and before the end of a calendar's period in which it
was. Once a worker has been told of an edit, nothing is admitted from a slice that was granted before it.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence

from penstock.limits import METERS, Limit
from penstock.link import Lease, Leased
from penstock.types import Claim

LONGEST = 1.125  # seconds from a grant to an admission by it
SECONDS = {"minute": 60.0, "day": 86_400.0, "month": 30 * 86_400.0}
BUCKETS = 240  # the part of a period to which windows are exact
TINY = 1e-6


class Broken(AssertionError):
    """A promise was not kept."""


class Admitted:
    """One request that was admitted: when, by which lease, and what became of it."""

    __slots__ = ("at", "claim", "due", "flying", "granted", "lease", "settled", "terms", "worker")

    def __init__(self, worker: int, lease: str, claim: Claim, terms: Terms, at: float) -> None:
        self.worker = worker
        self.lease = lease
        self.claim = claim
        self.terms = terms
        self.granted = terms.at
        self.at = at
        self.flying = True
        self.settled: Claim | None = None
        self.due: Claim | None = None  # what it came to, as its journal has it

    def kept(self, unit: str) -> int:
        """Of its reservation, what is still taken."""
        reserved: int = getattr(self.claim, unit)
        return reserved if self.settled is None else min(reserved, getattr(self.settled, unit))


class Terms:
    """What a lease was granted under: `limits` by name; `at`, in seconds; `number`: the how manieth event it was."""

    __slots__ = ("at", "limits", "number")

    def __init__(self, limits: dict[str, Limit], at: float, number: int) -> None:
        self.limits = limits
        self.at = at
        self.number = number


class Oracle:
    """All that was admitted. Times are seconds of the steady clock; `epoch` is what Unix time has more."""

    def __init__(self, epoch: float) -> None:
        self._epoch = epoch
        self._events = 0
        self._asked: dict[tuple[int, int], dict[str, Limit]] = {}
        self._terms: dict[str, Terms] = {}
        self._latest: dict[str, Terms] = {}  # by limit
        self._edits: dict[int, int] = {}  # by worker: the number of the last event when it was told of one
        self._debts: list[tuple[float, int, dict[str, Limit], Claim]] = []  # at, event, limits, beyond the reservation
        self.admissions: list[Admitted] = []

    # -- what happened

    def asked(self, worker: int, question: Lease, limits: Iterable[Limit]) -> None:
        """The parent has read a question, while these limits applied to it."""
        self._asked[worker, question.ref] = {name_of(limit): limit for limit in limits}

    def granted(self, worker: int, message: Leased, now: float) -> None:
        """The parent has sent a grant."""
        self._events += 1
        limits = self._asked[worker, message.ref] if message.lease else {}
        terms = self._terms[message.lease] = Terms(limits, now, self._events)
        for name in limits:
            self._latest[name] = terms

    def edited(self) -> int:
        """Limits are others from now on; the number of this event."""
        self._events += 1
        return self._events

    def told(self, worker: int, event: int) -> None:
        """A worker knows of an edit."""
        self._edits[worker] = event

    def admitted(self, worker: int, lease: str, claim: Claim, now: float, from_slice: bool) -> Admitted:
        """A request may be sent now. Raises Broken where it may not."""
        terms = self._terms[lease]
        if from_slice and terms.number < self._edits.get(worker, 0):
            raise Broken(f"a slice of {terms.at} was used after the worker was told of an edit")
        admitted = Admitted(worker, lease, claim, terms, now)
        if lease and now > terms.at + LONGEST + TINY:
            raise Broken(f"a lease of {terms.at} was used at {now}")
        self.admissions.append(admitted)
        for name in terms.limits:
            latest = self._latest[name]
            limit = latest.limits[name]
            if not limit.shadow:
                used = self.used(name, limit, now, before=latest.number)
                if used > limit.amount:
                    raise Broken(f"{name} is {limit.amount}, and {used} are taken of it at {now}")
        return admitted

    def cancelled(self, admitted: Admitted) -> None:
        """Nothing was sent for it."""
        self.admissions.remove(admitted)

    def settled(self, admitted: Admitted, actual: Claim, now: float) -> None:
        """The parent has read what it came to."""
        self._events += 1
        admitted.settled = actual
        reserved = admitted.claim
        debt = Claim(0, max(0, actual.tokens - reserved.tokens), max(0, actual.nanos - reserved.nanos))
        if debt.tokens or debt.nanos:
            self._debts.append((now, self._events, admitted.terms.limits, debt))

    # -- what is so

    def used(self, name: str, limit: Limit, now: float, *, slack: float = 0.0, before: int | None = None) -> int:
        """What is taken of a limit in the window that ends now, and is longer by `slack`; of debts, those that were
        settled before an event."""
        meter = METERS[limit.meter]
        ours = [one for one in self.admissions if name in one.terms.limits]
        if meter.unit == "slots":
            return sum(one.flying for one in ours)
        kept = sum(one.kept(meter.unit) for one in ours if self._within(limit, self._counts_at(limit, one), now, slack))
        debts = (
            getattr(debt, meter.unit)
            for at, event, limits, debt in self._debts
            if name in limits and (before is None or event < before) and self._within(limit, at, now, slack)
        )
        return kept + int(sum(debts))

    def edges(self, name: str, limit: Limit, now: float) -> tuple[int, int]:
        """The least and the most that a counter may say is taken, when everything is settled."""
        bucket = period_of(limit) / BUCKETS
        least = self.used(name, limit, now, slack=-bucket)
        return least, self.used(name, limit, now, slack=2 * bucket + LONGEST)

    def room(self, limit: Limit, now: float) -> int:
        """What is left of a limit, by all that was admitted and may still count."""
        return limit.amount - self.used(name_of(limit), limit, now, slack=2 * period_of(limit) / BUCKETS)

    def known(self) -> dict[str, Limit]:
        """Every limit that anything was taken of, as it last was."""
        return {name: terms.limits[name] for name, terms in self._latest.items()}

    def _counts_at(self, limit: Limit, one: Admitted) -> float:
        """When it was admitted; in the very moment in which a calendar's period ends, when its lease was granted."""
        period = METERS[limit.meter].period
        at_the_end = not _rolls(limit) and self._date(period, one.at) != self._date(period, one.at - TINY)
        return one.granted if at_the_end else one.at

    def _within(self, limit: Limit, at: float, now: float, slack: float) -> bool:
        period = METERS[limit.meter].period
        if period == "lifetime":
            return True
        if _rolls(limit):
            return at > now - SECONDS[period] - slack + TINY
        return self._date(period, at) == self._date(period, now)

    def _date(self, period: str, at: float) -> Sequence[int]:
        date = datetime.datetime.fromtimestamp(at + self._epoch, datetime.UTC)
        return (date.year, date.month) if period == "month" else (date.year, date.month, date.day)


def name_of(limit: Limit) -> str:
    """What is counted as one: a window of another kind begins anew."""
    return f"{limit.id}/rolling" if limit.rolling else limit.id


def _rolls(limit: Limit) -> bool:
    period = METERS[limit.meter].period
    return period == "minute" or (limit.rolling and period in SECONDS)


def period_of(limit: Limit) -> float:
    """Seconds of a rolling window; 0 where it is another."""
    return SECONDS[METERS[limit.meter].period] if _rolls(limit) else 0.0
