"""The carrier of an answer: when it runs, what it waits for, and how it is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from edge_app import run

from penstock.http.carrier import Carrier, Signal


def carried(coroutine: Coroutine[Any, Any, None]) -> Carrier:
    """A carrier, begun outside of any task, as from a connection's callback."""
    carrier = Carrier(asyncio.get_running_loop(), coroutine)
    from_callback(carrier.step)
    return carrier


def from_callback(call: Callable[[], object]) -> None:
    """Call it as the loop does, with no task current."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.tasks._leave_task(task.get_loop(), task)
    try:
        call()
    finally:
        asyncio.tasks._enter_task(task.get_loop(), task)


class Steps:
    """A coroutine that waits for a signal, and what became of it."""

    def __init__(self) -> None:
        self.signal = Signal()
        self.seen: list[str] = []

    async def walk(self) -> None:
        self.seen.append("begun")
        try:
            await self.signal
            self.seen.append("gone on")
        except asyncio.CancelledError:
            self.seen.append("cancelled")
            raise


def test_it_is_begun_at_once_and_goes_on_in_the_moment_of_the_signal() -> None:
    async def main() -> None:
        steps = Steps()
        carrier = carried(steps.walk())
        assert steps.seen == ["begun"]
        assert not carrier.done()
        from_callback(steps.signal.give)
        assert steps.seen == ["begun", "gone on"]
        assert carrier.done()
        assert not carrier.cancel()

    run(main)


def test_a_signal_that_was_given_is_not_waited_for_and_given_once() -> None:
    async def main() -> None:
        steps = Steps()
        steps.signal.give()
        steps.signal.give()
        assert carried(steps.walk()).done()

    run(main)


def test_within_the_step_of_another_it_waits_for_the_next_turn() -> None:
    async def main() -> None:
        first, second = Steps(), Steps()
        carriers = []

        async def beginning() -> None:
            carriers.append(Carrier(asyncio.get_running_loop(), second.walk()))
            carriers[0].step()
            first.signal.give()
            assert (first.seen, second.seen) == (["begun"], [])

        waiting = carried(first.walk())
        carried(beginning())
        await asyncio.sleep(0)
        assert (first.seen, second.seen) == (["begun", "gone on"], ["begun"])
        assert waiting.done()
        second.signal.give()  # within a task's step
        assert second.seen == ["begun"]
        await asyncio.sleep(0)
        assert carriers[0].done()

    run(main)


def test_what_waits_for_a_signal_is_cancelled_in_the_next_turn_and_hears_no_more() -> None:
    async def main() -> None:
        steps = Steps()
        carrier = carried(steps.walk())
        assert carrier.cancel()
        assert steps.seen == ["begun"]
        steps.signal.give()
        await asyncio.sleep(0)
        assert steps.seen == ["begun", "cancelled"]
        assert carrier.done()

    run(main)


def test_one_that_is_cancelled_before_it_has_begun_ends_without_having_begun() -> None:
    async def main() -> None:
        steps = Steps()
        carrier = Carrier(asyncio.get_running_loop(), steps.walk())
        carrier.step()  # in the next turn, since this is a task's step
        carrier.cancel()
        await asyncio.sleep(0)
        assert carrier.done()
        assert steps.seen == []

    run(main)


def test_one_that_cancels_itself_is_told_where_it_waits_next() -> None:
    async def main() -> None:
        steps = Steps()
        own: list[Carrier] = []

        async def walk() -> None:
            await asyncio.sleep(0)
            own[0].cancel()
            await steps.walk()

        own.append(carried(walk()))
        for _ in range(3):
            await asyncio.sleep(0)
        assert steps.seen == ["begun", "cancelled"]

    run(main)


def test_futures_tasks_sleeps_and_groups_are_waited_for_as_by_a_task() -> None:
    async def main() -> None:
        seen: list[object] = []
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        failing: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        async def other() -> str:
            await asyncio.sleep(0)
            return "a task"

        async def walk() -> None:
            seen.append(await future)
            try:
                await failing
            except OSError as error:
                seen.append(str(error))
            seen.append(await asyncio.create_task(other()))
            async with asyncio.TaskGroup() as group:
                grouped = group.create_task(other())
            seen.append(grouped.result())
            await asyncio.sleep(0.001)

        carrier = carried(walk())
        future.set_result("a future")
        failing.set_exception(OSError("a fault"))
        while not carrier.done():  # noqa: ASYNC110  # it tells nobody
            await asyncio.sleep(0)
        assert seen == ["a future", "a fault", "a task", "a task"]

    run(main)


@pytest.mark.parametrize("kind", ["signal", "future"])
def test_a_timeout_within_ends_the_wait_and_not_the_carrier(kind: str) -> None:
    async def main() -> None:
        seen: list[str] = []

        async def walk() -> None:
            try:
                async with asyncio.timeout(0.001):
                    await (Signal() if kind == "signal" else asyncio.get_running_loop().create_future())
            except TimeoutError:
                seen.append("late")

        carrier = carried(walk())
        while not carrier.done():  # noqa: ASYNC110  # it tells nobody
            await asyncio.sleep(0)
        assert seen == ["late"]
        assert carrier.cancelling() == 0

    run(main)


def test_a_future_that_is_waited_for_is_cancelled_with_it() -> None:
    async def main() -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def walk() -> None:
            await future

        carrier = carried(walk())
        carrier.cancel()
        assert future.cancelled()
        await asyncio.sleep(0)
        assert carrier.done()

    run(main)


def test_an_error_that_ends_it_goes_to_the_handler_of_the_loop() -> None:
    async def main() -> None:
        told: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context["exception"]))

        async def walk() -> None:
            raise OSError("a fault")

        assert carried(walk()).done()
        assert [str(error) for error in told] == ["a fault"]

    run(main)


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_task_can_wait_for_a_signal_too(cancelled: bool) -> None:
    async def main() -> None:
        steps = Steps()
        task = asyncio.create_task(steps.walk())
        await asyncio.sleep(0)
        if cancelled:
            task.cancel()
        else:
            steps.signal.give()
        await asyncio.wait([task])
        assert steps.seen == ["begun", "cancelled" if cancelled else "gone on"]

    run(main)
