"""Which attempt comes next after one that failed: all retry rules, without a socket, a clock or a sleep.

`Attempts` is the state of one request. It is asked for the first attempt, told how each one failed, and answers with
the next one (where, and after how long a wait) or with None. The rules:

- Targets are tried in the order of the plan, each new one at once. Only when all have had their turn does it wait, for
  1 s, 2 s, 4 s (with jitter on top), and goes round again over those whose failure may pass: `verdict` says which.
- A route that was silent (a deadline passed) or that refused us is not tried twice.
- A fault of the request itself is final, since it would fail everywhere. The exception is a conversation that is too
  long: it goes on to targets that hold more.
- An upstream's own Retry-After is honoured; one above `retry_after_cap` takes that target out for this request.
- It stops when `attempts` are spent, when the next would begin beyond the caller's patience, when waiting would take
  longer in all than `max_wait`, or when the provider's retry budget is empty, so that a storm of failures dies out.

What the caller is told in the end is the first failure: later ones are often its consequences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum

import msgspec

from penstock.config import Retries
from penstock.errors import Failure, FailureKind
from penstock.types import Target


class Verdict(Enum):
    """What a failed attempt allows."""

    AFRESH = "afresh"  # the same target, at once, on a new connection: it never saw the request
    AGAIN = "again"  # another target at once, or the same one after a wait
    ELSEWHERE = "elsewhere"  # another target at once, this one never again
    SKIPPED = "skipped"  # it was not called at all: as AGAIN, and no attempt
    LARGER = "larger"  # only a target that holds a longer conversation
    FINAL = "final"  # nowhere


_VERDICTS = {
    FailureKind.STALE: Verdict.AFRESH,  # once for each target; from then on as AGAIN
    FailureKind.UNHEALTHY: Verdict.SKIPPED,
    FailureKind.PRESSED: Verdict.SKIPPED,
    FailureKind.CONNECT: Verdict.AGAIN,
    FailureKind.RESET: Verdict.AGAIN,
    FailureKind.RATE_LIMITED: Verdict.AGAIN,
    FailureKind.UNAVAILABLE: Verdict.AGAIN,
    FailureKind.MALFORMED: Verdict.AGAIN,
    FailureKind.INCOMPLETE: Verdict.AGAIN,
    FailureKind.TIMEOUT_POOL: Verdict.ELSEWHERE,
    FailureKind.TIMEOUT_CONNECT: Verdict.ELSEWHERE,
    FailureKind.TIMEOUT_HEADERS: Verdict.ELSEWHERE,
    FailureKind.TIMEOUT_FIRST_EVENT: Verdict.ELSEWHERE,
    FailureKind.TIMEOUT_IDLE: Verdict.ELSEWHERE,
    FailureKind.REFUSED_US: Verdict.ELSEWHERE,
    FailureKind.TIMEOUT_TOTAL: Verdict.FINAL,  # the caller's patience, or all that one answer may take, is spent
    FailureKind.TOO_LARGE: Verdict.FINAL,  # it would be as long again, and cost as much
    FailureKind.INVALID: Verdict.FINAL,
    FailureKind.DIFFERS: Verdict.FINAL,
}


def verdict(failure: Failure) -> Verdict:
    """What may be done about a failure."""
    if failure.too_long:
        return Verdict.LARGER
    if failure.quota_spent:
        return Verdict.ELSEWHERE
    return _VERDICTS[failure.kind]


class RetryBudget:
    """How many repeats one provider is spared: each call puts a part of one in, each repeat takes one out.

    A trickle comes in by time, so that a quiet service may always try again. `now` is of one monotonic clock. `calls`:
    those that are no repeats; whoever makes one adds it, and it is counted in when it matters.
    """

    __slots__ = ("_counted", "_filled", "_share", "_size", "_tokens", "_trickle", "calls")

    def __init__(self, retries: Retries, now: float) -> None:
        self._tokens = float(retries.budget_burst)
        self._filled = now
        self._counted = 0
        self.calls = 0
        self.follow(retries)

    def follow(self, retries: Retries) -> None:
        """Fill by these rules from now on; what is left stays, as far as there is room for it."""
        self._share = retries.budget_share
        self._trickle = retries.budget_per_second
        self._size = float(retries.budget_burst)
        self._tokens = min(self._tokens, self._size)

    def spend(self, now: float) -> bool:
        """Take one repeat, if there is one."""
        earned = (now - self._filled) * self._trickle + (self.calls - self._counted) * self._share
        self._tokens = min(self._size, self._tokens + earned)
        self._filled, self._counted = now, self.calls
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


class Try(msgspec.Struct, frozen=True):
    """The next attempt: at `target`, in `wait` seconds; `afresh` on a new connection."""

    target: Target
    wait: float = 0.0
    afresh: bool = False


class Attempts:
    """The attempts of one request.

    `targets`: the plan's, in order. `patience`: when, on the clock of `now`, the caller will have gone. `ready_at`:
    from when its health lets a target be called; `spend`: takes one repeat from its provider's budget; `jitter` gives
    numbers from 0 to 1.
    """

    __slots__ = (
        "_asked",
        "_jitter",
        "_made",
        "_out",
        "_patience",
        "_ready_at",
        "_refreshed",
        "_retries",
        "_round",
        "_spend",
        "_targets",
        "_tried",
        "_waited",
        "first_failure",
        "stopped",
    )

    def __init__(
        self,
        targets: Sequence[Target],
        retries: Retries,
        patience: float,
        ready_at: Callable[[Target], float],
        spend: Callable[[Target], bool],
        jitter: Callable[[], float],
    ) -> None:
        self.first_failure: tuple[Failure, Target] | None = None
        self.stopped = ""  # why there is no next attempt, for the record
        self._targets = list(targets)
        self._retries = retries
        self._patience = patience
        self._ready_at = ready_at
        self._spend = spend
        self._jitter = jitter
        self._made = 0
        self._round = 0
        self._waited = 0.0
        self._refreshed: set[str] = set()  # repeated at once, on a new connection
        self._tried: set[str] = set()  # in this round
        self._out: set[str] = set()  # not again in this request
        self._asked: dict[str, float] = {}  # not before, as the upstream asked

    def after(self, target: Target, failure: Failure, now: float) -> Try | None:
        """The attempt that follows one at `target` that ended in `failure`; None when there is none."""
        allowed = verdict(failure)
        if allowed is Verdict.AFRESH and target.key not in self._refreshed:
            self._refreshed.add(target.key)
            return Try(target, afresh=True)
        if allowed is not Verdict.SKIPPED:
            self._made += 1
        if self.first_failure is None:
            self.first_failure = failure, target
        if allowed is Verdict.FINAL:
            return self._stop("final")
        self._note(target, failure, allowed, now)
        if self._made >= self._retries.attempts:
            return self._stop("attempts")
        if now >= self._patience:
            return self._stop("patience")
        return self._unvisited(now) or self._go_round(now)

    def rescue(self, targets: Sequence[Target], patience: float) -> None:
        """An answer broke off after the caller had its beginning: what follows is for `targets`, until `patience`."""
        self._targets = list(targets)
        self._patience = patience

    def _note(self, target: Target, failure: Failure, allowed: Verdict, now: float) -> None:
        """What the failure says of its target."""
        self._tried.add(target.key)
        if allowed in (Verdict.ELSEWHERE, Verdict.LARGER):
            self._out.add(target.key)
        if allowed is Verdict.LARGER:
            self._out |= {other.key for other in self._targets if not holds_more(other, target)}
        if failure.retry_after is not None:
            if failure.retry_after > self._retries.retry_after_cap:
                self._out.add(target.key)
            else:
                self._asked[target.key] = now + failure.retry_after

    def _unvisited(self, now: float) -> Try | None:
        """The next target of this round, at once."""
        for target in self._targets:
            key = target.key
            if (
                key not in self._tried
                and key not in self._out
                and self._ready(target, now) <= now
                and (not self._round or self._spend(target))
            ):
                return Try(target)
        return None

    def _go_round(self, now: float) -> Try | None:
        """All have had their turn: wait, then begin again with those that may recover."""
        left = [target for target in self._targets if target.key not in self._out]
        if not left:
            return self._stop("targets")
        backoff = min(self._retries.first_wait * 2**self._round, self._retries.longest_wait)
        wait = backoff * (1.0 + 0.25 * self._jitter())
        soonest = min(left, key=lambda target: max(self._ready(target, now), now + wait))  # the first of those alike
        wait = max(wait, self._ready(soonest, now) - now)
        if self._waited + wait > self._retries.max_wait:
            return self._stop("max_wait")
        if now + wait >= self._patience:
            return self._stop("patience")
        if not self._spend(soonest):
            return self._stop("budget")
        self._waited += wait
        self._round += 1
        self._tried.clear()
        return Try(soonest, wait)

    def _ready(self, target: Target, now: float) -> float:
        return max(self._asked.get(target.key, now), self._ready_at(target))

    def _stop(self, why: str) -> Try | None:
        self.stopped = why
        return None

    @property
    def repeated(self) -> bool:
        """Whether the request was sent more than once, so that a caller's own repeats would multiply ours."""
        return self._made > 1


def holds_more(one: Target, other: Target) -> bool:
    """Whether `one` is known to take a longer conversation than `other`."""
    return one.context is not None and other.context is not None and one.context > other.context
