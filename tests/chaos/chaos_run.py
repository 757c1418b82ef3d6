"""The chaos run: a hundred clients of one gateway whose providers fail in every way, and the books in the end.

Five upstreams fail by plan, four of them also come and go; every policy has a model, retries, breakers and the pressure
of 429s are on. Clients stream or do not, read slowly, lose patience, hang up in every phase. When the time is over the
clients finish and go, and then nothing may be left: no connection on either side, no call, no task, no file; memory is
as it was after the warm-up, and the three books agree.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from statistics import median
from typing import Any

import httpx
import uvloop

from chaos import kernel
from chaos.books import OWN, Books
from chaos.caller import Caller, Wish
from chaos.outcome import Outcome
from chaos.plan import POLICIES, Plan
from chaos.upstreams import Planned
from support.serving import Served, free_ports, serving

ADMIN_KEY = "sk-admin-of-the-chaos-run"
UPSTREAMS = 5
RESCUES = {"weighted": "continue", "least_outstanding": "splice"}
SETTLE = 10.0  # seconds in which everything must be gone
LEDGER_FILES = 3  # the database once more, its log, and the segment of a journal that is read
WARM = 0.3  # of the run: memory is compared from there on
GROWTH_KB = 4096  # how much more a worker may have in the end

CONFIG = """
[retries]
first_wait = 0.05
longest_wait = 0.4
max_wait = 2
retry_after_cap = 1
patience = 5
budget_share = 1
budget_per_second = 50
budget_burst = 100

