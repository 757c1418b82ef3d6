"""A storm of 429s: 64 clients that ask again as soon as they may, before upstreams that allow ten requests a second.

Upstreams of every kind at once, each with a model, a line and clients of its own: refilled steadily or by the second,
with Retry-After or without, with x-ratelimit headers or without. Counted is what each upstream answered, from the
sixth second on.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Literal

import uvloop

from chaos.books import judge
from chaos.caller import Caller, Wish
from chaos.outcome import Outcome
from penstock.fake_upstream import Answer, FakeUpstream, Rate, Script, Seen
from support.serving import Served, free_ports, serving

CLIENTS = 64
ALLOWED = 10.0  # requests a second
CALM = 5.0  # seconds until it must have calmed down
GOODPUT, REFUSED = 0.9, 0.1
REFILLS: tuple[Literal["steady", "window"], ...] = ("steady", "window")
KINDS = [Rate(ALLOWED, 10, *kind) for kind in itertools.product(REFILLS, (False, True), (False, True))]

PROVIDER = """
[providers.u{number}]
type = "openai"
base_url = "http://127.0.0.1:{port}/v1"
api_key = "sk-of-the-provider"

[models.m-{number}]
targets = [{{ provider = "u{number}" }}]
"""


def told(kind: Rate) -> str:
    """A kind of upstream in words."""
    words = [kind.refill] + ["with Retry-After"] * kind.retry_after + ["with headers"] * kind.headers
    return ", ".join(words)


class Storm:
    """One storm, in front of one gateway."""

    def __init__(
        self, served: Served, ports: list[int], tell: Callable[[str], None], goodput: float, refused: float
    ) -> None:
        self._served = served
        self._port = int(served.url.rpartition(":")[2])
        self._ports = ports
        self._tell = tell
        self._goodput = goodput
        self._refused = refused
        self._counts: list[Counter[int]] = [Counter() for _ in KINDS]  # statuses, once it should be calm
        self._from = 0.0
        self._outcomes: Counter[str] = Counter()
        self.figures: dict[str, object] = {}
        self.wrong: list[str] = []

    async def run(self, seconds: float) -> None:
        """All of it."""
        async with AsyncExitStack() as stack:
            for number, (kind, port) in enumerate(zip(KINDS, self._ports, strict=True)):
                script = Script(models={"*": (Answer(chunks=("1/1 ",), wait=0.05),)}, rate=kind)
                listen = f"127.0.0.1:{port}"
                upstream = FakeUpstream(script, listen=listen, on_end=self._counter(number), remember=False)
                await stack.enter_async_context(upstream)
            began = time.monotonic()
            self._from = began + CALM
            async with asyncio.TaskGroup() as group:
                clients = [
                    group.create_task(self._client(number, client))
                    for number in range(len(KINDS))
                    for client in range(CLIENTS)
                ]
                await asyncio.sleep(CALM)
                self._tell("it should be calm now")
                await asyncio.sleep(seconds)
                counts, took = [counter.copy() for counter in self._counts], time.monotonic() - self._from
                for client_task in clients:
                    client_task.cancel()
        self._look(counts, took)

    def _counter(self, number: int) -> Callable[[Seen], None]:
        def count(seen: Seen) -> None:
            if seen.started_at >= self._from and seen.status:
                self._counts[number][seen.status] += 1

        return count

    async def _client(self, number: int, client: int) -> None:
        """Ask again at once after an answer, and after a refusal in a second."""
        _, caller = await asyncio.get_running_loop().create_connection(Caller, "127.0.0.1", self._port)
        try:
            for turn in itertools.count():
                wish = Wish(f"s{number}-{client:02d}-{turn:05d}", f"m-{number}", stream=bool(client % 2))
                outcome = judge(wish, await caller.ask(wish, self._served.key))
                self._outcomes[outcome] += 1
                if outcome != "ok":
                    await asyncio.sleep(1.0)
        finally:
            caller.close()

    def _look(self, counts: list[Counter[int]], took: float) -> None:
        for kind, count in zip(KINDS, counts, strict=True):
            goodput = count[200] / (ALLOWED * took)
            refused = count[429] / max(1, count.total())
            self.figures[told(kind)] = (
                f"{goodput:.0%} of what is allowed, {refused:.1%} of {count.total()} calls refused"
            )
            if goodput < self._goodput or refused >= self._refused:
                self.wrong.append(f"{told(kind)}: {self.figures[told(kind)]}")
        self.figures["clients got"] = ", ".join(f"{count} {what}" for what, count in sorted(self._outcomes.items()))
        self.wrong += [f"clients got {what}" for what in self._outcomes if what not in ("ok", "error")]


def storm(
    seconds: float, tell: Callable[[str], None] = print, goodput: float = GOODPUT, refused: float = REFUSED
) -> Outcome:
    """Run it; `seconds` are counted from when it should be calm. `goodput` and `refused`: the shares to hold."""
    ports = free_ports(len(KINDS))
    config = "".join(PROVIDER.format(number=number, port=port) for number, port in enumerate(ports))
    with serving(config) as served:
        run = Storm(served, ports, tell, goodput, refused)
        uvloop.run(run.run(seconds))
    return Outcome(run.figures, tuple(run.wrong))
