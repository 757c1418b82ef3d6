"""How hard a target is pressed after its 429s: limit, pace, the line before the gate; on a clock of the test's."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.config import Breaker
from penstock.gateway.upstream.health import Admission, Health
from penstock.gateway.upstream.pressure import CALM, LINE, PACE_LEAST, Gate, seconds


class Clock(asyncio.SelectorEventLoop):
    """A loop whose time moves only when nothing else is left to do, and then at once to the next timer."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        ready, scheduled = self._ready, self._scheduled  # type: ignore[attr-defined]
        while scheduled and scheduled[0]._cancelled:
            heapq.heappop(scheduled)._scheduled = False
        if not ready and scheduled:
            self.now = max(self.now, scheduled[0]._when)
        super()._run_once()  # type: ignore[misc]


def on_the_clock(main: Callable[[Clock], Coroutine[Any, Any, None]]) -> None:
    loop = Clock()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(main(loop))


def gate(loop: Clock) -> tuple[Gate, Health]:
    health = Health(Breaker(), "p/m", set())
    return Gate(health, loop, loop.time), health


def pressed(loop: Clock, in_flight: int, pace: float | None = None) -> tuple[Gate, Health]:
    """One that has just been turned down once, with so many other calls in flight."""
    one, health = gate(loop)
    health.outstanding = in_flight
    one.turned_down(loop.time(), None)
    if pace is not None:
        one.pace = pace
    return one, health


def test_nothing_is_limited_before_the_first_429() -> None:
    async def main(loop: Clock) -> None:
        one, _ = gate(loop)
        assert (one.pressed, one.limit, one.pace) == (False, float("inf"), float("inf"))

    on_the_clock(main)


def test_a_429_takes_the_limit_down_and_good_ends_raise_it_by_one_a_round() -> None:
    async def main(loop: Clock) -> None:
        one, health = pressed(loop, 9)
        assert (one.pressed, one.limit) == (True, 7.0)
        health.outstanding = 6
        for _ in range(7):
            one.accepted()
        assert 7.9 < one.limit <= 8.0

    on_the_clock(main)


def test_a_burst_of_429s_counts_once() -> None:
    async def main(loop: Clock) -> None:
        one, _ = gate(loop)
        one._health.outstanding = 99
        for _ in range(50):
            one.turned_down(loop.time() - 0.5, None)
        assert one.limit == 70.0
        loop.now += 1.0
        one.turned_down(loop.time() - 0.5, None)
        assert one.limit == pytest.approx(49.0)

    on_the_clock(main)


def test_the_first_pace_is_what_went_through_before() -> None:
    async def main(loop: Clock) -> None:
        one, health = gate(loop)
        health.outstanding, health.latency = 3, 0.1
        one.turned_down(loop.time(), None)
        assert one.pace == pytest.approx(40.0 * 0.7), "four at a time, ten times a second"

    on_the_clock(main)


def test_calls_go_at_the_pace_and_in_the_order_they_came() -> None:
    async def main(loop: Clock) -> None:
        one, _ = pressed(loop, 1000, pace=10.0)
        one.limit = 5000.0
        gone: list[tuple[int, float]] = []

        async def call(number: int) -> None:
            assert await one.enter(loop.time() + 60.0)
            gone.append((number, loop.time() - 1000.0))

        await asyncio.gather(*(call(number) for number in range(20)))
        assert [number for number, _ in gone] == list(range(20))
        for number, at in gone:
            assert at == pytest.approx(number * 0.1, abs=0.01)

    on_the_clock(main)


def test_no_more_are_in_flight_than_the_limit() -> None:
    async def main(loop: Clock) -> None:
        one, health = pressed(loop, 9, pace=1e6)
        health.outstanding, one.limit = 0, 3.0
        most = 0

        async def call() -> None:
            nonlocal most
            assert await one.enter(loop.time() + 600.0)
            admission = health.admit(loop.time())
            most = max(most, health.outstanding)
            await asyncio.sleep(1.0)
            health.dropped(admission)
            one.ended()

        await asyncio.gather(*(call() for _ in range(20)))
        assert (most, health.outstanding) == (3, 0)

    on_the_clock(main)


