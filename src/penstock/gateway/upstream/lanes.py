"""What a worker keeps of each target between requests: the way to it, its health, the pressure on it, its retry budget.

Targets of one provider share its connections and its retry budget; each has a breaker and a gate of its own. The models
behind a wildcard are named by callers, so they share the lane of the wildcard: state is bounded by the configuration.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping

from penstock.config import Breaker, Retries, Upstream
from penstock.errors import Failure, FailureKind
from penstock.gateway.upstream.health import Admission, Health
from penstock.gateway.upstream.pressure import Gate
from penstock.gateway.upstream.retries import RetryBudget
from penstock.http.client import HeaderList, Pool
from penstock.link import SeriesValue
from penstock.providers.base import Provider
from penstock.types import Target


class Entry:
    """One provider as a worker uses it."""

    __slots__ = ("config", "pool", "provider")

    def __init__(self, provider: Provider, pool: Pool, config: Upstream) -> None:
        self.provider = provider
        self.pool = pool
        self.config = config


class Lane:
    """One target as a worker uses it."""

    __slots__ = ("budget", "entry", "gate", "health")

    def __init__(self, entry: Entry, health: Health, gate: Gate, budget: RetryBudget) -> None:
        self.entry = entry
        self.health = health
        self.gate = gate
        self.budget = budget

    # Every call that `health` admitted is ended by one of these, once.

    def succeeded(self, admission: Admission, first_event: float) -> None:
        """It ended well; its first event came after `first_event` seconds."""
        self.health.succeeded(admission, first_event)
        if self.gate.pressed:
            self.gate.accepted()
            self.gate.ended()

    def failed(self, admission: Admission, failure: Failure, sent: float, now: float) -> None:
        """It ended badly; it was sent at `sent`."""
        self.health.failed(admission, failure, now)
        if failure.kind is FailureKind.RATE_LIMITED and not failure.quota_spent:
            self.gate.turned_down(sent, failure.retry_after)
        elif self.gate.pressed:
            self.gate.ended()

    def dropped(self, admission: Admission) -> None:
        """Its caller gave it up."""
        self.health.dropped(admission)
        if self.gate.pressed:
            self.gate.ended()

    def hear(self, headers: HeaderList) -> None:
        """Take note of what the target says of its limits in the head of an answer."""
        self.gate.told(headers)


class Lanes:
    """All of them, by the targets' keys."""

    def __init__(
        self,
        entries: Mapping[str, Entry],
        retries: Retries,
        breaker: Breaker,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.entries = entries
        self.clock = clock
        self._retries = retries
        self._breaker = breaker
        self._loop = asyncio.get_running_loop()
        self.unwell: set[str] = set()  # the keys of those whose breaker is not closed
        self._lanes: dict[str, Lane] = {}
        self._labels: dict[str, tuple[str, str]] = {}  # provider and model, of those for chat completions
        self._budgets = {name: RetryBudget(retries, clock()) for name in entries}

    def inherit(self, before: Lanes, keys: Collection[str]) -> None:
        """Take over what is known of those providers that stay, and of their targets; `keys`: of the targets now.

        Requests that began with the lanes of `before` still use them, and what they find out is known here, too.
        """
        for name, entry in self.entries.items():
            if before.entries.get(name) is entry:
                self._budgets[name] = budget = before._budgets[name]
                budget.follow(self._retries)
        for key, lane in before._lanes.items():
            entry = lane.entry
            if self.entries.get(entry.config.name) is not entry:
                continue
            if key in keys:
                self._labels[key] = before._labels[key]
                lane.health.follow(self._breaker, self.unwell)
            elif key.rpartition(" ")[0] in keys:  # for an endpoint beside chat completions
                lane.health.follow(self._breaker, set())
            else:
                continue
            self._lanes[key] = lane

    def of(self, target: Target) -> Lane:
        """The lane of a target."""
        return self._lanes.get(target.key) or self._make_chat(target)

    def _make_chat(self, target: Target) -> Lane:
        self._labels[target.key] = target.provider, target.key[len(target.provider) + 1 :]
        return self._make(target, target.key, self.unwell)

    def beside(self, target: Target, endpoint: str) -> Lane:
        """Its lane for an endpoint beside chat completions, where it fares in its own way.

        A target that does not serve an endpoint would else be left alone for chat, by whoever asks it for that.
        """
        key = f"{target.key} {endpoint}"
        return self._lanes.get(key) or self._make(target, key, set())

    def _make(self, target: Target, key: str, unwell: set[str]) -> Lane:
        health = Health(self._breaker, key, unwell)
        gate = Gate(health, self._loop, self.clock)
        lane = self._lanes[key] = Lane(self.entries[target.provider], health, gate, self._budgets[target.provider])
        return lane

    def lane(self, target: Target) -> Health:
        """What routing knows of a target."""
        return self.of(target).health

    def ready_at(self, target: Target) -> float:
        """From when a target may be called, as far as its health goes; 0.0 if at once."""
        now = self.clock()
        ready_at = self.of(target).health.ready_at(now)
        return ready_at if ready_at > now else 0.0  # by the time it is compared, `now` is past

    def series(self) -> tuple[SeriesValue, ...]:
        """For the metrics: which targets are left alone. A wildcard's stand under the name of the wildcard."""
        return tuple(
            SeriesValue("penstock_breaker_open", labels, float(key in self.unwell))
            for key, labels in self._labels.items()
            if key in self._lanes
        )

    def all(self) -> Mapping[str, Lane]:
        """Every lane that was used, by its target's key."""
        return self._lanes
