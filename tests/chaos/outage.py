"""An outage: a primary is away, in three ways one after the other, and comes back, under twenty requests a second.

First its connections are refused, then it answers 503, then it takes requests and answers nothing. The fallback serves
everybody in the meantime. Once the breaker is open the primary has at most one call at a time, by its own log, and in
the end it is the primary that answers again.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Callable

import msgspec
import uvloop

from chaos.books import judge
from chaos.caller import Caller, Wish
from chaos.outcome import Outcome
from chaos.upstreams import Flapping
from penstock.fake_upstream import Answer, Seen
from support.serving import Served, free_ports, serving

RATE = 20.0  # requests a second
BACK = 5.0  # seconds from the recovery to the primary's first answer
WELL = Answer(chunks=("1/2 ", "2/2 "), wait=0.01)
PHASES = {"refusing connections": None, "answering 503": Answer(status=503), "hanging": Answer(wait="forever")}

CONFIG = """
[providers.primary]
type = "openai"
base_url = "http://127.0.0.1:{ports[0]}/v1"
api_key = "sk-primary"
deadlines = {{ headers = {silence} }}

[providers.fallback]
type = "openai"
base_url = "http://127.0.0.1:{ports[1]}/v1"
api_key = "sk-fallback"

[models."gpt-5.4"]
targets = [{{ provider = "primary" }}, {{ provider = "fallback" }}]

[breaker]
probe_interval = {probe_interval}
"""


class Served20(msgspec.Struct, frozen=True):
    """One request of the twenty a second: when it was made, who answered, and how."""

    at: float
    provider: str
    outcome: str


class Outage:
    """One outage, in front of one gateway."""

    def __init__(self, served: Served, ports: list[int], tell: Callable[[str], None]) -> None:
        self._served = served
        self._port = int(served.url.rpartition(":")[2])
        self._tell = tell
        self._mode = WELL
        self._calls: list[Seen] = []  # that the primary has ended
        self._primary = Flapping(ports[0], lambda seen: self._mode, self._calls.append)
        self._fallback = Flapping(ports[1], lambda seen: WELL, lambda seen: None)
        self._answers: list[Served20] = []
        self.figures: dict[str, object] = {}
        self.wrong: list[str] = []

    async def run(self, seconds: float, probe_interval: float) -> None:
        """`seconds`: of the outage, a third of it for each phase."""
        await self._primary.come()
        await self._fallback.come()
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(self._ask_steadily(group))
            await asyncio.sleep(min(3.0, seconds / 6))
            away = time.monotonic()
            began = {}
            for name, mode in PHASES.items():
                began[name] = time.monotonic()
                self._tell(f"the primary is {name}")
                await self._behave(mode)
                await asyncio.sleep(seconds / len(PHASES))
            self._mode = WELL
            recovered = time.monotonic()
            self._tell("the primary is well")
            await asyncio.sleep(BACK + min(3.0, seconds / 6))
            asking.cancel()
        await self._primary.go()
        await self._fallback.go()
        self._look(away, recovered)
        self._count_probes(began["answering 503"], recovered, probe_interval)

    async def _behave(self, mode: Answer | None) -> None:
        if mode is None:
            await self._primary.go()
            return
        self._mode = mode
        if not self._primary.listens:
            await self._primary.come()

    async def _ask_steadily(self, group: asyncio.TaskGroup) -> None:
        began = time.monotonic()
        for number in itertools.count():
            await asyncio.sleep(began + number / RATE - time.monotonic())
            group.create_task(self._ask(number))

    async def _ask(self, number: int) -> None:
        wish = Wish(f"o-{number:06d}", "gpt-5.4", stream=bool(number % 2))
        at = time.monotonic()
        _, caller = await asyncio.get_running_loop().create_connection(Caller, "127.0.0.1", self._port)
        got = await caller.ask(wish, self._served.key)
        await caller.gone()
        provider = got.headers.get("x-penstock-target", "nobody").partition("/")[0]
        self._answers.append(Served20(at, provider, judge(wish, got)))

    def _look(self, away: float, recovered: float) -> None:
        """Who answered what, and from when."""
        failed = [one for one in self._answers if one.outcome != "ok"]
        meanwhile = [one for one in self._answers if away <= one.at < recovered]
        strange = [one for one in self._answers if one.at < away - 1.0 and one.provider != "primary"]
        strange += [one for one in meanwhile if one.provider != "fallback"]
        after = sorted(one.at for one in self._answers if one.at >= recovered and one.provider == "primary")
        back = after[0] - recovered if after else float("inf")
        others = sum(one.at > recovered + back and one.provider != "primary" for one in self._answers)
        self.figures["requests"] = (
            f"{len(self._answers)}, {len(meanwhile)} of them during {recovered - away:.0f} s away"
        )
        self.figures["not answered well"] = len(failed)
        self.figures["primary back after"] = f"{back:.2f} s"
        self.wrong += [f"not answered well: {one}" for one in failed]
        self.wrong += [f"answered by the wrong one: {one}" for one in strange]
        if back > BACK:
            self.wrong.append(f"the primary was back after {back:.2f} s")
        if others > 1:  # one may have been on its way when the first one came back
            self.wrong.append(f"{others} requests went to the fallback after the primary was back")

    def _count_probes(self, since: float, recovered: float, probe_interval: float) -> None:
        """By the primary's own log of what it did while the breaker was open; it opened before anybody listened."""
        probes = sorted(
            (call.started_at, call.ended_at or recovered) for call in self._calls if call.started_at > since
        )
        probes = [probe for probe in probes if probe[0] < recovered]
        together = sum(later[0] < earlier[1] for earlier, later in itertools.pairwise(probes))
        at_most = int((recovered - since) / probe_interval) + 2
        self.figures["probes seen by the primary"] = f"{len(probes)}, {together} of them beside another"
        if together or not 0 < len(probes) <= at_most:
            self.wrong.append(f"{len(probes)} probes, {together} beside another, where at most {at_most} were due")

    def count_refused(self, seconds: float, probe_interval: float) -> None:
        """By the gateway's lines: how often it ran into a closed port."""
        lines = [json.loads(line) for line in self._served.output.splitlines() if line.startswith("{")]
        outcomes = [attempt["outcome"] for line in lines for attempt in line["attempts"]]
        refused = outcomes.count("connect")
        self.figures["connections refused"] = refused
        at_most = 5 + int(seconds / len(PHASES) / probe_interval) + 2  # the breaker opens at the fifth
        if refused > at_most:
            self.wrong.append(f"{refused} connections were tried, where at most {at_most} were due")


def outage(seconds: float, probe_interval: float, tell: Callable[[str], None] = print) -> Outcome:
    """Run it. A probe that hangs lasts as long as the interval, by the deadline."""
    ports = free_ports(2)
    config = CONFIG.format(ports=ports, probe_interval=probe_interval, silence=probe_interval)
    with serving(config) as served:
        run = Outage(served, ports, tell)
        uvloop.run(run.run(seconds, probe_interval))
        run.count_refused(seconds, probe_interval)
    return Outcome(run.figures, tuple(run.wrong))
