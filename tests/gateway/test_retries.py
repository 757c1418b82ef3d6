"""Which attempt follows a failed one: the rules, driven without a socket or a clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.config import Retries
from penstock.errors import Failure, FailureKind
from penstock.gateway.upstream.retries import Attempts, RetryBudget, Try, Verdict, verdict
from penstock.types import Target

ONE, TWO, THREE = (Target("m", name, "m", key=f"{name}/m") for name in ("one", "two", "three"))
TARGETS = (ONE, TWO, THREE)
DOWN = Failure(FailureKind.UNAVAILABLE, "It is not able to answer now.", 503)
SILENT = Failure(FailureKind.TIMEOUT_HEADERS, "It did not begin to answer in time.")
INVALID = Failure(FailureKind.INVALID, "The request is at fault.", 400)
FOREVER = 1e9
DEFAULTS = Retries()


def limited(retry_after: float | None = None) -> Failure:
    return Failure(FailureKind.RATE_LIMITED, "It limits our rate of requests.", 429, retry_after=retry_after)


def attempts(
    *targets: Target,
    retries: Retries = DEFAULTS,
    patience: float = FOREVER,
    wells: dict[str, float] | None = None,
    budget: int = 1000,
    jitter: float = 0.0,
) -> Attempts:
    """`wells`: from when a target's health lets it be called; `budget`: how many repeats are granted."""
    left = [budget]

    def spend(target: Target) -> bool:
        left[0] -= 1
        return left[0] >= 0

    return Attempts(targets, retries, patience, lambda t: (wells or {}).get(t.key, 0.0), spend, lambda: jitter)


def walk(state: Attempts, failures: list[Failure], first: Target = ONE) -> list[tuple[str, float]]:
    """Where each attempt after the first goes, and after how long a wait, while each fails as told."""
    now, target, seen = 100.0, first, []
    for failure in failures:
        following = state.after(target, failure, now)
        if following is None:
            break
        now += following.wait
        target = following.target
        seen.append((target.provider, following.wait))
    return seen


def test_a_single_target_is_asked_again_after_one_two_and_four_seconds() -> None:
    state = attempts(ONE)
    assert walk(state, [DOWN] * 9) == [("one", 1.0), ("one", 2.0), ("one", 4.0)]
    assert state.stopped == "attempts"


def test_a_quarter_of_the_wait_is_added_at_random() -> None:
    assert walk(attempts(ONE, jitter=1.0), [DOWN] * 9) == [("one", 1.25), ("one", 2.5), ("one", 5.0)]


def test_every_target_has_its_turn_at_once_before_anybody_waits() -> None:
    state = attempts(*TARGETS, retries=Retries(attempts=6))
    assert walk(state, [DOWN] * 9) == [("two", 0.0), ("three", 0.0), ("one", 1.0), ("two", 0.0), ("three", 0.0)]


def test_a_silent_target_is_not_asked_twice() -> None:
    state = attempts(ONE, TWO)
    assert walk(state, [SILENT, DOWN, DOWN, DOWN]) == [("two", 0.0), ("two", 1.0), ("two", 2.0)]
    alone = attempts(ONE)
    assert alone.after(ONE, SILENT, 0.0) is None
    assert alone.stopped == "targets"


@pytest.mark.parametrize("kind", list(FailureKind))
def test_every_kind_of_failure_has_a_verdict(kind: FailureKind) -> None:
    assert verdict(Failure(kind, "")) in Verdict


def test_a_fault_of_the_request_is_final() -> None:
    state = attempts(*TARGETS)
    assert state.after(ONE, INVALID, 0.0) is None
    assert (state.stopped, state.first_failure) == ("final", (INVALID, ONE))
    assert not state.repeated


def test_an_answer_that_is_too_large_is_not_asked_for_again() -> None:
    state = attempts(*TARGETS)
    assert state.after(ONE, Failure(FailureKind.TOO_LARGE, "It is too large."), 0.0) is None
    assert state.stopped == "final"


