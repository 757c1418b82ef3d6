"""When a target is left alone, and how it comes back: the breaker, driven by a clock of the test's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.config import Breaker
from penstock.errors import Failure, FailureKind
from penstock.gateway.upstream.health import Admission, Health, State

RULES = Breaker(failures=3, window=10.0, probe_interval=2.0)
DOWN = Failure(FailureKind.UNAVAILABLE, "It is not able to answer now.", 503)
LIMITED = Failure(FailureKind.RATE_LIMITED, "It limits our rate of requests.", 429)


def health(unwell: set[str] | None = None) -> Health:
    return Health(RULES, "p/m", set() if unwell is None else unwell)


def fail(one: Health, now: float, failure: Failure = DOWN) -> None:
    one.failed(one.admit(now), failure, now)


def succeed(one: Health, now: float, latency: float = 0.1) -> None:
    one.succeeded(one.admit(now), latency)


def opened(unwell: set[str] | None = None) -> Health:
    """One that was opened at 0."""
    one = health(unwell)
    for _ in range(3):
        fail(one, 0.0)
    assert one.state is State.OPEN
    return one


def test_it_opens_after_enough_failures_and_says_so() -> None:
    unwell: set[str] = set()
    one = opened(unwell)
    assert unwell == {"p/m"}
    assert one.admit(1.0) is Admission.NO
    assert one.ready_at(0.5) == 2.0
    assert one.outstanding == 0


def test_it_stays_closed_while_most_calls_go_well() -> None:
    one = health()
    for _ in range(20):
        fail(one, 0.0)
        succeed(one, 0.0)
        succeed(one, 0.0)
    assert one.state is State.CLOSED


def test_failures_that_are_far_apart_do_not_add_up() -> None:
    one = health()
    for now in range(0, 110, 11):
        fail(one, float(now))
    assert one.state is State.CLOSED


def test_one_probe_at_a_time_and_its_success_closes_it() -> None:
    unwell: set[str] = set()
    one = opened(unwell)
    probe = one.admit(2.0)
    assert (probe, one.state) == (Admission.PROBE, State.HALF_OPEN)
    assert [one.admit(2.0 + later) for later in (0.0, 5.0, 500.0)] == [Admission.NO] * 3
    one.succeeded(probe, 0.1)
    assert (one.state, unwell, one.admit(2.0)) == (State.CLOSED, set(), Admission.CALL)


def test_a_probe_that_fails_opens_it_for_another_interval() -> None:
    one = opened()
    fail(one, 2.0)
    assert one.admit(3.9) is Admission.NO
    assert one.admit(4.0) is Admission.PROBE


def test_a_probe_whose_caller_hung_up_gives_its_place_to_the_next() -> None:
    one = opened()
    one.dropped(one.admit(2.0))
    assert one.admit(2.0) is Admission.PROBE


@pytest.mark.parametrize("failure", [LIMITED, Failure(FailureKind.INVALID, "The request is at fault.", 400)])
def test_a_probe_that_is_answered_at_all_closes_it(failure: Failure) -> None:
    one = opened()
    fail(one, 2.0, failure)
    assert one.state is State.CLOSED


def test_a_call_from_before_neither_opens_nor_closes_it() -> None:
    one = health()
    earlier = [one.admit(0.0) for _ in range(5)]
    for admission in earlier[:3]:
        one.failed(admission, DOWN, 0.0)
    one.succeeded(earlier[3], 0.1)
    assert one.admit(0.0) is Admission.NO
    probe = one.admit(2.0)
    one.failed(earlier[4], DOWN, 2.0)
    assert one.admit(2.5) is Admission.NO, "the probe is still out"
    one.succeeded(probe, 0.1)
    assert one.state is State.CLOSED


@pytest.mark.parametrize(
    "kind",
    [
        FailureKind.INVALID,
        FailureKind.RATE_LIMITED,
        FailureKind.TIMEOUT_POOL,
        FailureKind.TIMEOUT_TOTAL,
        FailureKind.STALE,
        FailureKind.TOO_LARGE,
    ],
)
def test_what_is_not_the_targets_fault_never_opens_it(kind: FailureKind) -> None:
    one = health()
    for _ in range(50):
        fail(one, 0.0, Failure(kind, ""))
        one.dropped(one.admit(0.0))
    assert one.state is State.CLOSED


def test_a_model_that_a_caller_made_up_is_not_the_targets_fault() -> None:
    one = health()
    for _ in range(50):
        fail(one, 0.0, Failure(FailureKind.REFUSED_US, "", 404, model_missing=True))
    assert one.state is State.CLOSED


def test_what_is_forbidden_may_be_one_request_alone_and_so_never_opens_it() -> None:
    one = health()
    for _ in range(50):
        fail(one, 0.0, Failure(FailureKind.REFUSED_US, "", 403))
    assert one.state is State.CLOSED


def test_a_refusal_of_our_credentials_opens_it() -> None:
    one = health()
    for _ in range(3):
        fail(one, 0.0, Failure(FailureKind.REFUSED_US, "", 401))
    assert one.state is State.OPEN


def test_a_spent_quota_opens_it_at_once() -> None:
    one = health()
    fail(one, 0.0, Failure(FailureKind.RATE_LIMITED, "", 429, quota_spent=True))
    assert one.state is State.OPEN


def test_latency_is_an_average_that_forgets() -> None:
    one = health()
    succeed(one, 0.0, 1.0)
    assert one.latency == 1.0
    for _ in range(50):
        succeed(one, 0.0, 0.1)
    assert one.latency == pytest.approx(0.1, rel=0.01)


STEPS = st.lists(
    st.tuples(st.sampled_from(["admit", "good", "bad", "limited", "drop"]), st.floats(0.0, 3.0)), max_size=80
)


@given(STEPS)
def test_no_interleaving_loses_a_call_or_lets_two_probes_out(steps: list[tuple[str, float]]) -> None:
    unwell: set[str] = set()
    one, now, out = health(unwell), 0.0, []
    for step, pause in steps:
        now += pause
        if step == "admit":
            admission = one.admit(now)
            if admission is not Admission.NO:
                out.append(admission)
        elif out:
            admission = out.pop(0)
            if step == "good":
                one.succeeded(admission, 0.1)
            elif step == "drop":
                one.dropped(admission)
            else:
                one.failed(admission, DOWN if step == "bad" else LIMITED, now)
        assert one.outstanding == len(out)
        assert out.count(Admission.PROBE) <= 1
        assert (one.state is State.CLOSED) == (not unwell)
    while out:
        one.dropped(out.pop())
    assert one.admit(now + 1000.0) is not Admission.NO, "it can always be tried again"
