"""Two hundred clients want far more than the thousand requests a minute that their key may make, of four workers.

They ask again and again, a moment after they were refused. A request was admitted after its client sent it and before
it arrived at the upstream: no sliding minute holds all of that of more requests than the limit, and over whole minutes
nearly all of it is used. By arrivals alone it may look like a few more, where the machine lets some wait for a quarter
of a second in the burst with which each minute begins. A limit that could not be counted in time would be a 503.
"""

from __future__ import annotations

import argparse
import asyncio
import bisect
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import msgspec
import uvloop

from chaos.caller import Caller, Wish
from chaos.outcome import Outcome
from soak.arrivals import arrivals
from soak.keys import make_key
from support.serving import serving

CONFIG = """
[server]
workers = {workers}
{server}

[limits]
rates_fail_open = false

[providers.fake]
type = "openai"
base_url = "{base_url}"
api_key = "sk-upstream"

[models."gpt-5.4"]
targets = [{{ provider = "fake" }}]
"""
MINUTE = 60.0
LEAST = 0.98  # of the limit that is to be used
MOST_LATE = 0.01  # of all answers, on a machine that has other things to do
AGAIN = (0.2, 1.0)  # seconds after which a client that was refused asks again


class Demand(msgspec.Struct, frozen=True):
    """What is asked for: a limit, for so many whole minutes, or for `seconds` of the first one."""

    limit: int
    minutes: int
    clients: int
    seconds: float = 0.0

    @property
    def admitted(self) -> int:
        """As soon as so many were, it is enough."""
        return self.limit * self.minutes + 1 if self.minutes else self.limit + 1

    @property
    def patience(self) -> float:
        return self.seconds or MINUTE * (self.minutes + 1)


class Crowd:
    """Clients that share a key. `answered`: by status; `sent`: when each request was, by its marker."""

    def __init__(self, places: Sequence[tuple[str, int]], key: str, seed: int) -> None:
        self._places = places
        self._key = key
        self._draw = random.Random(seed)
        self.answered: Counter[int] = Counter()
        self.sent: dict[str, float] = {}

    async def run(self, demand: Demand, tell: Callable[[str], None]) -> None:
        """Ask until enough were admitted, or for as long as there is patience."""
        try:
            async with asyncio.timeout(demand.patience), asyncio.TaskGroup() as group:
                for number in range(demand.clients):
                    group.create_task(self._ask_on(number, demand.admitted, tell))
        except TimeoutError:
            pass  # the figures say so

    async def _ask_on(self, number: int, admitted: int, tell: Callable[[str], None]) -> None:
        host, port = self._places[number % len(self._places)]
        caller = None
        try:
            while self.answered[200] < admitted:
                if caller is None or not caller.open:
                    _, caller = await asyncio.get_running_loop().create_connection(Caller, host, port)
                marker = f"m-{len(self.sent)}"
                self.sent[marker] = time.monotonic()
                got = await caller.ask(Wish(marker, "gpt-5.4", stream=False), self._key)
                self.answered[got.status] += 1
                if got.status != 200:
                    await asyncio.sleep(self._draw.uniform(*AGAIN))
                elif self.answered[200] % 1000 == 0:
                    tell(f"{self.answered[200]} admitted, {self.answered[429]} refused")
        finally:
            if caller is not None:
                await caller.gone()


def judged(arrived: Mapping[str, float], crowd: Crowd, demand: Demand) -> tuple[dict[str, object], list[str]]:
    """What was measured, and what is wrong. `arrived`: when each request did, by its marker."""
    times, answered = sorted(arrived.values()), crowd.answered
    most = _most([(at, at) for at in times])
    surely = _most([(crowd.sent[marker], at) for marker, at in arrived.items()])
    figures: dict[str, object] = {
        "arrived": len(times),
        "refused with 429": answered[429],
        "not counted in time, 503": answered[503],
        "most that were admitted in a sliding minute, surely": surely,
        "most that arrived in one": most,
    }
    wrong = [f"{surely} were admitted within a minute"] if surely > demand.limit else []
    minutes = demand.minutes
    if minutes:
        whole = demand.limit * minutes
        if len(times) > whole:
            used = minutes * MINUTE / (times[whole] - times[0])
            figures["of the limit, over the whole"] = f"{used:.2%} in {times[whole] - times[0]:.1f} s"
            if used < LEAST:
                wrong.append(f"only {used:.2%} of the limit was used")
        else:
            wrong.append(f"only {len(times)} arrived")
    if answered[503] > MOST_LATE * answered.total():
        wrong.append(f"{answered[503]} could not be counted in time")
    if others := {status: many for status, many in answered.items() if status not in (200, 429, 503)}:
        wrong.append(f"some were told otherwise: {others}")
    return figures, wrong


def _most(spans: Sequence[tuple[float, float]]) -> int:
    """How many of these spans one minute holds at most."""
    ends: list[float] = []
    most = 0
    for first, last in sorted(spans, reverse=True):
        bisect.insort(ends, last)
        most = max(most, bisect.bisect_left(ends, first + MINUTE))
    return most


def minute(demand: Demand, workers: int, tell: Callable[[str], None]) -> Outcome:
    """So much is asked of one server."""
    with arrivals("127.0.0.1:0") as upstream:
        with serving(CONFIG.format(workers=workers, base_url=upstream.base_url, server="")) as served:
            key = make_key(served.data_dir, "--rpm", str(demand.limit))
            crowd = Crowd([("127.0.0.1", int(served.url.rpartition(":")[2]))], key, seed=1)
            uvloop.run(crowd.run(demand, tell))
        figures, wrong = judged(upstream.stop(), crowd, demand)
    return Outcome(figures, tuple(wrong))


def main(arguments: Sequence[str]) -> int:
    """0 when nothing was wrong."""
    parser = argparse.ArgumentParser(prog="python -m soak --scenario minute")
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--minutes", type=int, default=3)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--workers", type=int, default=4)
    given = parser.parse_args(arguments)
    demand = Demand(given.limit, given.minutes, given.clients)
    outcome = minute(demand, given.workers, lambda line: print(f"minute: {line}", flush=True))
    print(outcome.told())
    return int(bool(outcome.wrong))
