"""Workers are killed at random under load, and then the ledger is held against what upstream and clients saw.

`python -m soak.kills` does it a hundred times: SIGKILL for a worker that serves, at a moment that is drawn, while
clients ask, by the dozen, for whole answers and for streams. Then it stops the server and says what is wrong:

- an answer of which a client has the last byte and that has not exactly one row;
- a request that the upstream saw and that has no row of its own, or a row that it did not see. There is a moment
  between the entry in the journal and the bytes on the wire, in which a kill leaves a row without a request: such rows
  are partial, at most as many as were in flight, and are counted;
- tokens of rows that say they were reported, and that are not those which the upstream reported for them.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import uvloop

from chaos.caller import Caller, Got, Wish
from chaos.outcome import Outcome
from penstock.fake_upstream import Answer, Chunk, FakeUpstream, Seen, Tokens
from penstock.stores.base import RequestRow, RowQuery
from penstock.stores.sql import open_stores
from support.processes import children
from support.serving import Served, serving

CONFIG = """
[server]
workers = {workers}

[providers.fake]
type = "openai"
base_url = "{base_url}"
api_key = "sk-upstream"

[models."gpt-5.4"]
targets = [{{ provider = "fake" }}]
"""

BETWEEN = (20, 120)  # requests that the upstream sees from one kill to the next


class Load:
    """Clients that ask one thing after the other, until they are told to stop or there is nobody to ask.

    `pause`: seconds between one answer and the next request.
    """

    def __init__(self, draw: random.Random, pause: float = 0.0) -> None:
        self._draw = draw
        self._pause = pause
        self.asked = 0
        self.stopping = False
        self.got: dict[str, Got] = {}  # by the request's marker

    async def ask_on(self, served: Served) -> None:
        """One client, on a new connection where the one before has broken."""
        port = int(served.url.rpartition(":")[2])
        caller = None
        while not self.stopping:
            if caller is None or not caller.open:
                try:
                    _, caller = await asyncio.get_running_loop().create_connection(Caller, "127.0.0.1", port)
                except OSError:
                    return
            self.asked += 1
            wish = Wish(f"k-{self.asked:07d}", "gpt-5.4", stream=self._draw.random() < 0.5)
            self.got[wish.marker] = await caller.ask(wish, served.key)
            await asyncio.sleep(self._pause)
        if caller is not None:
            await caller.gone()


class Kills:
    """One run: `count` kills of `workers`, under so many clients."""

    def __init__(
        self, served: Served, upstream: FakeUpstream, draw: random.Random, tell: Callable[[str], None]
    ) -> None:
        self._served = served
        self._upstream = upstream
        self._draw = draw
        self._tell = tell
        self.load = Load(draw)

    async def run(self, count: int, clients: int) -> None:
        """Kill so often; then let the answers in progress end."""
        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(self.load.ask_on(self._served))
            for number in range(count):
                await seen_more(self._upstream, self._draw.randint(*BETWEEN))
                victim = self._draw.choice(workers_of(self._served.pid))
                os.kill(victim, signal.SIGKILL)
                if number % 10 == 9:
                    self._tell(f"{number + 1} kills, {self.load.asked} requests")
            self.load.stopping = True


async def seen_more(upstream: FakeUpstream, count: int) -> None:
    """Wait until the upstream has seen so many further requests."""
    enough = upstream.requests_seen + count
    await upstream.wait_for(lambda: upstream.requests_seen >= enough, 60.0)


def workers_of(pid: int) -> list[int]:
    """The workers of a server."""
    found = []
    for child in children(pid):
        try:
            command = Path(f"/proc/{child}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"penstock.gateway.worker" in command:
            found.append(child)
    return found


def answer(seen: Seen) -> Answer:
    """What the upstream says: tokens that tell one request from another, and streams that take a moment."""
    number = int(str(seen.json()["user"])[2:])
    usage = Tokens(10 + number % 977, 1 + number % 89, number % 7)
    if not seen.stream:
        return Answer(content="Whole.", usage=usage, wait=0.01)
    return Answer(chunks=("One ", Chunk(text="two ", wait=0.01), Chunk(text="three.", wait=0.01)), usage=usage)


async def ledger_of(store: str, data_dir: Path) -> list[RequestRow]:
    """Every row."""
    stores = await open_stores(store, data_dir)
    try:
        return [row async for row in stores.ledger.rows(RowQuery())]
    finally:
        await stores.close()


def compare(
    rows: list[RequestRow], seen: list[Seen], got: Mapping[str, Got], clients: int, kills: int
) -> tuple[dict[str, object], list[str]]:
    """What was counted, and what is wrong."""
    wrong: list[str] = []
    by_user: dict[str, RequestRow] = {}
    for row in rows:
        if row.user is None or row.user in by_user:
            wrong.append(f"{row.id} is a row of {row.user}, which has another")
        else:
            by_user[row.user] = row
    calls = Counter(str(one.json()["user"]) for one in seen)
    whole = [marker for marker, one in got.items() if one.ended == "whole" and one.status == 200]
    for marker in whole:
        found = by_user.get(marker)
        if found is None or found.id != got[marker].headers["x-request-id"]:
            wrong.append(f"{marker} was answered, and has no row")
        elif found.state != "complete" or found.ended != "ok":
            wrong.append(f"{marker} was answered, and its row is {found.state}, {found.ended}")
    unsent = 0
    for marker, row in by_user.items():
        attempts = len(row.attempts)
        if calls[marker] == attempts:
            continue
        if row.state == "partial" and calls[marker] == attempts - 1:
            unsent += 1
        else:
            wrong.append(f"{marker} was called {calls[marker]} times, and has {attempts} attempts")
    for marker in calls:
        if marker not in by_user:
            wrong.append(f"{marker} was seen by the upstream, and has no row")
    if unsent > kills * clients:
        wrong.append(f"{unsent} rows were never sent")
    reported = [row for row in rows if row.completion_source == "reported"]
    for row in reported:
        number = int(str(row.user)[2:])
        expected = (10 + number % 977, 1 + number % 89, number % 7)
        if (row.prompt_tokens, row.completion_tokens, row.cached_tokens) != expected:
            wrong.append(f"{row.user} has tokens that the upstream did not report")
    figures: dict[str, object] = {
        "requests": len(got),
        "answered whole": len(whole),
        "calls that the upstream saw": len(seen),
        "rows": len(rows),
        "attempts in rows": sum(len(row.attempts) for row in rows),
        "rows marked partial": sum(row.state == "partial" for row in rows),
        "of these never sent": unsent,
        "rows with reported tokens": len(reported),
        "tokens in them": sum(row.prompt_tokens + row.completion_tokens for row in reported),
    }
    return figures, wrong


def kills(count: int, workers: int, clients: int, seed: int, tell: Callable[[str], None]) -> Outcome:
    """Kill workers `count` times; what came of it."""

    async def main() -> Outcome:
        async with FakeUpstream(answer) as upstream:
            config = CONFIG.format(workers=workers, base_url=upstream.base_url)
            with serving(config) as served:
                run = Kills(served, upstream, random.Random(seed), tell)
                await run.run(count, clients)
                await asyncio.to_thread(served.stop)
                rows = await ledger_of("sqlite", served.data_dir)
                left = sorted(str(path) for path in (served.data_dir / "journal").rglob("*"))
                figures, wrong = compare(rows, upstream.seen, run.load.got, clients, count)
                if left:
                    wrong.append(f"journals were left: {left}")
                return Outcome(figures, tuple(wrong), seed)

    return uvloop.run(main())


def main(arguments: Sequence[str]) -> int:
    """0 when nothing was wrong."""
    parser = argparse.ArgumentParser(prog="python -m soak.kills", description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seed", type=int, help="repeats the plan of a run (default: one of its own)")
    given = parser.parse_args(arguments)
    seed = random.randrange(1_000_000) if given.seed is None else given.seed

    def tell(line: str) -> None:
        print(f"kills: {line}", flush=True)

    outcome = kills(given.kills, given.workers, given.clients, seed, tell)
    print(outcome.told())
    return int(bool(outcome.wrong))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