def test_a_spent_quota_goes_elsewhere_and_not_back() -> None:
    spent = Failure(FailureKind.RATE_LIMITED, "The quota is spent.", 429, quota_spent=True)
    assert walk(attempts(ONE, TWO), [spent, DOWN, DOWN]) == [("two", 0.0), ("two", 1.0), ("two", 2.0)]


def test_a_long_conversation_goes_only_to_a_target_that_holds_more() -> None:
    small, other, large = (
        Target("m", name, "m", key=name, context=size) for name, size in (("s", 8), ("o", 8), ("l", 16))
    )
    too_long = Failure(FailureKind.INVALID, "It is too long.", 400, too_long=True)
    assert walk(attempts(small, other, large), [too_long], small) == [("l", 0.0)]
    assert walk(attempts(small, ONE), [too_long], small) == []


def test_a_stale_connection_is_no_attempt() -> None:
    stale = Failure(FailureKind.STALE, "It closed a reused connection.")
    state = attempts(ONE, retries=Retries(attempts=2))
    assert state.after(ONE, stale, 0.0) == Try(ONE, afresh=True)
    assert state.after(ONE, DOWN, 0.0) == Try(ONE, 1.0)
    assert state.after(ONE, DOWN, 1.0) is None
    assert state.first_failure == (DOWN, ONE)


def test_a_target_is_asked_afresh_once() -> None:
    """A full pool may hand out another connection that was in use before, so that this could go on for ever."""
    stale = Failure(FailureKind.STALE, "It closed a reused connection.")
    state = attempts(ONE, retries=Retries(attempts=2))
    assert state.after(ONE, stale, 0.0) == Try(ONE, afresh=True)
    assert state.after(ONE, stale, 0.0) == Try(ONE, 1.0)
    assert state.after(ONE, stale, 1.0) is None


def test_what_was_not_called_is_no_attempt_either() -> None:
    held = Failure(FailureKind.UNHEALTHY, "It has failed lately.", 503)
    state = attempts(ONE, TWO, retries=Retries(attempts=1))
    assert state.after(ONE, held, 0.0) == Try(TWO)
    assert state.after(TWO, DOWN, 0.0) is None
    assert not state.repeated


def test_the_wait_that_a_target_asks_for_is_kept_and_another_target_goes_before() -> None:
    assert walk(attempts(ONE), [limited(7.0)]) == [("one", 7.0)]
    assert walk(attempts(ONE), [limited(0.2)]) == [("one", 1.0)]
    assert walk(attempts(ONE, TWO), [limited(7.0), DOWN]) == [("two", 0.0), ("two", 1.0)]


def test_a_target_that_asks_for_too_long_a_wait_is_out() -> None:
    state = attempts(ONE, TWO)
    assert walk(state, [limited(21.0), DOWN, DOWN, DOWN]) == [("two", 0.0), ("two", 1.0), ("two", 2.0)]
    assert attempts(ONE).after(ONE, limited(21.0), 0.0) is None


def test_nothing_begins_beyond_the_callers_patience() -> None:
    state = attempts(ONE, patience=102.5)
    assert walk(state, [DOWN] * 9) == [("one", 1.0)]
    assert state.stopped == "patience"
    late = attempts(ONE, TWO, patience=99.0)
    assert walk(late, [DOWN] * 9) == []


def test_waiting_is_bounded_in_all() -> None:
    state = attempts(ONE, retries=Retries(attempts=20, max_wait=6.9))
    assert walk(state, [DOWN] * 9) == [("one", 1.0), ("one", 2.0)]
    assert state.stopped == "max_wait"


def test_an_empty_budget_ends_it() -> None:
    state = attempts(ONE, retries=Retries(attempts=20), budget=1)
    assert walk(state, [DOWN] * 9) == [("one", 1.0)]
    assert state.stopped == "budget"


