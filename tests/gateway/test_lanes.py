"""What is known of targets over a change of the configuration."""

from __future__ import annotations

import asyncio

from penstock.config import Breaker, Retries, Upstream
from penstock.errors import Failure, FailureKind
from penstock.gateway.upstream import Entry, Lanes
from penstock.gateway.upstream.health import State
from penstock.http.client import Pool
from penstock.providers import registry
from penstock.types import Target
from support.gateway import upstream

A, B = Target("r", "a", "m", key="a/m"), Target("r", "b", "m", key="b/m")
KEYS = {"a/m", "b/m"}
NO_TRICKLE = Retries(budget_burst=2, budget_per_second=0.0, budget_share=0.0)
DOWN = Failure(FailureKind.UNAVAILABLE, "it is down", 503)


def entry(config: Upstream) -> Entry:
    provider = registry.build(config, None)
    return Entry(provider, Pool(provider.origin, config), config)


def entries() -> dict[str, Entry]:
    return {name: entry(upstream("http://127.0.0.1:9/v1", name)) for name in ("a", "b")}


def fail(lanes: Lanes, target: Target, endpoint: str = "") -> None:
    """One call that fails, after which the breaker opens."""
    lane = lanes.beside(target, endpoint) if endpoint else lanes.of(target)
    lane.failed(lane.health.admit(0.0), DOWN, 0.0, 0.0)


def test_pressure_health_and_budget_go_over_with_a_provider_that_stays() -> None:
    async def main() -> None:
        same = entries()
        old = Lanes(same, NO_TRICKLE, Breaker(failures=1), lambda: 0.0)
        lane = old.of(A)
        lane.gate.turned_down(0.0, None)
        assert lane.budget.spend(0.0)
        fail(old, A)
        new = Lanes(same, NO_TRICKLE, Breaker(failures=1), lambda: 0.0)
        new.inherit(old, KEYS)
        assert new.of(A) is lane
        assert (new.of(A).gate.pressed, new.of(A).health.state, new.unwell) == (True, State.OPEN, {"a/m"})
        assert [new.of(A).budget.spend(0.0) for _ in range(2)] == [True, False]
        assert new.of(B).budget.spend(0.0), "and each has its own"

    asyncio.run(main())


def test_a_budget_that_is_spent_fills_by_the_new_rules() -> None:
    async def main() -> None:
        same = entries()
        old = Lanes(same, NO_TRICKLE, Breaker())
        assert [old.of(A).budget.spend(0.0) for _ in range(3)] == [True, True, False]
        new = Lanes(same, Retries(budget_burst=5, budget_per_second=1.0), Breaker())
        new.inherit(old, KEYS)
        assert [new.of(A).budget.spend(3.0) for _ in range(4)] == [True, True, True, False]

    asyncio.run(main())


def test_a_budget_never_holds_more_than_it_may_now() -> None:
    async def main() -> None:
        same = entries()
        old = Lanes(same, Retries(budget_burst=100), Breaker())
        new = Lanes(same, NO_TRICKLE, Breaker())
        new.inherit(old, KEYS)
        assert [new.of(A).budget.spend(0.0) for _ in range(3)] == [True, True, False]

    asyncio.run(main())


def test_an_endpoint_beside_chat_keeps_what_is_known_of_it_to_itself() -> None:
    async def main() -> None:
        same = entries()
        old = Lanes(same, NO_TRICKLE, Breaker(failures=1))
        fail(old, A, "embeddings")
        new = Lanes(same, NO_TRICKLE, Breaker(failures=1))
        new.inherit(old, KEYS)
        assert new.beside(A, "embeddings").health.state is State.OPEN
        assert (new.of(A).health.state, new.unwell) == (State.CLOSED, set())

    asyncio.run(main())


def test_a_provider_that_is_another_begins_anew_and_what_the_old_one_does_is_not_told_of_it() -> None:
    async def main() -> None:
        before = entries()
        old = Lanes(before, NO_TRICKLE, Breaker(failures=1))
        fail(old, A)
        fail(old, B)
        new = Lanes({"a": before["a"], "b": entries()["b"]}, NO_TRICKLE, Breaker(failures=1))
        new.inherit(old, KEYS)
        assert new.unwell == {"a/m"}
        assert new.of(B).health.state is State.CLOSED
        assert new.of(B).entry is not old.of(B).entry
        old.of(B).health.found_alive()
        fail(old, B)
        assert new.unwell == {"a/m"}

    asyncio.run(main())


def test_a_breaker_that_opens_for_a_request_of_before_is_open_for_all() -> None:
    async def main() -> None:
        same = entries()
        old = Lanes(same, NO_TRICKLE, Breaker(failures=1))
        lane = old.of(A)
        admission = lane.health.admit(0.0)
        new = Lanes(same, NO_TRICKLE, Breaker(failures=1))
        new.inherit(old, KEYS)
        lane.failed(admission, DOWN, 0.0, 0.0)
        assert new.unwell == {"a/m"}
        assert [one.value for one in new.series()] == [1.0]
        health = new.of(A).health
        health.succeeded(health.admit(100.0), 0.1)
        assert new.unwell == set()
        assert [(one.labels, one.value) for one in new.series()] == [(("a", "m"), 0.0)]

    asyncio.run(main())
