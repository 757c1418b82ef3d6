"""The short form of the storm; `make chaos ARGS="--scenario storm"` is the long one."""

from __future__ import annotations

from chaos.storm import storm


def test_64_clients_get_nearly_all_that_an_upstream_allows_and_few_calls_are_refused() -> None:
    outcome = storm(8.0, tell=lambda line: None)
    assert outcome.wrong == (), outcome.told()
