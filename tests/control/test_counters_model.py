"""The short form of `make soak ARGS="--scenario model"`, and that its oracle finds out counters that are wrong."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.control.counters.leases import Leases
from penstock.gateway.admission import Hold
from penstock.stores import slices
from soak.model import histories

SEED = 5000


def test_no_history_of_three_workers_exceeds_a_limit_loses_a_claim_or_refuses_for_nothing() -> None:
    outcome = histories(400, SEED, tell=lambda line: None)
    assert outcome.wrong == (), outcome.told()
    assert outcome.figures["admitted"]
    assert outcome.figures["of these by a slice"]


def _forget(*arguments: Any) -> None:
    """What was to be done is not."""


def _nobody(*arguments: Any) -> dict[int, tuple[str, ...]]:
    return {}


@pytest.mark.parametrize(
    ("owner", "name", "stand_in", "finds"),
    [
        (slices, "BUCKETS", 230, "are taken of it"),
        (slices, "LEASE", 9.0, "was used at"),
        (slices.Window, "give_back", _forget, "are taken, where"),
        (Hold, "cancel", _forget, "still held"),
        (Leases, "unused", _nobody, "there is room for"),
    ],
    ids=["a window that is too short", "leases that last", "nothing back", "nothing cancelled", "nothing recalled"],
)
def test_counters_that_are_wrong_are_found_out(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, stand_in: Any, finds: str
) -> None:
    monkeypatch.setattr(owner, name, stand_in)
    for seed in range(SEED, SEED + 1000):
        found = histories(1, seed, tell=lambda line: None).wrong
        if any(finds in one for one in found):
            return
    pytest.fail("nothing was found")