def test_retry_after_stops_everybody_until_then() -> None:
    async def main(loop: Clock) -> None:
        one, _ = gate(loop)
        one.turned_down(loop.time(), 5.0)
        one.limit = 10.0
        assert await one.enter(loop.time() + 60.0)
        assert loop.time() >= 1005.0

    on_the_clock(main)


def test_who_could_not_have_a_turn_in_time_is_turned_away_at_once() -> None:
    async def main(loop: Clock) -> None:
        one, _ = gate(loop)
        one.turned_down(loop.time(), 5.0)
        one.limit = 10.0
        began = loop.time()
        assert not await one.enter(began + 4.0)
        assert loop.time() == began
        assert one.opens_in() == pytest.approx(5.0)

    on_the_clock(main)


def test_who_waits_for_room_waits_no_longer_than_it_said() -> None:
    async def main(loop: Clock) -> None:
        one, health = pressed(loop, 5, pace=1e6)
        health.outstanding = 100
        began = loop.time()
        assert not await one.enter(began + 2.0)
        assert loop.time() == pytest.approx(began + 2.0, abs=0.01)

    on_the_clock(main)


def test_the_line_is_bounded() -> None:
    async def main(loop: Clock) -> None:
        one, health = pressed(loop, 5, pace=1e6)
        health.outstanding = 100
        waiting = [asyncio.create_task(one.enter(loop.time() + 9.0)) for _ in range(LINE)]
        await asyncio.sleep(0)
        assert not await one.enter(loop.time() + 9.0)
        assert loop.time() < 1001.0
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert not one._line

    on_the_clock(main)


def test_a_minute_without_a_429_ends_it() -> None:
    async def main(loop: Clock) -> None:
        one, _ = pressed(loop, 5)
        loop.now += CALM + 1.0
        assert await one.enter(loop.time())
        assert (one.pressed, one.limit, one.pace) == (False, float("inf"), float("inf"))

    on_the_clock(main)


def test_a_line_is_not_let_loose_all_at_once_when_the_minute_is_over() -> None:
    async def main(loop: Clock) -> None:
        one, _ = pressed(loop, 0, pace=10.0)
        one.limit = 5000.0
        gone: list[float] = []

        async def call() -> None:
            assert await one.enter(loop.time() + 600.0)
            gone.append(loop.time())

        loop.now += CALM - 1.0
        waiting = [asyncio.create_task(call()) for _ in range(20)]
        await asyncio.sleep(0)
        loop.now += 1.5
        waiting.append(asyncio.create_task(call()))
        await asyncio.gather(*waiting)
        assert gone[-1] - gone[1] == pytest.approx(1.9, abs=0.01)
        assert one.pressed
        assert await one.enter(loop.time())
        assert not one.pressed

    on_the_clock(main)


def test_the_targets_own_count_sets_the_pace() -> None:
    def told(limit: int, remaining: int, reset: str) -> float:
        paces = []

        async def main(loop: Clock) -> None:
            one, _ = pressed(loop, 1000, pace=1000.0)
            one.limit = 5000.0
            counts = {"limit": str(limit), "remaining": str(remaining), "reset": reset}
            one.told([(f"x-ratelimit-{name}-requests".encode(), value.encode()) for name, value in counts.items()])
            began = loop.time()
            assert await one.enter(began + 3600.0)
            assert await one.enter(began + 3600.0)
            paces.append(1.0 / (loop.time() - began))

        on_the_clock(main)
        return paces[0]

    assert told(600, 590, "1s") == pytest.approx(590.0)  # a window that is nearly whole
    assert told(600, 10, "59s") == pytest.approx(10.0)  # ten a second flow back
    assert told(60, 0, "1m0s") == pytest.approx(1.0)
    assert told(60, 0, "0s") == pytest.approx(1000.0)
    assert told(1, 1, "1h0m0s") == pytest.approx(PACE_LEAST)
    assert told(600, 0, "soon") == pytest.approx(1000.0)


