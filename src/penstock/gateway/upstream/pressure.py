"""How hard one target may be pressed: a concurrency limit and a pace, learned from its 429s and its own headers.

Nothing is limited until a target answers 429. From then on, until `CALM` seconds have passed without another and nobody
waits in line any more (who would all go at once, and meet the next 429), its gate is in force:

- Concurrency: a 429 takes the limit down to `DECREASE` of what was in flight; each good end at the limit raises it by a
  share of one (additive increase, multiplicative decrease).
- Pace: a 429 sets it a little below what the target has lately accepted, each good second raises it a little. From
  outside, limits on rate and on concurrency cannot be told apart, so both are kept.
- The target's own words: Retry-After stops all calls until then; `x-ratelimit-*-requests` give a pace that ours does
  not exceed, for as long as they hold.

A burst of 429s counts once: calls that were sent before the last decrease say nothing new.

Who cannot go at once waits in line, first come first served, but only if its turn comes within its patience: else it is
turned away at once, to go elsewhere. Who is cancelled in the line leaves it, and a turn that was its own goes to the
next.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable, Sequence

from penstock.gateway.upstream.health import Health

CALM = 60.0  # seconds
DECREASE = 0.7
PACE_AFTER = 0.95  # of what was lately accepted, after a 429
PACE_GROWTH = 1.02  # a second
PACE_LEAST = 0.2  # calls a second
LATELY = 5.0  # seconds over which accepted calls are counted
LINE = 1024  # callers that may wait for one target

INFINITE = float("inf")

_LIMIT, _REMAINING, _RESET = _COUNTS = (
    b"x-ratelimit-limit-requests",
    b"x-ratelimit-remaining-requests",
    b"x-ratelimit-reset-requests",
)
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")


class Gate:
    """What stands before one target, in one worker."""

    __slots__ = (
        "_accepted",
        "_clock",
        "_decreased",
        "_granted",
        "_grown",
        "_health",
        "_last",
        "_line",
        "_loop",
        "_timer",
        "_told",
        "_told_until",
        "closed_until",
        "limit",
        "next_at",
        "pace",
        "pressed",
    )

    def __init__(self, health: Health, loop: asyncio.AbstractEventLoop, clock: Callable[[], float]) -> None:
        self.pressed = False  # whether the gate is in force: else it costs a look at this
        self.limit = INFINITE  # calls in flight
        self.pace = INFINITE  # calls a second
        self.next_at = 0.0  # when the pace lets the next one go
        self.closed_until = 0.0  # as the target asked
        self._health = health
        self._clock = clock
        self._loop = loop
        self._line: deque[asyncio.Future[None]] = deque()
        self._granted = 0  # turns given to callers that have not begun their call yet
        self._accepted: deque[float] = deque()
        self._last = 0.0  # the last 429
        self._told = INFINITE  # the pace by the target's own count
        self._told_until = 0.0
        self._decreased = -INFINITE
        self._grown = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def enter(self, until: float) -> bool:
        """Wait for a turn, at most until `until`; False, at once, when it would not come by then."""
        now = self._clock()
        if now - self._last > CALM and not self._line:
            self._relax()
            return True
        if not self._line and self._has_room() and self._opens_at() <= now:
            self._pass(now)
            return True
        if len(self._line) >= LINE or self._turn_at(now) > until:
            return False
        turn: asyncio.Future[None] = self._loop.create_future()
        self._line.append(turn)
        self._serve(now)
        try:
            async with asyncio.timeout(until - now):
                await turn
        except TimeoutError:
            if not _given(turn):
                self._line.remove(turn)
                return False
        except asyncio.CancelledError:
            if _given(turn):
                self._granted -= 1
                self._serve(self._clock())
            else:
                self._line.remove(turn)
            raise
        self._granted -= 1
        return True

    def turned_down(self, sent: float, retry_after: float | None) -> None:
        """A call that was sent at `sent` was answered 429."""
        now = self._clock()
        if not self.pressed:
            self.pressed = True
            self._accepted.clear()
            self._grown = now
        self._last = now
        if retry_after is not None:
            self.closed_until = max(self.closed_until, now + min(retry_after, CALM))
        if sent > self._decreased:
            self._decrease(now)
        self._serve(now)

    def accepted(self) -> None:
        """A call was not turned down."""
        now = self._clock()
        accepted = self._accepted
        accepted.append(now)
        while accepted[0] < now - LATELY:
            accepted.popleft()
        if self._health.outstanding + 2 > self.limit:  # this one filled the last place
            self.limit += 1.0 / self.limit
        if now - self._grown >= 1.0:
            self._grown = now
            self.pace *= PACE_GROWTH

    def told(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Read the target's own count in the head of an answer: how many calls are left, and when all are again.

        Where its limit refills steadily, that is ``(limit - remaining) / reset`` a second; where it is a window,
        ``remaining / reset``. The greater is kept, since the lesser would starve the former. It holds until the
        reset or the next such words: what is left of a window says nothing of the next one.
        """
        said = {name: value for name, value in headers if name in _COUNTS}
        if len(said) == len(_COUNTS):
            limit, remaining = _number(said[_LIMIT]), _number(said[_REMAINING])
            reset = seconds(said[_RESET].decode("latin-1"))
            if limit is not None and remaining is not None and reset:
                self._told = max(PACE_LEAST, max(remaining, limit - remaining) / reset)
                self._told_until = self._clock() + reset

    def ended(self) -> None:
        """A call has ended, so that there may be room."""
        self._serve(self._clock())

    def opens_in(self) -> float:
        """Seconds until one who came now would have its turn, about."""
        now = self._clock()
        return max(0.0, self._turn_at(now) - now)

    # -- inside

    def _decrease(self, now: float) -> None:
        self._decreased = now
        in_flight = self._health.outstanding + 1
        self.limit = max(1.0, min(self.limit, in_flight) * DECREASE)
        recent = [at for at in self._accepted if at >= now - LATELY]
        if recent:
            self.pace = max(PACE_LEAST, len(recent) / max(1.0, now - recent[0]) * PACE_AFTER)
        else:
            # Nothing was counted before the first 429: by Little's law, about what went through.
            before = in_flight / (self._health.latency or 1.0)
            self.pace = max(PACE_LEAST, min(self.pace, before) * DECREASE)
        self._grown = now

    def _relax(self) -> None:
        self.pressed = False
        self.limit = self.pace = INFINITE
        self.next_at = self.closed_until = self._told_until = 0.0

    def _has_room(self) -> bool:
        return self._health.outstanding + self._granted + 1 <= self.limit

    def _opens_at(self) -> float:
        return max(self.next_at, self.closed_until)

    def _paced(self, now: float) -> float:
        """Calls a second that may be made now."""
        return min(self.pace, self._told) if now < self._told_until else self.pace

    def _turn_at(self, now: float) -> float:
        """About when one who joined the line now would have its turn, by the pace alone."""
        return max(now, self._opens_at()) + len(self._line) / self._paced(now)

    def _pass(self, now: float) -> None:
        self.next_at = max(now, self._opens_at()) + 1.0 / self._paced(now)

    def _serve(self, now: float) -> None:
        """Give turns to those whose time has come; see to it that the next is thought of."""
        line = self._line
        while line and self._has_room():
            if self._opens_at() > now:
                if self._timer is None:
                    self._timer = self._loop.call_later(self._opens_at() - now, self._tick)
                return
            turn = next((waiting for waiting in line if not waiting.done()), None)
            if turn is None:
                return  # all are about to leave
            line.remove(turn)
            self._granted += 1
            self._pass(now)
            turn.set_result(None)

    def _tick(self) -> None:
        self._timer = None
        self._serve(self._clock())


def _given(turn: asyncio.Future[None]) -> bool:
    """Whether its turn was given to a caller, which may be gone."""
    return turn.done() and not turn.cancelled()


def seconds(text: str) -> float | None:
    """A duration in seconds, written as a number or as Go does: ``12ms``, ``6m0s``, ``1h2m3.5s``."""
    try:
        number = float(text)
    except ValueError:
        found = _DURATION.fullmatch(text) if text else None
        if found is None:
            return None
        hours, minutes, whole, thousandths = (float(part or 0) for part in found.groups())
        number = hours * 3600 + minutes * 60 + whole + thousandths / 1000
    return number if 0 <= number < INFINITE else None


def _number(text: bytes) -> int | None:
    return int(text) if text.isdigit() and len(text) < 16 else None
