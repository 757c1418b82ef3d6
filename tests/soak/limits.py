"""Limits under a load that wants more than they allow: clients that hang up at any moment, and clients that ask on.

`python -m soak.limits hangups`: clients of a key that may have seven requests at once hang up, two thousand times, at
moments that are drawn: before anything came, in the middle, near the end. The upstream never sees eight at once; and
when all have gone, seven are let in at once, and no eighth.

`python -m soak.limits rate`: clients ask on and on for what a limit on requests per minute does not allow. In no 60
seconds does the upstream see more than the limit, and it sees at least 98 % of it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import sys
import time
from collections.abc import Callable, Sequence

import uvloop

from chaos.outcome import Outcome
from penstock.fake_upstream import Answer, Chunk, FakeUpstream
from support.limited_keys import limited_key
from support.raw import Raw, chat_request, raw_client
from support.serving import Served, serving

CONFIG = """
[server]
workers = {workers}
access_log = false
{more}

[providers.fake]
type = "openai"
base_url = "{base_url}"
api_key = "sk-upstream"
max_connections = 4000

[models."gpt-5.4"]
targets = [{{ provider = "fake" }}]
"""

STREAM = Answer(chunks=tuple(Chunk(text=f"word{n} ", wait=0.002) for n in range(8)), wait=0.003)
GATED = Answer(chunks=(Chunk(text="first "), Chunk(text="last", wait="later")))


def address_of(served: Served) -> tuple[str, int]:
    return "127.0.0.1", int(served.url.rpartition(":")[2])


class Hangups:
    """Clients that hang up until the upstream has seen it often enough."""

    def __init__(self, served: Served, upstream: FakeUpstream, key: str, draw: random.Random) -> None:
        self._address = address_of(served)
        self._upstream = upstream
        self._key = key
        self._draw = draw
        self.left = 0
        self.refused = 0
        self.whole = 0

    async def run(self, count: int, clients: int) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(self._ask_on(count))

    async def _ask_on(self, count: int) -> None:
        while self.left < count or sum(one.hung_up for one in self._upstream.seen) < count:
            async with raw_client(self._address) as client:
                await client.send(chat_request(key=self._key, stream=self._draw.random() < 0.8))
                await self._leave(client)

    async def _leave(self, client: Raw) -> None:
        """Go, at a moment that is drawn; or stay to the end."""
        way = self._draw.random()
        if way < 0.5:  # before anything came, or soon after
            await asyncio.sleep(self._draw.random() * 0.03)
            head = b""
        else:
            head = await client.read_some()
            if b" 429 " in head[:20]:
                self.refused += 1
                return
            if way < 0.8:
                await asyncio.sleep(self._draw.random() * 0.02)
            elif way > 0.9:
                while not (head.endswith(b"0\r\n\r\n") or b"Content-Length" in head):
                    head = await client.read_some()
                self.whole += 1
                return
        self.left += 1
        if self._draw.random() < 0.5:
            client.writer.transport.abort()


async def usable(served: Served, key: str, upstream: FakeUpstream, most: int) -> int:
    """How many are let in at once, of `most`, when each stays; they are let go afterwards."""
    async with contextlib.AsyncExitStack() as stack:
        heads = []
        for _ in range(most):
            client = await stack.enter_async_context(raw_client(address_of(served)))
            await client.send(chat_request(key=key, stream=True, user="stay"))
            heads.append(await client.read_some())
        upstream.open("later")
    return sum(head.startswith(b"HTTP/1.1 200 ") for head in heads)


def hangups(count: int, workers: int, clients: int, seed: int, concurrency: int = 7) -> Outcome:
    """`count` hang-ups at that limit; what came of it."""

    async def main() -> Outcome:
        def answer(asked: object) -> Answer:
            return GATED if b'"stay"' in getattr(asked, "body", b"") else STREAM

        async with FakeUpstream(answer) as upstream:
            with serving(CONFIG.format(workers=workers, base_url=upstream.base_url, more="")) as served:
                key = await asyncio.to_thread(limited_key, served, "--concurrency", str(concurrency))
                run = Hangups(served, upstream, key, random.Random(seed))
                await run.run(count, clients)
                async with asyncio.timeout(10):
                    await upstream.wait_for(lambda: all(one.ended for one in upstream.seen))
                seen = list(upstream.seen)
                at_once = most_at_once([(one.started_at, one.ended_at or 0.0) for one in seen])
                let_in = await usable(served, key, upstream, concurrency + 1)
        wrong = []
        if at_once > concurrency:
            wrong.append(f"{at_once} were in flight at once")
        if let_in != concurrency:
            wrong.append(f"{let_in} were let in at once afterwards")
        figures: dict[str, object] = {
            "hang-ups": run.left,
            "of these while the upstream answered": sum(one.hung_up for one in seen),
            "whole answers": run.whole,
            "refused": run.refused,
            "requests that the upstream saw": len(seen),
            "most in flight at once": at_once,
            "let in at once afterwards": let_in,
        }
        return Outcome(figures, tuple(wrong), seed)

    return uvloop.run(main())


def most_at_once(spans: Sequence[tuple[float, float]]) -> int:
    """The most spans that any moment has."""
    moments = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    now = most = 0
    for _, change in moments:
        now += change
        most = max(most, now)
    return most


def most_in_any(moments: Sequence[float], seconds: float) -> int:
    """The most moments that lie within so many seconds, wherever they begin."""
    ordered, first, most = sorted(moments), 0, 0
    for last, moment in enumerate(ordered):
        while ordered[first] <= moment - seconds:
            first += 1
        most = max(most, last - first + 1)
    return most


async def ask_on(served: Served, key: str, until: float, pause: float) -> None:
    """One client that asks again as soon as it has an answer, whatever that is."""
    while time.monotonic() < until:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, TimeoutError):
            async with raw_client(address_of(served)) as client:
                while time.monotonic() < until:
                    await client.send(chat_request(key=key, max_tokens=5))
                    head = await client.read_until(b"\r\n\r\n")
                    size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                    await client.reader.readexactly(size)
                    await asyncio.sleep(pause)


def rate(limit: int, workers: int, clients: int, seconds: float, gateways: int = 1, counters: str = "local") -> Outcome:
    """Excess demand for so long at a limit on requests per minute; what the upstream saw."""

    async def main() -> Outcome:
        async with FakeUpstream(Answer(content="yes")) as upstream:
            more = f'counters = "{counters}"' if counters != "local" else ""
            config = CONFIG.format(workers=workers, base_url=upstream.base_url, more=more)
            with contextlib.ExitStack() as stack:
                servers = [stack.enter_context(serving(config)) for _ in range(gateways)]
                key = await asyncio.to_thread(limited_key, servers[0], "--rpm", str(limit))
                until = time.monotonic() + seconds
                async with asyncio.TaskGroup() as group:
                    for number in range(clients):
                        group.create_task(ask_on(servers[number % gateways], key, until, clients / 4000))
                return judged([one.started_at for one in upstream.seen], limit)

    return uvloop.run(main())


def judged(moments: Sequence[float], limit: int) -> Outcome:
    """Whether the limit was kept, and used: as often as it was full, at once or in time."""
    moments = sorted(moments)
    most = most_in_any(moments, 60.0)
    wrong = [f"{most} requests within 60 seconds"] if most > limit else []
    if most < 0.98 * limit:
        wrong.append(f"no more than {most} requests within 60 seconds")
    figures: dict[str, object] = {"requests": len(moments), "most in any 60 seconds": most}
    rounds = (len(moments) - 1) // limit
    if rounds:
        share = rounds * 60.0 / (moments[rounds * limit] - moments[0])
        figures["share of the limit that was used"] = f"{share:.1%}"
        if share < 0.98:
            wrong.append(f"only {share:.1%} of the limit was used")
    return Outcome(figures, tuple(wrong))


def main() -> int:
    """0 when nothing was wrong."""
    parser = argparse.ArgumentParser(prog="python -m soak.limits", description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("hangups", "rate"))
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--clients", type=int)
    parser.add_argument("--seconds", type=float, default=200.0)
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--seed", type=int, help="repeats the plan of a run (default: one of its own)")
    given = parser.parse_args()
    seed = random.randrange(1_000_000) if given.seed is None else given.seed
    runs: dict[str, Callable[[], Outcome]] = {
        "hangups": lambda: hangups(given.count, given.workers or 2, given.clients or 12, seed),
        "rate": lambda: rate(given.limit, given.workers or 4, given.clients or 200, given.seconds),
    }
    outcome = runs[given.what]()
    print(outcome.told())
    return int(bool(outcome.wrong))


if __name__ == "__main__":
    sys.exit(main())
