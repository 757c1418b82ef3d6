"""Penstock holds every row: before a local model, and before a provider that is held to OpenAI's rules for gpt-5.4."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from check.checking import results, settings
from penstock.check.catalogue import ROWS, select
from penstock.check.run import FAILED, PASSED, UNSUPPORTED, Report, Run
from support.serving import Served, serving
from support.upstreams import threaded_upstream

HOSTED = """
[providers.openai]
type = "openai"
base_url = "{base_url}"
api_key = "sk-of-the-provider"

[models."gpt-5.4"]
targets = [{{ provider = "openai" }}]
"""


@pytest.fixture(scope="module")
def local() -> Iterator[Served]:
    with serving() as served:
        served.wait_for("/ready")
        yield served


@pytest.fixture(scope="module")
def hosted() -> Iterator[Served]:
    with (
        threaded_upstream(strict_profile="gpt-5.4", keys=["sk-of-the-provider"]) as upstream,
        serving(HOSTED.format(base_url=upstream.base_url)) as served,
    ):
        yield served


def check(served: Served, *only: str, heavy: bool = False) -> Report:
    return asyncio.run(Run(select(only), settings(served.base_url, key=served.key), heavy=heavy).go())


def failures(report: Report) -> dict[str, str | None]:
    return {finding.row.id: finding.got for finding in report.findings if finding.result == FAILED}


def test_before_a_local_model_no_row_fails(local: Served) -> None:
    report = check(local)
    assert failures(report) == {}
    assert report.exit_status == 0
    assert report.count(PASSED) + report.count(UNSUPPORTED) >= 145
    assert report.tokens < 20_000


def test_before_a_hosted_model_no_row_fails(hosted: Served) -> None:
    report = check(hosted)
    assert failures(report) == {}
    assert report.count(PASSED) >= 140
    assert [finding.row.id for finding in report.findings if finding.result == UNSUPPORTED] == ["F18"]


@pytest.mark.parametrize("row", ["A12", "A13", "G21"])
def test_heavy_rows_hold_too(hosted: Served, row: str) -> None:
    report = check(hosted, row, heavy=True)
    assert failures(report) == {}
    assert results(report)[row] != "skipped"


def test_every_row_is_passed_by_one_backend_at_least(local: Served, hosted: Served) -> None:
    reached: set[str] = set()
    for served in (local, hosted):
        reached |= {finding.row.id for finding in check(served).findings if finding.result == PASSED}
    levels = {row.id for row in ROWS if row.level != "P" and not row.heavy}
    # A name with a slash, a model that chooses to call, and one that reasons, are not there to be seen.
    assert levels - reached == {"C03", "G03", "N06"}
