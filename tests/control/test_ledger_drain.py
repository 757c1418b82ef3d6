"""Journals are settled at once and stored once: while the store is away, when workers die, and when the parent does."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import pytest
import uvloop

from penstock.control.ledger import Drain, drain, reading
from penstock.control.ledger.reading import carried, segments
from penstock.control.prices.rates import PER_NANO, Rates, Tariff, tariff
from penstock.journal import ENTRY_BYTES
from penstock.stores.base import LedgerRow, Mark, RequestRow, RowQuery, StoreUnavailable, UsageQuery
from penstock.stores.memoryledger import MemoryLedger
from penstock.stores.sql import open_stores
from penstock.types import Settlement
from support.journals import RESERVED, SIZE, Writer, begun, ended

PATIENCE = 20.0


class Store(MemoryLedger):
    """A ledger that can be away, and can lose its answer to what it did store."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.loses = 0
        self.held: asyncio.Event | None = None
        self.calls = 0
        self.batches: list[int] = []

    async def store(self, rows: Sequence[LedgerRow], marks: Sequence[Mark]) -> None:
        self.calls += 1
        if self.held is not None:
            await self.held.wait()
        if self.away:
            raise StoreUnavailable("it is away")
        await super().store(rows, marks)
        self.batches.append(len(rows))
        if self.loses:
            self.loses -= 1
            raise StoreUnavailable("nobody knows whether it was stored")

    async def marks(self) -> Mapping[str, int]:
        if self.away:
            raise StoreUnavailable("it is away")
        return await super().marks()

    async def kept(self) -> dict[str, RequestRow]:
        return {row.id: row async for row in self.rows(RowQuery())}


