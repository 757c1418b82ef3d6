"""What one request costs the parent: counted in instructions, inside one process.

A journal is written as a worker writes it, a thousand requests at a time, and the parent's own parts read it, price it,
settle it, and store its rows in SQLite. What the writing alone takes is counted, too, and left out. With --limits each
request reserved something of a lease of 400 that the parent granted, of a key with limits of every kind on itself and
on its project.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uvloop

from path import CONFIGURATION, HERE, collected
from penstock import link
from penstock.config import load
from penstock.control.counters import Board, Counters, Sources
from penstock.control.ledger import Drain
from penstock.control.prices import Prices
from penstock.journal import ENTRY_BYTES, MAGIC, SEGMENT_BYTES, Answered, Context, Sent, framed, segment_path
from penstock.limits import Limit
from penstock.providers.registry import SETTINGS
from penstock.stores.slices import MemorySlices
from penstock.stores.sql import Stores, open_stores

COUNT = 2000
TOGETHER = 1000  # requests, before they are waited for
LEASE = 400
PRICES = """
[prices."mock/mock-model"]
input = 1.25
output = 10.0
"""
METERS = ("rpm", "tpm", "concurrency", "requests_per_day", "tokens_per_month", "usd_per_month")
LIMITS = (
    *(Limit("key", "key_1", meter, 10**12) for meter in METERS),
    *(Limit("project", "prj_1", meter, 10**12) for meter in METERS),
)
CONTEXT = Context(1, "mock", "mock-model", "mock-model", "key_1", "prj_1", "chat.completions", "mock-model")


class Segments:
    """The segments of a journal, written in order."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._number = 0
        self._left = 0

    def put(self, entry: Sent | Answered) -> None:
        if self._left < ENTRY_BYTES:
            self._number += 1
            self._file = Path(segment_path(self._prefix, self._number)).open("w+b", buffering=0)  # noqa: SIM115
            self._file.truncate(SEGMENT_BYTES)
            self._file.write(MAGIC)
            self._left = SEGMENT_BYTES - len(MAGIC)
            self._write(framed(CONTEXT))
        self._write(framed(entry))

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._left -= len(data)


class Host:
    """The parent's counters and ledger, and the journal that they are fed with."""

    def __init__(self, directory: Path, stores: Stores, limited: bool) -> None:
        file = directory / "penstock.toml"
        file.write_text(CONFIGURATION + PRICES)
        self._stores = stores
        self._limited = limited
        self._leased: list[link.Message] = []
        prices = Prices(load(file, {}, SETTINGS), lambda: None)  # type: ignore[arg-type, return-value]
        sources = Sources(lambda _key, _project: LIMITS, prices.rates)
        self._counters = Counters(MemorySlices(), sources, lambda _worker, _recall: True, Board(), mark="b-")
        self._drain = Drain(directory, prices.tariff, self._counters.settle)
        self._segments = Segments(self._drain.begin(0))

    async def feed(self, count: int, drained: bool) -> None:
        draining = asyncio.ensure_future(self._drain.run(self._stores.ledger)) if drained else None
        lease = None
        for number in range(count):
            if self._limited and number % LEASE == 0:
                lease = await self._lease(number)
            self._write(number, lease)
            while drained and number % TOGETHER == TOGETHER - 1 and self._stored() <= number:  # noqa: ASYNC110  # it tells nobody
                await asyncio.sleep(0.02)
        if draining is not None:
            draining.cancel()
            await asyncio.gather(draining, return_exceptions=True)

    def _stored(self) -> float:
        return sum(one.value for one in self._drain.series() if one.name == "penstock_ledger_rows_total")

    async def _lease(self, ref: int) -> str:
        targets = (("mock", "mock-model"),)
        question = link.Lease(ref, "key_1", "prj_1", "mock-model", 75, 300, targets, more=LEASE - 1)
        self._counters.ask(0, question, self._leased.append)
        while not self._leased:  # noqa: ASYNC110  # its counters begin
            await asyncio.sleep(0)
        leased = self._leased.pop()
        assert isinstance(leased, link.Leased)
        assert leased.more == LEASE - 1
        return leased.lease

    def _write(self, number: int, lease: str | None) -> None:
        at = 1_800_000_000.0 + number / 10_000
        id_ = f"req_{int(at * 1000):012x}{number * 7919:020x}"
        reserved = () if lease is None else (lease, 1, 375, 3_093_750)
        self._segments.put(Sent(id_, CONTEXT.number, False, at, 300, *reserved))
        self._segments.put(Answered(id_, "stop", "reported", 87, 34, 0, 0, 0, 1.5, None, 1.2))


async def run(count: int, drained: bool, limited: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        stores = await open_stores("sqlite", Path(name), time.time)
        await Host(Path(name), stores, limited).feed(count, drained)
        await stores.close()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limits", action="store_true", help="of a key with limits of every kind")
    parser.add_argument("--source", type=Path, default=HERE.parent / "src")
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run is not None:
        uvloop.run(run(int(arguments.run[0]), arguments.run[1] == "drained", arguments.limits))
        return
    assert shutil.which("valgrind") is not None, "valgrind is needed to count instructions: apt-get install valgrind"
    limits = ["--limits"] if arguments.limits else []
    runs = [(count, what) for what in ("drained", "written") for count in (COUNT, 3 * COUNT)]
    with ThreadPoolExecutor(2) as jobs:
        few, many, written, more = jobs.map(
            lambda each: collected(
                [sys.executable, __file__, "--run", str(each[0]), each[1], *limits], arguments.source
            ),
            runs,
        )
    print(f"{((many - few) - (more - written)) / (2 * COUNT):.0f} instructions a request in the parent")


if __name__ == "__main__":
    main()
