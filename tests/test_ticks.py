"""What recurs is due on whole multiples of its period, never early, never twice for one of them."""

from __future__ import annotations

import asyncio

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from penstock.ticks import next_tick, tick


@given(st.floats(0, 1e8), st.sampled_from([0.05, 0.1, 0.25, 1.0]))
def test_the_next_one_is_a_multiple_of_the_period_within_one_of_them(now: float, period: float) -> None:
    due = next_tick(now, period)
    assert due / period == pytest.approx(round(due / period))
    assert now < due <= now + period + 0.002


def test_a_timer_that_rings_early_is_not_set_for_the_same_moment_again() -> None:
    assert next_tick(9.9995, 0.05) == pytest.approx(10.05)


def test_who_sleeps_by_it_wakes_then() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await tick(0.05)
        assert loop.time() >= next_tick(began, 0.05) - 0.002

    uvloop.run(main())