class Scene:
    """A data directory, its store, and the parent that drains it."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.store = Store()
        self.settled: list[Settlement] = []
        self._running: asyncio.Task[None] | None = None
        self.begin()

    def begin(self) -> None:
        """A new parent."""
        self.drain = Drain(self.data_dir, price, self.settled.extend)

    def run(self) -> None:
        self._running = asyncio.create_task(self.drain.run(self.store))

    async def die(self) -> None:
        """The parent is gone, and its locks are."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        await self.drain.close(None, 0)

    async def end(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        await self.drain.close(self.store, 10)

    def writer(self, worker: int = 0) -> Writer:
        writer = Writer(self.data_dir)
        writer.prefix = self.drain.begin(worker)
        return writer

    async def until(self, holds: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not holds():
                assert self._running is None or not self._running.done(), self._running
                await asyncio.sleep(0.002)

    async def until_kept(self, ids: Sequence[str]) -> dict[str, RequestRow]:
        async with asyncio.timeout(PATIENCE):
            while sorted(kept := await self.store.kept()) != sorted(ids):  # noqa: ASYNC110  # rows tell nobody
                await asyncio.sleep(0.002)
        return kept

    def left(self) -> list[Path]:
        return list((self.data_dir / "journal").rglob("*.journal"))


def price(provider: str, model: str, at: float) -> Tariff:
    """A nano-dollar a token."""
    return tariff("p1", ((-1, Rates(PER_NANO, PER_NANO, PER_NANO, PER_NANO)),))


@pytest.fixture(params=[drain.SLICE, 7], autouse=True)
def entries_in_a_slice(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices of the usual size, in which nearly everything fits, and small ones that end anywhere."""
    monkeypatch.setattr(drain, "SLICE", request.param)


def run(scenario: Callable[[Scene], Awaitable[None]], data_dir: Path) -> None:
    async def main() -> None:
        async with asyncio.timeout(60):
            await scenario(Scene(data_dir))

    uvloop.run(main())


def ids(count: int) -> list[str]:
    return [f"req_{number:012x}" for number in range(count)]


def fill(writer: Writer, names: Sequence[str], reserved: bool = True) -> None:
    for name in names:
        writer.begin(begun(name, reserved=RESERVED if reserved else None))
        writer.put(ended(name))


def test_requests_are_settled_and_stored_and_their_segments_deleted(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        scene.run()
        one, two = scene.writer(0), scene.writer(1)
        names = ids(200)
        one.put(begun("req_f_open", reserved=RESERVED))
        fill(one, names[:100])
        fill(two, names[100:])
        await scene.until_kept(names)
        assert len(scene.settled) == 200
        await scene.until(lambda: segments(one.prefix) == [one.number])
        one.put(ended("req_f_open"))
        await scene.until_kept([*names, "req_f_open"])
        await scene.end()
        assert scene.left() == []
        assert os.listdir(tmp_path / "journal") == []
        assert await scene.store.marks() == {}

    run(scenario, tmp_path)


def test_what_a_dead_worker_had_begun_becomes_partial_rows_and_is_settled(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        scene.run()
        writer = scene.writer(3)
        fill(writer, ["req_f_done"])
        writer.put(begun("req_f_lost", reserved=RESERVED))
        await scene.until_kept(["req_f_done"])
        scene.drain.end(3)
        kept = await scene.until_kept(["req_f_done", "req_f_lost"])
        assert {row.id: row.state for row in kept.values()} == {"req_f_done": "complete", "req_f_lost": "partial"}
        assert scene.settled[-1] == Settlement("lease_1", 1, 1000, 5000, 1000, 5000)
        await scene.until(lambda: not scene.left())
        counted = {one.labels: one.value for one in scene.drain.series() if one.name == "penstock_ledger_rows_total"}
        assert counted == {("complete",): 1, ("partial",): 1}
        await scene.end()

    run(scenario, tmp_path)


def test_who_waits_for_the_end_of_a_workers_journal_is_told_when_all_of_it_is_settled(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        told: list[int] = []
        writer = scene.writer()
        fill(writer, ids(700))
        writer.put(begun("req_last", reserved=RESERVED))
        empty = scene.drain.begin(1)
        assert empty
        scene.run()
        await scene.until(lambda: len(scene.settled) == 700)
        scene.drain.end(0, lambda: told.append(len(scene.settled)))
        scene.drain.end(1, lambda: told.append(-1))
        await scene.until(lambda: len(told) == 2)
        assert sorted(told) == [-1, 701], "once, and with what was never ended"
        await scene.end()
        assert len(told) == 2

    run(scenario, tmp_path)


def test_a_worker_that_follows_another_of_its_number_has_a_journal_of_its_own(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        scene.run()
        first = scene.writer()
        fill(first, ["req_f_a"])
        first.put(begun("req_f_b"))
        second = scene.writer()
        assert first.prefix != second.prefix
        fill(second, ["req_f_c"])
        kept = await scene.until_kept(["req_f_a", "req_f_b", "req_f_c"])
        assert kept["req_f_b"].state == "partial"
        await scene.end()

    run(scenario, tmp_path)


def test_while_the_store_is_away_settlement_goes_on_and_nothing_is_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drain, "WAITING", 50)
    monkeypatch.setattr(drain, "RETRY_SECONDS", 0.01)

    async def scenario(scene: Scene) -> None:
        scene.run()
        writer = scene.writer()
        names = ids(600)
        fill(writer, names[:10])
        await scene.until_kept(names[:10])
        scene.store.away = True
        calls = scene.store.calls
        writer.put(begun("req_f_lost", reserved=RESERVED))
        fill(writer, names[10:500])
        await scene.until(lambda: len(scene.settled) == 500)
        await scene.until(lambda: scene.store.calls > calls + 3)
        figures = {one.name: one.value for one in scene.drain.series()}
        assert figures["penstock_ledger_store_up"] == 0
        assert figures["penstock_ledger_lag_seconds"] > 0
        assert figures["penstock_ledger_journal_bytes"] > 0
        fill(writer, names[500:])
        scene.store.away = False
        await scene.until_kept(names)
        assert len(scene.settled) == 600
        await scene.until(lambda: segments(writer.prefix) == [writer.number])
        fill(writer, ["req_f_more"])
        await scene.until_kept([*names, "req_f_more"])
        scene.drain.end(0)
        kept = await scene.until_kept([*names, "req_f_more", "req_f_lost"])
        assert kept["req_f_lost"].state == "partial"
        assert len(scene.settled) == 602
        assert max(scene.store.batches) <= 1000
        await scene.end()

    with caplog.at_level(logging.WARNING):
        run(scenario, tmp_path)
    told = [one.getMessage() for one in caplog.records]
    assert told == ["the ledger is not stored for now, journals keep it: it is away", "the ledger is stored again"]


def test_a_worker_that_dies_while_the_store_is_away_and_behind_is_accounted_for_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drain, "WAITING", 20)
    monkeypatch.setattr(drain, "RETRY_SECONDS", 0.01)

    async def scenario(scene: Scene) -> None:
        scene.run()
        scene.store.away = True
        writer = scene.writer()
        names = ids(100)
        fill(writer, names)
        writer.put(begun("req_f_lost", reserved=RESERVED))
        scene.drain.end(0)
        await scene.until(lambda: len(scene.settled) == 101)
        scene.store.away = False
        kept = await scene.until_kept([*names, "req_f_lost"])
        assert kept["req_f_lost"].state == "partial"
        await scene.until(lambda: not scene.left())
        assert len(scene.settled) == 101
        await scene.end()

    run(scenario, tmp_path)


def test_rows_of_which_nobody_knows_whether_they_were_stored_are_stored_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drain, "RETRY_SECONDS", 0.01)

    async def scenario(scene: Scene) -> None:
        scene.store.loses = 3
        scene.run()
        writer = scene.writer()
        fill(writer, ids(50))
        await scene.until_kept(ids(50))
        await scene.until(lambda: not scene.store.loses)
        await scene.end()
        (line,) = await scene.store.usage(UsageQuery())
        assert line.requests == 50

    run(scenario, tmp_path)


def test_what_a_dead_parent_left_is_stored_once_and_not_settled_again(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        scene.run()
        writer = scene.writer()
        fill(writer, ids(100))
        writer.put(begun("req_f_open", reserved=RESERVED))
        await scene.until_kept(ids(100))
        scene.store.away = True
        fill(writer, ["req_f_late"])
        await scene.until(lambda: len(scene.settled) == 101)
        await scene.die()
        scene.store.away = False
        scene.begin()
        assert not scene.drain.replayed.is_set()
        scene.run()
        kept = await scene.until_kept([*ids(100), "req_f_late", "req_f_open"])
        await scene.drain.replayed.wait()
        assert (kept["req_f_late"].state, kept["req_f_open"].state) == ("complete", "partial")
        assert len(scene.settled) == 101
        assert scene.left() == []
        await scene.end()
        assert os.listdir(tmp_path / "journal") == []
        (line,) = await scene.store.usage(UsageQuery())
        assert line.requests == 102

    run(scenario, tmp_path)


def test_what_waits_while_its_beginning_is_deleted_is_carried_over_as_it_was(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        scene.run()
        writer, early = scene.writer(), begun("req_f_early", reserved=RESERVED, prompt_bytes=1234)
        writer.begin(early)
        names = ids(50)
        fill(writer, names)
        while writer.at <= SIZE - ENTRY_BYTES:  # the next entry begins another segment
            names.append(f"req_e_{len(names)}")
            fill(writer, names[-1:])
        await scene.until_kept(names)
        scene.store.away = True
        writer.put(ended("req_f_early"))
        await scene.until(lambda: len(scene.settled) == len(names) + 1)
        await scene.until(lambda: segments(writer.prefix) == [writer.number])
        assert carried(writer.prefix) == [early]
        await scene.die()
        scene.store.away = False
        scene.begin()
        scene.run()
        row = (await scene.until_kept([*names, "req_f_early"]))["req_f_early"]
        assert (row.state, row.prompt_tokens, row.cost_nanos, row.asked) == ("complete", 10, 15, "gpt-5.4")
        await scene.end()

    run(scenario, tmp_path)


def test_the_journals_of_a_server_that_lives_are_left_alone_until_it_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drain, "RETRY_SECONDS", 0.01)

    async def scenario(scene: Scene) -> None:
        living = Drain(tmp_path, price, scene.settled.extend)
        writer = scene.writer()
        writer.prefix = living.begin(0)
        fill(writer, ["req_f_a"])
        writer.put(begun("req_f_b"))
        scene.begin()
        scene.run()
        await scene.drain.replayed.wait()
        assert await scene.store.kept() == {}
        await living.close(None, 0)
        kept = await scene.until_kept(["req_f_a", "req_f_b"])
        assert kept["req_f_b"].state == "partial"
        await scene.end()

    run(scenario, tmp_path)


def test_a_server_that_ends_stores_what_there_still_is(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        writer = scene.writer()
        fill(writer, ids(30))
        writer.put(begun("req_f_lost"))
        await scene.drain.close(scene.store, 10)
        assert sorted(await scene.store.kept()) == sorted([*ids(30), "req_f_lost"])
        assert os.listdir(tmp_path / "journal") == []

    run(scenario, tmp_path)


def test_a_server_that_ends_while_the_store_is_away_leaves_it_to_the_next(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(scene: Scene) -> None:
        writer = scene.writer()
        fill(writer, ids(3))
        scene.store.away = True
        await scene.drain.close(scene.store, 0.05)
        scene.store.away = False
        scene.begin()
        scene.run()
        await scene.until_kept(ids(3))
        await scene.end()

    run(scenario, tmp_path)
    assert "the next start goes on with it" in caplog.text


def test_segments_that_cannot_be_deleted_are_told_of_once_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[str] = []

    def remove(prefix: str) -> None:
        tries.append(prefix)
        if len(tries) < 4:
            raise PermissionError(13, "Permission denied")
        reading.remove(prefix)

    monkeypatch.setattr("penstock.control.ledger.drain.remove", remove)

    async def scenario(scene: Scene) -> None:
        scene.run()
        fill(scene.writer(), ids(3))
        scene.drain.end(0)
        await scene.until_kept(ids(3))
        await scene.until(lambda: not scene.left())
        await scene.end()

    run(scenario, tmp_path)
    assert caplog.text.count("cannot be deleted") == 1


def test_the_rows_are_the_same_in_a_database(tmp_path: Path) -> None:
    async def main() -> None:
        stores = await open_stores("sqlite", tmp_path)
        settled: list[Settlement] = []
        draining = Drain(tmp_path, price, settled.extend)
        writer = Writer(tmp_path)
        writer.prefix = draining.begin(0)
        names = [f"req_01990000{number:04x}" for number in range(40)]
        fill(writer, names)
        await draining.close(stores.ledger, 10)
        kept = [row async for row in stores.ledger.rows(RowQuery())]
        await stores.close()
        assert sorted(row.id for row in kept) == names
        assert all(len(row.attempts) == 1 for row in kept)

    uvloop.run(main())
