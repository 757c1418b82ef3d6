"""The short form of the storm; `make chaos ARGS="--scenario storm"` is the long one."""

from __future__ import annotations

from chaos.storm import storm


def test_64_clients_get_nearly_all_that_an_upstream_allows_and_few_calls_are_refused() -> None:
    # The long form and, on a clock of its own, tests/gateway/test_pressure.py hold the whole claim. Here, on a machine
    # that may have other things to do, it is enough to tell a gate from none: without one, nine in ten are refused.
    outcome = storm(8.0, tell=lambda line: None, goodput=0.4, refused=0.3)
    assert outcome.wrong == (), outcome.told()