def test_going_to_another_target_the_first_time_spends_nothing() -> None:
    assert walk(attempts(*TARGETS, budget=0), [DOWN] * 9) == [("two", 0.0), ("three", 0.0)]


def test_a_target_whose_breaker_is_open_is_passed_over_and_waited_for() -> None:
    assert walk(attempts(*TARGETS, wells={"two/m": FOREVER}), [DOWN]) == [("three", 0.0)]
    assert walk(attempts(ONE, wells={"one/m": 103.0}), [DOWN]) == [("one", 3.0)]


@given(
    st.lists(st.sampled_from([DOWN, SILENT, INVALID, limited(), limited(0.5), limited(30.0)]), min_size=30),
    st.integers(1, 3),
    st.integers(1, 6),
    st.integers(0, 5),
    st.floats(0.0, 20.0),
)
def test_attempts_waits_and_repeats_are_bounded_whatever_happens(
    failures: list[Failure], count: int, most: int, budget: int, max_wait: float
) -> None:
    state = attempts(*TARGETS[:count], retries=Retries(attempts=most, max_wait=max_wait), budget=budget)
    seen = walk(state, failures)
    assert len(seen) + 1 <= most
    assert sum(wait for _, wait in seen) <= max_wait
    assert len(seen) <= count - 1 + budget
    assert state.stopped
    silent = {name for (name, _), failure in zip([("one", 0.0), *seen], failures, strict=False) if failure is SILENT}
    for name in silent:
        after = [n for n, _ in seen]
        calls = [i for i, n in enumerate(["one", *after]) if n == name]
        silences = [i for i in calls if failures[i] is SILENT]
        assert calls[-1] == silences[-1], "no call follows a silence of the same target"


def test_a_budget_lets_a_share_of_calls_be_repeated_and_a_trickle_by_time() -> None:
    budget = RetryBudget(Retries(budget_share=0.5, budget_per_second=0.1, budget_burst=2), 0.0)
    assert [budget.spend(0.0) for _ in range(3)] == [True, True, False]
    budget.calls += 1
    assert not budget.spend(0.0)
    budget.calls += 1
    assert budget.spend(0.0)
    assert not budget.spend(9.0)
    assert budget.spend(20.0)


@given(st.lists(st.tuples(st.booleans(), st.floats(0.0, 5.0)), max_size=60))
def test_a_budget_never_grants_more_than_it_earned(steps: list[tuple[bool, float]]) -> None:
    retries = Retries(budget_share=0.2, budget_per_second=1.0, budget_burst=3)
    budget, now, calls, granted = RetryBudget(retries, 0.0), 0.0, 0, 0
    for is_call, pause in steps:
        now += pause
        if is_call:
            budget.calls += 1
            calls += 1
        else:
            granted += budget.spend(now)
        assert granted <= 3 + 0.2 * calls + 1.0 * now + 1e-6


def test_a_rescue_is_one_of_the_attempts_and_goes_to_its_own_targets() -> None:
    state = attempts(*TARGETS, retries=Retries(attempts=3))
    assert state.after(ONE, DOWN, 0.0) == Try(TWO)
    state.rescue([THREE], FOREVER)
    assert state.after(TWO, DOWN, 0.0) == Try(THREE)
    assert state.after(THREE, DOWN, 0.0) is None
    assert (state.stopped, state.first_failure) == ("attempts", (DOWN, ONE))


def test_a_rescue_has_a_patience_of_its_own() -> None:
    state = attempts(*TARGETS, patience=10.0)
    state.rescue([TWO], 30.0)
    assert state.after(ONE, DOWN, 20.0) == Try(TWO)
    assert state.after(TWO, DOWN, 30.0) is None
    assert state.stopped == "patience"


def test_what_differs_is_not_asked_for_again() -> None:
    state = attempts(*TARGETS)
    assert state.after(ONE, Failure(FailureKind.DIFFERS, "It says something else."), 0.0) is None