[breaker]
window = 2
probe_interval = 0.3
"""
PROVIDER = """
[providers.u{number}]
type = "openai"
base_url = "http://127.0.0.1:{port}/v1"
api_key = "sk-of-the-provider"
max_connections = 64
pool_wait = 1
on_hangup = "{on_hangup}"
deadlines = {{ connect = 1, headers = 1, first_event = 1, idle = 1, total = 8 }}
"""
MODEL = """
[models.m-{policy}]
policy = "{policy}"
rescue = "{rescue}"
malformed_events = "{malformed_events}"
targets = [{targets}]
"""


def config(ports: list[int]) -> str:
    """A model for each policy, its targets in an order of its own, and some of the other ways in which models differ.

    The last provider reads on after a hang-up.
    """
    parts = [CONFIG]
    for number, port in enumerate(ports):
        on_hangup = "drain" if number == len(ports) - 1 else "abort"
        parts.append(PROVIDER.format(number=number, port=port, on_hangup=on_hangup))
    for first, policy in enumerate(POLICIES):
        order = [(first + step) % len(ports) for step in range(len(ports))]
        rescue, continues = RESCUES.get(policy, "off"), ""
        if rescue == "continue":
            continues = ', continues = "message"'
        targets = ", ".join(f'{{ provider = "u{number}", weight = {number + 1}{continues} }}' for number in order)
        malformed_events = "skip" if policy == "lowest_latency" else "error"
        parts.append(MODEL.format(policy=policy, rescue=rescue, malformed_events=malformed_events, targets=targets))
    return "".join(parts)


class Run:
    """One run against one gateway."""

    def __init__(self, served: Served, plan: Plan, ports: list[int], tell: Callable[[str], None]) -> None:
        self._served = served
        self._plan = plan
        self._tell = tell
        self._port = int(served.url.rpartition(":")[2])
        self.books = Books()
        self._upstreams = Planned(plan, self.books, ports)
        self._counts: Counter[str] = Counter()
        self._own = 0  # requests of this run's own
        self._worker = kernel.tree(served.pid)[-1]
        self._rss: list[int] = []
        self.figures: dict[str, object] = {}
        self.wrong: list[str] = []

    async def run(self, seconds: float, clients: int) -> None:
        """All of it."""
        baseline = await self._idle_files()
        tasks = (await self._metrics())["penstock_tasks"]
        for upstream in self._upstreams.all:
            await upstream.come()
        began = time.monotonic()
        until = began + seconds
        async with asyncio.TaskGroup() as group:
            flapping = [group.create_task(self._upstreams.flap(number)) for number in range(1, UPSTREAMS)]
            watching = group.create_task(self._watch(began, seconds))
            asking = [group.create_task(self._client(number, until)) for number in range(clients)]
            await asyncio.wait(asking)
            for task in (*flapping, watching):
                task.cancel()
        await self._settle(baseline)
        await self._compare_metrics(tasks)
        self._measure(time.monotonic() - began, clients)

    async def _client(self, number: int, until: float) -> None:
        """One client: one request after the other on one connection, as long as both sides keep it."""
        loop = asyncio.get_running_loop()
        caller: Caller | None = None
        for wish, thinks in self._plan.wishes(number):
            await asyncio.sleep(thinks)
            if time.monotonic() >= until:
                break
            if caller is None or not caller.open:
                _, caller = await loop.create_connection(Caller, "127.0.0.1", self._port)
            await self._ask(caller, wish)
        if caller is not None:
            await caller.gone()

    async def _ask(self, caller: Caller, wish: Wish) -> None:
        outcome = self.books.note(wish, await caller.ask(wish, self._served.key))
        self._counts[outcome] += 1
        # After an error within a stream the gateway closes, which the head could not announce.
        if outcome == "cut" and not await caller.closed(SETTLE):
            self.wrong.append(f"{wish.marker} was cut, but its connection stays open")

    async def _watch(self, began: float, seconds: float) -> None:
        """Note the memory, and show how far it is, until cancelled."""
        step, shown = max(0.1, min(1.0, seconds / 100)), 0.0
        while True:
            await asyncio.sleep(step)
            self._rss.append(kernel.rss_kb(self._worker))
            passed = time.monotonic() - began
            if passed - shown >= 10.0:
                shown = passed
                counts = ", ".join(f"{count} {what}" for what, count in sorted(self._counts.items()))
                files = kernel.count_files(self._worker)
                self._tell(f"{passed:.0f} of {seconds:.0f} s: {counts}; {files} files, {self._rss[-1] // 1024} MB")

    # -- the end

    async def _settle(self, baseline: dict[int, int]) -> None:
        """Nothing may be left: first of calls, then of connections and files."""
        upstreams = self._upstreams.all
        await self._soon("calls at providers", lambda: sum(upstream.busy for upstream in upstreams), 0)
        kept = sum(upstream.connections for upstream in upstreams)
        self.figures["idle connections to providers in the end"] = kept
        await self._recover()
        for upstream in upstreams:
            await upstream.go()
        await self._soon("open files, by process, beyond those before", lambda: self._more_files(baseline), {})

    async def _recover(self) -> None:
        """No target may be left alone for ever, as it would be by a probe that was lost, or thought to be busy."""
        deadline = time.monotonic() + SETTLE
        for policy in POLICIES:
            while (told := await self._explained(f"m-{policy}"))["skipped"]:
                if time.monotonic() > deadline:
                    self.wrong.append(f"targets of {policy} are left alone: {told['skipped']}")
                    break
                await asyncio.sleep(0.1)
            for target in told["targets"]:
                if target["outstanding"]:
                    self.wrong.append(f"{target['provider']} has {target['outstanding']} calls of {policy} outstanding")

    async def _compare_metrics(self, tasks: float) -> None:
        """What the gateway says of itself; `tasks`: so many it had at first."""
        series = await self._metrics()
        expected = {"penstock_requests_in_flight": 0, "penstock_connections_open": 0, "penstock_tasks": tasks}
        for name, value in expected.items():
            if series[name] != value:
                self.wrong.append(f"{name} is {series[name]}, not {value}")
        whole = sum(not asked.partial for asked in self.books.asked.values())
        if series["penstock_requests_total"] != whole + self._own:
            told = series["penstock_requests_total"]
            self.wrong.append(f"the metrics count {told} requests, not {whole} and {self._own} of our own")

    async def _soon(self, what: str, measure: Callable[[], object], expected: object) -> None:
        deadline = time.monotonic() + SETTLE
        while (found := measure()) != expected:
            if time.monotonic() > deadline:
                self.wrong.append(f"{what}: {found}, not {expected}, {SETTLE:.0f} s after the end")
                return
            await asyncio.sleep(0.05)

    def _files(self) -> dict[int, int]:
        return {pid: kernel.count_files(pid) for pid in kernel.tree(self._served.pid)}

    def _more_files(self, baseline: dict[int, int]) -> dict[int, int]:
        """How many more each process has than before, without those that the parent opens for its first row."""
        own = {self._served.pid: LEDGER_FILES}
        more = {pid: count - baseline.get(pid, 0) - own.get(pid, 0) for pid, count in self._files().items()}
        return {pid: count for pid, count in more.items() if count > 0}

    async def _idle_files(self) -> dict[int, int]:
        """The open files of each process before anything is asked of providers, but after each has done its work."""
        await self._explained(f"m-{POLICIES[0]}")
        deadline = time.monotonic() + SETTLE
        while True:  # the control plane comes a little later than the workers
            try:
                await self._metrics()
                break
            except httpx.ConnectError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.05)
        found: list[dict[int, int]] = []
        while len(found) < 5 or len({tuple(one.items()) for one in found[-5:]}) > 1:
            await asyncio.sleep(0.05)
            found.append(self._files())
        return found[-1]

    async def _metrics(self) -> Counter[str]:
        """Each metric's sum over its labels."""
        headers = {"authorization": f"Bearer {ADMIN_KEY}"}
        async with httpx.AsyncClient(trust_env=False, timeout=30.0) as http:
            text = await http.get(f"{self._served.admin_url}/metrics", headers=headers)
        found: Counter[str] = Counter()
        for line in text.raise_for_status().text.splitlines():
            if not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                found[name.partition("{")[0]] += float(value)  # type: ignore[assignment]
        return found

    async def _explained(self, model: str) -> Any:
        """How a request would be routed now, and how its targets are doing."""
        self._own += 1
        asked = {"model": model, "messages": [{"role": "user", "content": "Hello"}]}
        headers = {**self._served.headers, "x-client-request-id": OWN}
        async with httpx.AsyncClient(trust_env=False, timeout=30.0) as http:
            answer = await http.post(f"{self._served.base_url}/penstock/explain", json=asked, headers=headers)
        return answer.raise_for_status().json()

    def _measure(self, took: float, clients: int) -> None:
        """Figures, memory and books."""
        asked = self.books.asked.values()
        made = Counter(one.outcome for one in asked)
        self.figures["seed"] = self._plan.seed
        self.figures["requests"] = f"{len(asked)} of {clients} clients in {took:.0f} s"
        self.figures["clients got"] = ", ".join(f"{made[what]} {what}" for what in sorted(made))
        warm = self._rss[int(len(self._rss) * WARM) :]
        tenth = max(1, len(warm) // 7)
        before, after = median(warm[:tenth]), median(warm[-tenth:])
        self.figures["memory of the worker"] = (
            f"{before / 1024:.1f} MB after the warm-up, {after / 1024:.1f} in the end"
        )
        if after > before + GROWTH_KB:
            self.wrong.append(f"memory grew from {before} to {after} kB: {self._rss}")
        wrong, attempts = self.books.differences(self._served.output.splitlines())
        self.wrong += wrong
        outcomes: Counter[str] = Counter()
        for (_, outcome), count in attempts.items():
            outcomes[outcome] += count
        self.figures["attempts"] = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())


def chaos(seconds: float, seed: int, clients: int = 100, tell: Callable[[str], None] = print) -> Outcome:
    """Run it; `tell` is given lines that say how far it is."""
    ports = free_ports(UPSTREAMS)
    with serving(config(ports), environment={"PENSTOCK_ADMIN_KEY": ADMIN_KEY}) as served:
        run = Run(served, Plan(seed), ports, tell)
        uvloop.run(run.run(seconds, clients))
    return Outcome(run.figures, tuple(run.wrong), seed)
