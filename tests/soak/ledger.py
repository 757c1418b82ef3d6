"""Five million rows in a ledger, and how long it takes to ask it what was used.

`python -m soak.ledger` fills a SQLite file and a PostgreSQL of its own with the same ninety days of 200 keys in 20
projects, by the way that every row goes in, then asks each question several times and prints the median. With
`--rows` it is smaller, with `--store` it fills one kind; the exit status is 1 if a question takes longer than LIMIT.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from penstock.limits import Limit
from penstock.stores.base import AttemptRow, Ledger, Mark, RequestRow, UsageQuery
from penstock.stores.base.ledger import TokenSource
from penstock.stores.sql import open_stores
from support.postgres import postgres_server

ROWS = 5_000_000
LIMIT = 0.100  # seconds for a question of usage
BATCH = 5_000
DAYS, KEYS, PROJECTS = 90, 200, 20
FIRST = 1_793_836_800.0  # 2026-11-05T00:00Z
LAST = FIRST + DAYS * 86_400
MODELS = ("gpt-5.4", "gpt-5.4-mini", "claude-large", "office-8b", "office-70b", "embed-small", "vision", "llama")
TURNS = 5


class Timed(NamedTuple):
    """A question and the seconds that each asking took."""

    question: str
    seconds: list[float]
    lines: int

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def made(count: int) -> Iterator[RequestRow]:
    """So many requests over the ninety days, in order of time; each key uses three models, some keys far more."""
    draw = random.Random(1)
    weights = list(itertools.accumulate(1 / (rank + 1) for rank in range(KEYS)))
    keys = draw.choices(range(KEYS), cum_weights=weights, k=4096)
    for number in range(count):
        key = keys[number * 31 % 4096]
        at = FIRST + (LAST - FIRST) * number / count
        asked = MODELS[(key + (number * 7 + key) % 3) % len(MODELS)]
        yield _row(number, at, f"key_{key:024x}", f"prj_{key % PROJECTS}", asked)


def _row(number: int, at: float, key_id: str, project_id: str, asked: str) -> RequestRow:
    id_ = f"req_{int(at * 1000):012x}{number & 0xFFFFFF:06x}{number % 4:012x}"
    prompt, completion = 200 + number % 900, 20 + number % 300
    rest = number % 100  # one in a hundred was estimated, and one has a tag
    source: TokenSource = "estimated" if rest == 1 else "reported"
    cost = None if asked == "llama" else 1_500 * prompt + 6_000 * completion
    tried = AttemptRow(
        f"{id_}/1", id_, 1, "openai", asked, 200, "ok", prompt, prompt // 3, completion, completion // 4,
        source, source, cost, "2026-11", 812.25, 0.0, "complete",
    )  # fmt: skip
    return RequestRow(
        id_, at, key_id, project_id, "chat.completions", asked, asked, "openai", asked, True, 200, "ok", None, "stop",
        prompt, prompt // 3, completion, completion // 4, source, source, cost, "2026-11", 812.25, 120.5,
        "nightly" if rest == 2 else "", None, None, b"", "complete", (tried,),
    )  # fmt: skip


async def fill(ledger: Ledger, rows: int, title: str) -> float:
    """Store them, and show how far it has come; seconds of processor time for each request, making it not counted."""
    spent, done = 0.0, 0
    source = made(rows)
    while chunk := list(itertools.islice(source, BATCH)):
        began = time.process_time()
        await ledger.store(chunk, [Mark("soak", done)])
        spent += time.process_time() - began
        done += len(chunk)
        if sys.stderr.isatty():
            bar = "#" * (40 * done // rows)
            print(f"\r{title} [{bar:40}] {done:,} of {rows:,}", end="", file=sys.stderr)
    print(f"\r{title}: {done:,} rows stored, {spent / rows * 1e6:.1f} us of our CPU each", file=sys.stderr)
    return spent / rows


QUERIES = {
    "by key, all the time": UsageQuery(by=("key",)),
    "by model, all the time": UsageQuery(by=("model",)),
    "by project, all the time": UsageQuery(by=("project",)),
    "by day, all the time": UsageQuery(by=("day",)),
    "by day and model, all the time": UsageQuery(by=("day", "model")),
    "by key, last 7 days to the hour": UsageQuery(by=("key",), since=LAST - 7 * 86_400 - 1800),
    "by hour, last 7 days": UsageQuery(by=("hour",), since=LAST - 7 * 86_400),
    "by day, one key": UsageQuery(by=("day",), key_id=f"key_{0:024x}"),
    "in all, one key": UsageQuery(key_id=f"key_{0:024x}"),
    "by day, one project": UsageQuery(by=("day",), project_id="prj_3"),
}
SPENT = {
    "a key's dollars of its whole life": (Limit("key", f"key_{0:024x}", "usd_total", 1), 0.0, float("inf")),
    "a project's month, rolling": (Limit("project", "prj_3", "tokens_per_month", 1), LAST - 30 * 86_400, 10_800.0),
    "a project's day, rolling": (Limit("project", "prj_3", "tokens_per_day", 1), LAST - 86_400, 360.0),
    "a key's minute": (Limit("key", f"key_{0:024x}", "rpm", 1), LAST - 60, 0.25),
    "a key's month, models by a prefix": (
        Limit("key", f"key_{0:024x}", "usd_per_month", 1, "gpt-*"),
        LAST - 30 * 86_400,
        10_800.0,
    ),
}
SLOW = {"by tag, last 7 days": UsageQuery(by=("tag",), since=LAST - 7 * 86_400)}  # read from the rows, unbounded


async def asked(ledger: Ledger) -> list[Timed]:
    """Each question, asked several times."""
    found = []
    for question, query in (QUERIES | SLOW).items():
        seconds, lines = [], 0
        for _ in range(TURNS):
            began = time.perf_counter()
            lines = len(await ledger.usage(query))
            seconds.append(time.perf_counter() - began)
        found.append(Timed(question, seconds, lines))
    for question, (limit, since, span) in SPENT.items():
        seconds, lines = [], 0
        for _ in range(TURNS):
            began = time.perf_counter()
            lines = len(await ledger.spent(limit, since, span))
            seconds.append(time.perf_counter() - began)
        found.append(Timed(question, seconds, lines))
    return found


async def measured(store: str, directory: Path, rows: int) -> list[Timed]:
    stores = await open_stores(store, directory, lambda: LAST)
    title = store.partition("://")[0]
    try:
        await fill(stores.ledger, rows, title)
        found = await asked(stores.ledger)
    finally:
        await stores.close()
    for timed in found:
        print(f"{title:10}  {timed.question:36} {timed.median * 1000:8.1f} ms  {timed.lines:6} lines")
    return found


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m soak.ledger", description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--store", choices=("sqlite", "postgresql"), help="only this kind")
    given = parser.parse_args(arguments)
    found: list[Timed] = []
    with ExitStack() as stack:
        if given.store != "postgresql":
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            found += asyncio.run(measured("sqlite", directory, given.rows))
        if given.store != "sqlite":
            server = stack.enter_context(postgres_server())
            found += asyncio.run(measured(server.create(), Path(), given.rows))
    slow = [timed for timed in found if timed.question not in SLOW and timed.median > LIMIT]
    for timed in slow:
        print(f"over {LIMIT * 1000:.0f} ms: {timed.question}")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
