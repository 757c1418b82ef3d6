"""The short forms of `make soak ARGS="--scenario hangups"` and `"minute"`."""

from __future__ import annotations

from soak.hangups import LIMIT, hangups
from soak.minute import Demand, minute


def test_150_clients_hang_up_in_every_phase_and_seven_requests_are_in_flight_at_most() -> None:
    outcome = hangups(150, seed=1, tell=lambda line: None)
    assert outcome.wrong == (), outcome.told()
    assert outcome.figures["most in flight"] == LIMIT, "and no fewer: demand was in excess"


def test_two_workers_admit_sixty_requests_of_forty_clients_and_not_one_more() -> None:
    outcome = minute(Demand(60, 0, clients=40, seconds=3.0), workers=2, tell=lambda line: None)
    assert outcome.wrong == (), outcome.told()
    assert outcome.figures["arrived"] == 60
