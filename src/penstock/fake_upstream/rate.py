"""A limit on the rate of requests, as providers enforce it: refilled steadily, or whole again with each window.

The time is given by the caller, of one monotonic clock.
"""

from __future__ import annotations

import math

from penstock.fake_upstream.script import Rate


class Allowance:
    """What is left of one `Rate`."""

    def __init__(self, rule: Rate, now: float) -> None:
        self._rule = rule
        self._burst = rule.burst or max(1, math.ceil(rule.per_second))
        self._left = float(self._burst)
        self._at = now  # steady: when `_left` was true; by the window: when this one began

    def take(self, now: float) -> float:
        """Take one request: 0.0, or the seconds after which there is one again."""
        self._refill(now)
        if self._left >= 1.0:
            self._left -= 1.0
            return 0.0
        if self._rule.refill == "steady":
            return (1.0 - self._left) / self._rule.per_second
        return self._whole_in(now)

    def headers(self, now: float) -> dict[str, str]:
        """What OpenAI says of its limits in the head of an answer."""
        if not self._rule.headers:
            return {}
        whole_in_ms = math.ceil(self._whole_in(now) * 1000)
        return {
            "x-ratelimit-limit-requests": str(self._burst),
            "x-ratelimit-remaining-requests": str(int(self._left)),
            "x-ratelimit-reset-requests": f"{whole_in_ms}ms" if whole_in_ms < 1000 else f"{whole_in_ms / 1000:g}s",
        }

    def _refill(self, now: float) -> None:
        per_second, burst = self._rule.per_second, self._burst
        if self._rule.refill == "steady":
            # The small part makes whole what rounding took: after a tenth of a second at ten a second there is one.
            self._left = min(float(burst), self._left + (now - self._at) * per_second + 1e-9)
            self._at = now
            return
        window = burst / per_second
        passed = int((now - self._at) / window)
        if passed:
            self._left = float(burst)
            self._at += passed * window

    def _whole_in(self, now: float) -> float:
        """Seconds until all of it is there again."""
        if self._rule.refill == "steady":
            return (self._burst - self._left) / self._rule.per_second
        return self._at + self._burst / self._rule.per_second - now
