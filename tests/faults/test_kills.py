"""Workers die under load, and the ledger has every request that was answered, and each that was sent, exactly once."""

from __future__ import annotations

from soak.kills import kills
from soak.outages import outages


def test_the_ledger_has_what_upstream_and_clients_saw_though_workers_are_killed() -> None:
    outcome = kills(count=5, workers=2, clients=12, seed=5, tell=lambda line: None)
    assert not outcome.wrong, outcome.told()
    assert int(str(outcome.figures["rows marked partial"])) > 0, outcome.told()
    assert int(str(outcome.figures["answered whole"])) > 50, outcome.told()


def test_the_ledger_misses_nothing_though_the_database_stops_and_the_parent_is_killed() -> None:
    outcome = outages(seconds=1.0, seed=5, tell=lambda line: None)
    assert not outcome.wrong, outcome.told()
    assert int(str(outcome.figures["answered while the database was away"])) >= 100, outcome.told()
