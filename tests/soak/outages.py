"""The database stops and comes back, then the parent is killed: the ledger has everything all the same.

`python -m soak.outages` lets clients ask while PostgreSQL, where keys and ledger are, is stopped for a minute: they
must be answered all the time, and when it is back every row must come without a restart. Then the parent is killed by
SIGKILL under load, and started again on the same data directory, with the same database. In the end the rows are held
against what upstream and clients saw, as in `soak.kills`.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import uvloop

from chaos.outcome import Outcome
from penstock.fake_upstream import FakeUpstream
from soak.kills import CONFIG, Load, answer, compare, ledger_of, seen_more
from support.postgres import PostgresServer, postgres_server
from support.serving import Served, serving

BEFORE = 100  # requests before something happens
CLIENTS = 8
BACK = 30.0  # seconds within which every row must have come, once the database or the parent is back


class Killed(Exception):
    """The server is no more, and need not end by itself."""


class Outages:
    """One run of both."""

    def __init__(self, upstream: FakeUpstream, server: PostgresServer, seed: int, tell: Callable[[str], None]) -> None:
        self._upstream = upstream
        self._server = server
        self._tell = tell
        self.load = Load(random.Random(seed), pause=0.02)
        self.figures: dict[str, object] = {}
        self.wrong: list[str] = []

    async def stop_the_database(self, served: Served, url: str, seconds: float) -> None:
        """Have it away for so long, under load; then wait for the rows."""
        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(self.load.ask_on(served))
            await seen_more(self._upstream, BEFORE)
            await _until(lambda: " serves, configured by " in served.output)  # a start without a database is none
            self._tell("the database stops")
            await asyncio.to_thread(self._server.stop)
            began, seen = time.monotonic(), self._upstream.requests_seen
            while time.monotonic() < began + seconds or self._upstream.requests_seen < seen + BEFORE:
                await seen_more(self._upstream, 10)
            self.figures["answered while the database was away"] = self._upstream.requests_seen - seen
            self._tell("the database is back")
            await asyncio.to_thread(self._server.start)
            await seen_more(self._upstream, BEFORE)
            self.load.stopping = True
        asked = self.load.asked
        await _until(lambda: self._count(url) >= asked)
        kept = self._count(url)
        self.figures["rows when it was back"] = kept
        if kept != asked:
            self.wrong.append(f"{kept} rows of {asked} requests came without a restart")
        for said in ("the ledger is not stored for now", "the ledger is stored again"):
            if served.output.count(said) != 1:
                self.wrong.append(f"said {served.output.count(said)} times: {said}")

    def _count(self, url: str) -> int:
        return int(self._server.sql(url.partition("@/")[2].partition("?")[0], "SELECT count(*) FROM ledger_requests"))

    async def kill_the_parent(self, served: Served) -> None:
        """Under load."""
        self.load.stopping = False
        asking = [asyncio.create_task(self.load.ask_on(served)) for _ in range(CLIENTS)]
        await seen_more(self._upstream, BEFORE)
        self._tell("the parent is killed")
        served.process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(served.process.wait)
        await asyncio.gather(*asking)


async def _until(holds: Callable[[], bool]) -> None:
    """Wait for what tells nobody, as long as it may take."""
    began = time.monotonic()
    while not await asyncio.to_thread(holds) and time.monotonic() < began + BACK:  # noqa: ASYNC110
        await asyncio.sleep(0.05)


def outages(seconds: float, seed: int, tell: Callable[[str], None]) -> Outcome:
    """`seconds`: that the database is away. What came of it."""

    async def main() -> Outcome:
        with postgres_server() as server, tempfile.TemporaryDirectory(prefix="penstock-") as directory:
            url, journals = server.create(), Path(directory) / "journal"
            async with FakeUpstream(answer) as upstream:
                config = CONFIG.format(workers=2, base_url=upstream.base_url)
                config = config.replace("[server]", f'[server]\nstore = "{url}"')
                data_dir = ("--data-dir", directory)
                run = Outages(upstream, server, seed, tell)
                with suppress(Killed), serving(config, arguments=data_dir) as served:
                    await run.stop_the_database(served, url, seconds)
                    await run.kill_the_parent(served)
                    raise Killed
                with serving(config, arguments=data_dir) as served:
                    await _until(lambda: len(list(journals.iterdir())) == 1)
                    await asyncio.to_thread(served.stop)
                rows = await ledger_of(url, Path(directory))
                figures, wrong = compare(rows, upstream.seen, run.load.got, CLIENTS, 1)
                if list(journals.iterdir()):
                    wrong.append("journals were left")
                return Outcome(run.figures | figures, (*run.wrong, *wrong), seed)

    return uvloop.run(main())


def main(arguments: Sequence[str]) -> int:
    """0 when nothing was wrong."""
    parser = argparse.ArgumentParser(prog="python -m soak.outages", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, help="repeats the plan of a run (default: one of its own)")
    given = parser.parse_args(arguments)
    seed = random.randrange(1_000_000) if given.seed is None else given.seed

    def tell(line: str) -> None:
        print(f"outages: {line}", flush=True)

    outcome = outages(given.seconds, seed, tell)
    print(outcome.told())
    return int(bool(outcome.wrong))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
