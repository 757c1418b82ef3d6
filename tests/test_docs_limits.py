"""docs/limits.md is held to what there is: meters, metrics, providers, and the numbers that it explains."""

from __future__ import annotations

import re
from pathlib import Path

from penstock.config import Counting
from penstock.limits import METERS
from penstock.link import METRICS
from penstock.providers.registry import SETTINGS
from penstock.stores.base.slices import BUCKETS, SECONDS

PAGE = (Path(__file__).parents[1] / "docs" / "limits.md").read_text(encoding="utf-8")
WORDS = " ".join(PAGE.split())  # lines joined


def first_cells(title: str) -> list[str]:
    """The names in the first cell of each row of a section's first table."""
    section = PAGE.split(f"## {title}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]+) \|", section, re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row)]


def test_every_meter_has_its_row() -> None:
    assert sorted(first_cells("What can be limited")) == sorted(METERS)


def test_it_is_said_of_every_type_of_provider_what_a_cut_answer_costs() -> None:
    assert sorted(first_cells("An answer that is cut off")) == sorted(SETTINGS)


def test_the_metrics_that_it_names_exist() -> None:
    assert set(re.findall(r"`(penstock_\w+)`", PAGE)) <= {metric.name for metric in METRICS}


def test_the_numbers_of_windows_are_those_of_the_store() -> None:
    minute, day, month = (SECONDS[period] / BUCKETS for period in ("minute", "day", "month"))
    assert f"ring of {BUCKETS} buckets, each a quarter of a second" in WORDS
    assert minute == 0.25
    assert f"rolling day are {day / 60:.0f} minutes, those of a rolling month {month / 3600:.0f} hours" in WORDS
    assert f"{BUCKETS} of {BUCKETS + 2} parts, {100 * BUCKETS / (BUCKETS + 2):.1f} %" in WORDS


def test_the_defaults_that_it_tells_are_those_of_the_configuration() -> None:
    counting = Counting()
    assert f"`completion_tokens` ({counting.completion_tokens})" in WORDS
    assert f"`store_timeout` ({counting.store_timeout * 1000:.0f} ms)" in WORDS
    assert (counting.budgets_fail_open, counting.rates_fail_open) == (False, True)
    assert "Limits in dollars are closed and all others are open" in WORDS
