"""The short form of the outage; `make chaos ARGS="--scenario outage"` is the long one."""

from __future__ import annotations

from chaos.outage import outage


def test_a_fallback_serves_everybody_while_the_primary_is_away_and_the_primary_is_soon_back() -> None:
    outcome = outage(6.0, probe_interval=0.3, tell=lambda line: None)
    assert outcome.wrong == (), outcome.told()
