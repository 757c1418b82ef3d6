"""Whether a target may be called: a breaker fed by real traffic, and what routing knows of its load and speed.

A breaker is closed while calls go well. `failures` bad ends within `window` seconds that are at least half of all ends
open it: the target is left out until `probe_interval` has passed. Then it is half open: one call is let through as a
probe, everybody else still goes elsewhere. The probe's end closes it or opens it for another interval; a probe whose
caller hung up tells nothing, and the next call takes its place.

What counts against a target is what it did: no connection, a reset, silence, a 5xx, an unusable answer, a refusal of
our credentials (401). What never does: the caller's own fault (400, 403), a limit on our rate (that is what `pressure`
is for), a caller that hung up, had little patience or asked for too much, a pool of ours that was full.

The time is always given by the caller, of one monotonic clock.
"""

from __future__ import annotations

from enum import Enum

from penstock.config import Breaker
from penstock.errors import Failure, FailureKind

SMOOTHING = 0.2  # the weight of the newest time to the first event in the average

_TELLING = frozenset(
    {
        FailureKind.CONNECT,
        FailureKind.RESET,
        FailureKind.TIMEOUT_CONNECT,
        FailureKind.TIMEOUT_HEADERS,
        FailureKind.TIMEOUT_FIRST_EVENT,
        FailureKind.TIMEOUT_IDLE,
        FailureKind.MALFORMED,
        FailureKind.INCOMPLETE,
        FailureKind.REFUSED_US,
        FailureKind.UNAVAILABLE,
    }
)
_ALIVE = frozenset({FailureKind.RATE_LIMITED, FailureKind.INVALID, FailureKind.TOO_LARGE})
_FORBIDDEN = 403  # also said of one request: OpenRouter's moderation says it of a caller's words


class State(Enum):
    """The word for a breaker's position in metrics and explanations."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Admission(Enum):
    """How a call was let through; only a probe's end moves a breaker that is not closed."""

    NO = 0
    CALL = 1
    PROBE = 2


# A name of the module is ten times quicker than an enum's attribute; these are on the way of every request.
_CLOSED, _CALL = State.CLOSED, Admission.CALL


class Health:
    """One target's breaker, load and speed. While the breaker is not closed, its `key` is in `unwell`.

    `outstanding`: calls in flight; `latency`: the average time in seconds to the first event, 0.0 before the first.
    """

    __slots__ = (
        "_bad",
        "_good",
        "_key",
        "_rules",
        "_since",
        "_unwell",
        "latency",
        "outstanding",
        "probing",
        "retry_at",
        "state",
    )

    def __init__(self, rules: Breaker, key: str, unwell: set[str]) -> None:
        self.state = State.CLOSED
        self.outstanding = 0
        self.latency = 0.0
        self.retry_at = 0.0  # while open: when a probe is due
        self.probing = False
        self._rules = rules
        self._key = key
        self._unwell = unwell
        self._bad = 0
        self._good = 0
        self._since = 0.0  # the first bad end of the window

    def follow(self, rules: Breaker, unwell: set[str]) -> None:
        """Go by these rules and be counted there from now on; what is known stays."""
        self._rules, self._unwell = rules, unwell
        if self.state is not State.CLOSED:
            unwell.add(self._key)

    def ready_at(self, now: float) -> float:
        """From when a call may be made; `now` if at once."""
        if self.state is State.CLOSED:
            return now
        if self.probing:
            return now + self._rules.probe_interval
        return max(now, self.retry_at)

    def admit(self, now: float) -> Admission:
        """Whether to call now. A call that is let through must be ended, once, by one of the next three."""
        if self.state is _CLOSED:
            self.outstanding += 1
            return _CALL
        if self.probing or now < self.retry_at:
            return Admission.NO
        self.state, self.probing = State.HALF_OPEN, True
        self.outstanding += 1
        return Admission.PROBE

    def succeeded(self, admission: Admission, first_event: float) -> None:
        """A call ended well; its first event came after `first_event` seconds."""
        self.outstanding -= 1
        self.latency += (first_event - self.latency) * SMOOTHING if self.latency else first_event
        if self._bad or admission is not _CALL:
            self._well(admission)

    def failed(self, admission: Admission, failure: Failure, now: float) -> None:
        """A call ended badly."""
        self.outstanding -= 1
        if failure.quota_spent:
            self._open(now)
        elif failure.kind in _ALIVE or failure.model_missing or failure.status == _FORBIDDEN:
            self._well(admission)
        elif failure.kind in _TELLING:
            self._badly(admission, now)
        elif admission is Admission.PROBE:
            self.probing = False

    def dropped(self, admission: Admission) -> None:
        """A call was given up by its caller."""
        self.outstanding -= 1
        if admission is Admission.PROBE:
            self.probing = False

    def began(self) -> Admission:
        """A probe's first event has come, which tells all: the breaker closes. As what its end counts from here on."""
        self._close()
        return Admission.CALL

    def found_alive(self) -> None:
        """Its server answered a probe that is no call: the next call is let through to see, without a wait."""
        self.retry_at = 0.0

    def _well(self, admission: Admission) -> None:
        """It answered, whatever it said."""
        if admission is Admission.PROBE:
            self._close()
        elif self.state is State.CLOSED:
            self._good += 1

    def _badly(self, admission: Admission, now: float) -> None:
        if admission is Admission.PROBE:
            self._open(now)
        elif self.state is State.CLOSED:  # else it is a call from before, and only the probe decides
            if now - self._since > self._rules.window:
                self._bad = self._good = 0
                self._since = now
            self._bad += 1
            if self._bad >= self._rules.failures and self._bad >= self._good:
                self._open(now)

    def _open(self, now: float) -> None:
        self.state, self.probing = State.OPEN, False
        self._unwell.add(self._key)
        self.retry_at = now + self._rules.probe_interval

    def _close(self) -> None:
        self.state, self.probing = State.CLOSED, False
        self._unwell.discard(self._key)
        self._bad = self._good = 0
