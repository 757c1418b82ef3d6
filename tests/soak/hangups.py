"""Clients hang up at random moments of every phase, and a key may have seven requests at once: never are there eight.

What is in flight is counted at the upstream, whenever a request comes: those of which the answer has not ended and the
connection is open, as the kernel has it, since the end of one may not have been read yet. Afterwards seven requests
are held at once, and the eighth is refused.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import socket
from collections import Counter
from collections.abc import Callable, Sequence

import uvloop

from chaos.caller import Caller, Got, HangUp, Wish
from chaos.outcome import Outcome
from penstock.fake_upstream import Answer, Chunk, FakeUpstream, Seen
from penstock.fake_upstream.connection import Connection, Request
from soak.keys import make_key
from support.serving import serving

CONFIG = """
[server]
workers = {workers}

[retries]
attempts = 1

[providers.fake]
type = "openai"
base_url = "{base_url}"
api_key = "sk-upstream"

[models."gpt-5.4"]
targets = [{{ provider = "fake" }}]

[models.hold]
targets = [{{ provider = "fake" }}]
"""
LIMIT = 7
CLIENTS = 12
PAUSE = 0.005  # seconds before a client that was refused asks again
SETTLED = 2.0  # seconds in which seven must be usable, after the last client has gone


class Watched(FakeUpstream):
    """Counts what is in flight. `most`: at once, so far."""

    def __init__(self, choose: Callable[[Seen], Answer]) -> None:
        super().__init__(choose)
        self.most = 0
        self._flying: dict[Seen, Connection] = {}

    def flying(self) -> int:
        """How many requests are in flight now."""
        self._flying = {seen: at for seen, at in self._flying.items() if seen.ended is None}
        return sum(not _has_ended(connection) for connection in self._flying.values())

    def _see(self, connection: Connection, request: Request) -> Seen:
        seen = super()._see(connection, request)
        self._flying[seen] = connection
        self.most = max(self.most, self.flying())
        return seen


def _has_ended(connection: Connection) -> bool:
    """Whether the other side has closed it, though nobody may have read that yet."""
    transport = connection._transport
    if transport.is_closing():
        return True
    with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as peeked:
        try:
            return not peeked.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except ConnectionError:
            return True


def _answer(seen: Seen) -> Answer:
    """A call of some 40 ms, in all its phases."""
    if seen.model == "hold":
        return Answer(wait="gate")
    if not seen.stream:
        return Answer(wait=0.002 * (seen.number % 20))
    chunks = tuple(Chunk(text="word ", wait=0.002) for _ in range(10))
    return Answer(wait=0.001 * (seen.number % 10), wait_first=0.01, chunks=chunks)


class Crowd:
    """The clients. `left`: in which phase, how many have hung up so far."""

    def __init__(self, port: int, key: str, draw: random.Random, tell: Callable[[str], None]) -> None:
        self._port = port
        self._key = key
        self._draw = draw
        self._tell = tell
        self._asked = 0
        self.left: Counter[str] = Counter()
        self.answered: Counter[int] = Counter()

    async def run(self, count: int) -> None:
        """Until so many have hung up."""
        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(self._ask_on(count))

    async def _ask_on(self, count: int) -> None:
        while self.left.total() < count:
            got = await self.ask("gpt-5.4", self._draw.random() < 0.6, self._going())
            if got.ended == "whole":
                self.answered[got.status] += 1
                if got.status == 429:
                    await asyncio.sleep(PAUSE)
            elif got.ended == "partial":
                self._leaves("while asking")
            elif got.ended == "gone":
                self._leaves("before the answer" if not got.status else "in the answer")
            else:
                self.answered[-1] += 1

    async def ask(self, model: str, stream: bool, going: HangUp | None = None) -> Got:
        """One request, on a connection of its own."""
        self._asked += 1
        _, caller = await asyncio.get_running_loop().create_connection(Caller, "127.0.0.1", self._port)
        got = await caller.ask(Wish(f"h-{self._asked:06d}", model, stream, going), self._key)
        await caller.gone()
        return got

    def _going(self) -> HangUp | None:
        draw = self._draw
        reset = draw.random() < 0.5
        when = draw.random()
        if when < 0.1:
            return HangUp(part=draw.random(), reset=reset)
        if when < 0.7:
            return HangUp(after=draw.random() * 0.06, reset=reset)
        return HangUp(size=draw.randint(1, 2000), reset=reset) if when < 0.95 else None

    def _leaves(self, phase: str) -> None:
        self.left[phase] += 1
        if self.left.total() % 500 == 0:
            self._tell(f"{self.left.total()} hang-ups")


async def _usable(crowd: Crowd, upstream: Watched) -> tuple[int, list[Got]]:
    """How many are held at once in the end; and what one more is told."""
    loop = asyncio.get_running_loop()
    until = loop.time() + SETTLED

    async def hold() -> Got:
        while True:
            got = await crowd.ask("hold", False)
            if got.status != 429 or loop.time() > until:
                return got
            await asyncio.sleep(PAUSE)

    holding = [asyncio.create_task(hold()) for _ in range(LIMIT)]
    try:
        await upstream.wait_for(lambda: upstream.flying() == LIMIT, SETTLED + 5.0)
    except TimeoutError:
        pass  # as many as there are, then
    usable = upstream.flying()
    beyond = await crowd.ask("hold", False) if usable == LIMIT else Got()
    upstream.open("gate")
    return usable, [beyond, *await asyncio.gather(*holding)]


def hangups(count: int, seed: int, tell: Callable[[str], None], workers: int = 2) -> Outcome:
    """So many clients hang up; what came of it."""

    async def main() -> Outcome:
        upstream = Watched(_answer)
        async with upstream:
            with serving(CONFIG.format(workers=workers, base_url=upstream.base_url)) as served:
                key = make_key(served.data_dir, "--concurrency", str(LIMIT))
                crowd = Crowd(int(served.url.rpartition(":")[2]), key, random.Random(seed), tell)
                await crowd.run(count)
                usable, (beyond, *held) = await _usable(crowd, upstream)
                figures: dict[str, object] = {"hang-ups": crowd.left.total(), **dict(crowd.left)}
                figures |= {"answered whole": crowd.answered[200], "refused with 429": crowd.answered[429]}
                figures |= {"calls that the upstream saw": upstream.requests_seen}
                figures |= {"most in flight": upstream.most, "usable in the end": usable, "one more": beyond.status}
                wrong = []
                if upstream.most > LIMIT:
                    wrong.append(f"{upstream.most} were in flight at once")
                if usable != LIMIT or beyond.status != 429 or {one.status for one in held} != {200}:
                    wrong.append(f"in the end {usable} were usable, and one more was told {beyond.status}")
                if others := {status: many for status, many in crowd.answered.items() if status not in (200, 429)}:
                    wrong.append(f"some were told otherwise: {others}")
                await asyncio.to_thread(served.stop)
        return Outcome(figures, tuple(wrong), seed)

    return uvloop.run(main())


def main(arguments: Sequence[str]) -> int:
    """0 when nothing was wrong."""
    parser = argparse.ArgumentParser(prog="python -m soak --scenario hangups")
    parser.add_argument("--hang-ups", type=int, default=2000)
    parser.add_argument("--seed", type=int, help="repeats the plan of a run (default: one of its own)")
    given = parser.parse_args(arguments)
    seed = random.randrange(1_000_000) if given.seed is None else given.seed
    outcome = hangups(given.hang_ups, seed, lambda line: print(f"hangups: {line}", flush=True))
    print(outcome.told())
    return int(bool(outcome.wrong))