def test_what_is_left_of_a_window_says_nothing_of_the_next_one() -> None:
    async def main(loop: Clock) -> None:
        one, _ = pressed(loop, 0, pace=10.0)
        one.limit = 5000.0
        count = [(b"x-ratelimit-limit-requests", b"10"), (b"x-ratelimit-reset-requests", b"900ms")]
        one.told([*count, (b"x-ratelimit-remaining-requests", b"5")])
        gone = []
        for _ in range(10):
            assert await one.enter(loop.time() + 60.0)
            gone.append(loop.time() - 1000.0)
        assert sum(at < 0.8 for at in gone) == 5
        assert gone[-1] - gone[-2] == pytest.approx(0.1, abs=0.01)

    on_the_clock(main)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12ms", 0.012),
        ("6m0s", 360.0),
        ("1h2m3.5s", 3723.5),
        ("1s", 1.0),
        ("20", 20.0),
        ("0.5", 0.5),
        ("", None),
        ("soon", None),
        ("-1s", None),
        ("inf", None),
        ("nan", None),
    ],
)
def test_durations_are_read_as_numbers_and_as_go_writes_them(text: str, expected: float | None) -> None:
    assert seconds(text) == (pytest.approx(expected) if expected is not None else None)


@pytest.mark.parametrize("steady", [True, False], ids=["refilled steadily", "by the second"])
def test_64_callers_get_nearly_all_that_a_target_allows_and_few_429s(steady: bool) -> None:
    """A target that takes ten calls a second, a burst of ten at first; everybody calls again as soon as it may."""

    async def main(loop: Clock) -> None:
        one, health = gate(loop)
        tokens, filled, taken, refused = 10.0, loop.time(), [], []

        def allows() -> bool:
            nonlocal tokens, filled
            now = loop.time()
            if steady:
                tokens, filled = min(10.0, tokens + (now - filled) * 10.0), now
            elif int(now) > int(filled):
                tokens, filled = 10.0, now
            if tokens < 1.0:
                return False
            tokens -= 1.0
            return True

        async def caller() -> None:
            while loop.time() < 1040.0:
                if one.pressed and not await one.enter(loop.time() + 30.0):
                    await asyncio.sleep(1.0)
                    continue
                sent = loop.time()
                health.admit(sent)
                await asyncio.sleep(0.05)
                fine = allows()
                health.dropped(Admission.CALL)
                if fine:
                    taken.append(sent)
                    if one.pressed:
                        one.accepted()
                        one.ended()
                else:
                    refused.append(sent)
                    one.turned_down(sent, None)
                    await asyncio.sleep(1.0)

        await asyncio.gather(*(caller() for _ in range(64)))
        late_taken = sum(1005.0 <= at < 1040.0 for at in taken)
        late_refused = sum(1005.0 <= at < 1040.0 for at in refused)
        assert late_taken >= 0.9 * 350
        assert late_refused <= 0.1 * (late_taken + late_refused)

    on_the_clock(main)


STEPS = st.lists(
    st.tuples(st.sampled_from(["enter", "cancel", "good", "refused", "gone", "wait"]), st.integers(0, 30)), max_size=60
)


@given(STEPS)
def test_no_cancellation_loses_a_place_or_leaves_one_behind(steps: list[tuple[str, int]]) -> None:
    async def main(loop: Clock) -> None:
        one, health = pressed(loop, 3, pace=20.0)
        health.outstanding, one.limit = 0, 2.0
        tasks: list[asyncio.Task[None]] = []
        inside = 0

        async def call() -> None:
            nonlocal inside
            if not await one.enter(loop.time() + 5.0):
                return
            admission = health.admit(loop.time())
            inside += 1
            try:
                await asyncio.sleep(3.0)
            finally:
                inside -= 1
                health.dropped(admission)
                one.ended()

        for step, number in steps:
            if step == "enter":
                tasks.append(asyncio.create_task(call()))
            elif step == "cancel" and tasks:
                tasks[number % len(tasks)].cancel()
            elif step == "good":
                one.accepted()
            elif step == "refused":
                one.turned_down(loop.time(), number / 10 if number % 2 else None)
            elif step == "wait":
                await asyncio.sleep(number / 10)
            else:
                await asyncio.sleep(0)
            assert health.outstanding == inside
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (health.outstanding, one._granted, len(one._line)) == (0, 0, 0)
        loop.now += CALM + 1.0
        assert await one.enter(loop.time())

    on_the_clock(main)
