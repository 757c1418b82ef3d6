"""Random histories of three workers and their parent, each step of which is held against `oracle`.

The workers' admissions, the parent's counters and the store in memory are the real ones. Time moves when a history says
so; the messages of each link wait in a queue until a history delivers them, one or many, from whichever link. A request
is admitted, ends, is settled, or is given up while it is asked for; a worker is killed, the parent is told of it later,
and its journal is settled later still. A history is told by its seed alone.
"""

from __future__ import annotations

import argparse
import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

from chaos.outcome import Outcome
from penstock import link
from penstock.errors import Overloaded, PermissionDenied, RateLimited, Refusal
from penstock.gateway.admission import Hold
from penstock.limits import METERS, Limit
from penstock.stores.slices import Times
from penstock.types import Claim, Target, Usage
from soak.oracle import BUCKETS, Admitted, Broken, period_of
from soak.world import WORKERS, OneClock, Way, World, holds
from support.limiting import asked, settled

STEPS = 70
KEYS = (("key_a", "prj"), ("key_b", "prj"), ("key_c", ""))
MODELS = ("gpt-one", "gpt-two", "other")
AMOUNTS = {
    "requests": (1, 2, 3, 5, 8, 30, 100),
    "tokens": (40, 100, 300, 1000, 5000, 50_000),
    "nanos": (500, 3000, 20_000, 200_000),
    "slots": (1, 2, 3, 7, 12, 40),
}
MOVES = (0.0005, 0.003, 0.02, 0.1, 0.13, 0.26, 0.9, 1.1, 5.5, 29.0, 60.3, 61.0, 3601.0, 86_401.0, 31 * 86_400.0)
STARTS = (
    1_800_000_000.0,  # an afternoon
    1_801_439_999.0,  # the last second of 2027-01
    1_803_859_198.5,  # a moment before 2027-03
    1_830_297_599.9,  # the last moment of 2027
)
OFTEN = (30, 30, 30, 14, 8, 8, 5, 5, 1, 3, 2, 2, 1, 1, 0.3)


class Asking:
    """A request whose question is out. `refused`: how that ended, if not with an admission."""

    def __init__(self, worker: int) -> None:
        self.worker = worker
        self.task: asyncio.Task[None] | None = None
        self.refused: Refusal | None = None
        self.admitted: Running | None = None


class Running:
    """A request that is in flight, or whose journal is not settled yet."""

    def __init__(self, hold: Hold, admitted: Admitted, sent: bool) -> None:
        self.hold = hold
        self.admitted = admitted
        self.sent = sent
        self.freed = False
        self.journaled = False


class History:
    """One history, as its seed has it. `told`: its steps so far."""

    def __init__(self, seed: int, clock: OneClock) -> None:
        self.draw = random.Random(seed)
        self.clock = clock
        self.told: list[tuple[object, ...]] = []
        self.keys = self.draw.sample(KEYS, self.draw.choice((1, 1, 2, 3)))
        self.models = self.draw.sample(MODELS, self.draw.choice((1, 1, 2, 3)))
        drawn = [self._a_limit() for _ in range(self.draw.choice((1, 1, 2, 3, 5)))]
        limits = tuple({limit.id: limit for limit in drawn}.values())
        max_wait = self.draw.choice((0.0, 0.0, 0.05, 2.0))
        self.world = World(limits, max_wait, self.draw.choice((1, WORKERS)), clock, self.draw)
        self.oracle = self.world.oracle
        self.asking: list[Asking] = []
        self.running: list[Running] = []
        self.dead: set[int] = set()  # workers of which the parent does not know it yet
        self.unread: list[tuple[list[Running], Callable[[], None]]] = []  # journals of dead ones, and what follows
        self._broken: Exception | None = None
        self._late = False  # what was given up but for slots may still be on its way
        self.said = ("limits", limits, "max_wait", max_wait)
        self.counts = {"admitted": 0, "of these by a slice": 0, "asked ahead": 0, "refused": 0, "probes": 0}

    async def run(self) -> None:
        """Live it, then end everything. Raises Broken."""
        steps: list[tuple[Callable[[], Awaitable[None] | None], float]] = [
            (self._ask, 10), (self._deliver, 14), (self._deliver_all, 5), (self._free, 5), (self._end, 5),
            (self._settle, 5), (self._leave, 1.5), (self._cancel, 1), (self._kill, 0.5), (self._bury, 1.5),
            (self._replay, 1), (self._move, 8), (self._sweep, 3), (self._edit, 0.4), (self._probe, 2),
            (self._spend, 2), (self._edge, 1),
        ]  # fmt: skip
        names = [step for step, _ in steps]
        weights = [weight * self.draw.choice((0.3, 1.0, 1.0, 2.0)) for _, weight in steps]
        for step in self.draw.choices(names, weights, k=STEPS):
            await self._do(step)
        await self._finish()

    async def _do(self, step: Callable[[], Awaitable[None] | None]) -> None:
        self.told.append((f"{self.clock.now:.4f}", step.__name__))
        done = step()
        if done is not None:
            await done
        await self._quiet()

    # -- steps

    def _ask(self) -> None:
        key, model = self.draw.choice(self.keys), self.draw.choice(self.models)
        living = [number for number in range(WORKERS) if number not in self.dead]
        if living:
            worker = self.draw.choice(living)
            most = self.draw.choice((1, 5, 20, 20, 100, 400, None))
            for _ in range(self.draw.choice((1, 1, 2, 4, 8))):
                self._reserve(worker, key, model, most)

    def _reserve(self, worker: int, key: tuple[str, str], model: str, most: int | None) -> Asking:
        asking = Asking(worker)
        body = asked(model=model, max_tokens=most)
        target = Target(model, "fake", model)
        self.told.append(("asks", worker, key[0], model, most))
        principal = self.world.principal(key)
        try:
            held = self.world.links[worker].admission.reserve(principal, body, (target,), float("inf"))
        except Refusal as refusal:
            asking.refused = refusal
            return asking
        if isinstance(held, Hold):
            self.counts["of these by a slice"] += 1
            self._admit(asking, held, from_slice=True)
        else:
            asking.task = asyncio.get_running_loop().create_task(self._wait(asking, held))
            self.asking.append(asking)
        return asking

    async def _wait(self, asking: Asking, held: Awaitable[Hold]) -> None:
        try:
            self._admit(asking, await held)
        except Refusal as refusal:
            self.counts["refused"] += 1
            asking.refused = refusal
        except Exception as error:  # noqa: BLE001  # whatever it is, it ends the history
            self._broken = self._broken or error
        finally:
            self.asking.remove(asking)

    def _admit(self, asking: Asking, hold: Hold, from_slice: bool = False) -> None:
        self.counts["admitted"] += 1
        self.told.append(("admitted", asking.worker, hold.lease, hold.claim))
        admitted = self.oracle.admitted(asking.worker, hold.lease, hold.claim, self.clock.now, from_slice)
        asking.admitted = Running(hold, admitted, sent=self.draw.random() < 0.9)
        self.running.append(asking.admitted)

    async def _deliver(self) -> None:
        for _ in range(self.draw.choice((1, 1, 2, 5))):
            ways = [way for way in self.world.links if way.up or way.down]
            if ways:
                self._deliver_one(self.draw.choice(ways))
            if self.draw.random() < 0.5:
                await self._quiet()

    def _deliver_one(self, way: Way) -> None:
        if way.up and (not way.down or self.draw.random() < 0.5):
            self.told.append(("up", way.number, way.up[0]))
            way.deliver_up()
        else:
            self.told.append(("down", way.number, way.down[0]))
            way.deliver_down()

    async def _deliver_all(self) -> None:
        """All that is on its way, and what that leads to."""
        for _ in range(100):
            ways = [way for way in self.world.links if way.up or way.down]
            if not ways:
                return
            for way in ways:
                while way.up or way.down:
                    self._deliver_one(way)
            await self._quiet()
        raise Broken("messages go to and fro without end")

    def _free(self) -> None:
        """The upstream of a request is closed."""
        running = self._a_running(lambda one: one.sent and not one.freed)
        if running is not None:
            usage = Usage(10, self.draw.choice((1, 7, 90)), source=self.draw.choice(("reported", "partial")))
            running.admitted.flying = False
            running.freed = True
            running.hold.release(usage)

    def _end(self) -> None:
        """A request's end is in the journal."""
        running = self._a_running(lambda one: one.sent and not one.journaled)
        if running is not None:
            self._journal(running)

    def _journal(self, running: Running) -> None:
        claim = running.admitted.claim
        of_tokens, of_money = (self.draw.choice((0.0, 0.3, 0.9, 1.0, 1.8)) for _ in range(2))
        running.admitted.due = Claim(1, int(claim.tokens * of_tokens), int(claim.nanos * of_money))
        running.journaled = True

    def _settle(self) -> None:
        """Some of what is in journals is read."""
        ended = [one for one in self.running if one.journaled and one.admitted.settled is None]
        for running in self.draw.sample(ended, self.draw.randint(0, len(ended))):
            self._post(running)

    def _post(self, running: Running) -> None:
        admitted = running.admitted
        actual = admitted.due or admitted.claim
        if admitted.lease:
            self.world.counters.settle([settled(admitted.lease, admitted.claim, actual)])
        self.oracle.settled(admitted, actual, self.clock.now)
        self._look(running)

    def _leave(self) -> None:
        """A client goes while its question is out."""
        if self.asking:
            asking = self.draw.choice(self.asking)
            assert asking.task is not None
            way = self.world.links[asking.worker]
            while way.down and self.draw.random() < 0.5:
                self._deliver_one(way)  # which its task has no time to see
            asking.task.cancel()

    def _cancel(self) -> None:
        """Nothing will be sent for a request."""
        running = self._a_running(lambda one: not one.sent)
        if running is not None:
            self._cancel_one(running)

    def _cancel_one(self, running: Running) -> None:
        running.hold.cancel()
        self.oracle.cancelled(running.admitted)
        self.running.remove(running)

    def _kill(self) -> None:
        living = [number for number in range(WORKERS) if number not in self.dead]
        if len(living) > 1:
            number = self.draw.choice(living)
            way = self.world.links[number]
            way.alive = False
            way.down.clear()
            self.dead.add(number)
            for asking in [one for one in self.asking if one.worker == number]:
                assert asking.task is not None
                asking.task.cancel()

    def _bury(self) -> None:
        """The parent is told that a worker has ended; another begins in its place."""
        if self.dead:
            number = self.draw.choice(sorted(self.dead))
            way = self.world.links[number]
            while way.up:
                way.deliver_up()
            rest = self.world.counters.gone(number)
            self.dead.discard(number)
            theirs = [one for one in self.running if one.admitted.worker == number and not self._is_unread(one)]
            for running in theirs:
                running.admitted.flying = False
                running.freed = True
            self.unread.append((theirs, rest))
            self.world.links[number] = Way(self.world, number)

    def _replay(self) -> None:
        """The journal of a worker that has ended is read to its end."""
        if self.unread:
            theirs, rest = self.unread.pop(self.draw.randrange(len(self.unread)))
            for running in theirs:
                if not running.sent:
                    self.oracle.cancelled(running.admitted)
                    self.running.remove(running)
                elif running.admitted.settled is None:
                    self._post(running)
                else:
                    self._look(running)
            rest()

    async def _move(self) -> None:
        """Time passes, and timers run; or a part of it in which nothing ran."""
        seconds = self.draw.choices(MOVES, OFTEN)[0] * self.draw.choice((1.0, 1.0, self.draw.random()))
        await self._pass(seconds, self.draw.random() < 0.3)

    async def _pass(self, seconds: float, at_once: bool = False) -> None:
        for part in () if at_once else (0.003, 0.051):
            if seconds > part:
                self.clock.move(part)
                seconds -= part
                await self._quiet()
        self.clock.move(seconds)
        await self._quiet()

    async def _spend(self) -> None:
        """One client asks for one thing after the other, until it is refused."""
        living = [number for number in range(WORKERS) if number not in self.dead]
        key, model = self.draw.choice(self.keys), self.draw.choice(self.models)
        for _ in range(self.draw.choice((3, 10, 30))):
            asking = self._reserve(self.draw.choice(living), key, model, 10)
            await self._quiet()
            await self._deliver_all()
            if asking.admitted is None:
                return
            if self.draw.random() < 0.2:
                await self._pass(0.02)

    async def _edge(self) -> None:
        """A whole period passes, but for a bucket or two."""
        rolling = [period_of(limit) for limit in self.world.limits if period_of(limit)]
        if rolling:
            period = self.draw.choice(rolling)
            await self._pass(period * (1 + self.draw.uniform(-1.0, 3.0) / BUCKETS))

    def _sweep(self) -> None:
        way = self.draw.choice(self.world.links)
        if way.alive:
            way.admission.sweep()

    def _edit(self) -> None:
        limits = list(self.world.limits)
        what = self.draw.random()
        if what < 0.3 and limits:
            limits.pop(self.draw.randrange(len(limits)))
        elif what < 0.5:
            limit = self._a_limit()
            limits = [one for one in limits if one.id != limit.id] + [limit]
        elif limits:
            at = self.draw.randrange(len(limits))
            amount = self.draw.choice(AMOUNTS[METERS[limits[at].meter].unit])
            limits[at] = _with(limits[at], amount, self.draw.random() < 0.2)
        self.world.edit(tuple(limits))
        self.told.append(("edited", limits))

    # -- that nobody is refused who need not be

    async def _probe(self) -> None:
        """Once everything on its way has arrived, and nobody else waits, one request asks: it is refused only where
        all that was admitted leaves no room for it; and again after as long as it was told, at that limit at least."""
        how = self.draw.random()
        if self.asking or how < 0.3:
            await self._calm()
        elif how < 0.7 or not all(way.returns_at_most for way in self.world.links):
            await self._deliver_all()
        else:
            self._late = True
        if self.dead or self.asking:
            return
        self.counts["probes"] += 1
        worker, key, model = self.draw.randrange(WORKERS), self.draw.choice(self.keys), self.draw.choice(self.models)
        denied = await self._prompt(worker, key, model)
        self._late = False
        if denied is not None and denied.wait is not None and denied.wait < 1e9 and self.draw.random() < 0.5:
            await self._pass(denied.wait)
            await self._calm()
            again = await self._prompt(worker, key, model)
            if (
                again is not None
                and again.meter == denied.meter
                and again.model == denied.model
                and (again.scope == denied.scope)
            ):
                raise Broken(f"told to wait for {denied.wait} s, and then again: {again}")

    async def _prompt(self, worker: int, key: tuple[str, str], model: str) -> link.Denied | None:
        """Ask, with no time lost on the way; the refusal, if that is what came."""
        self.world.last_denied = None
        asking = self._reserve(worker, key, model, 20)
        await self._arrive(asking)
        if isinstance(asking.refused, PermissionDenied) or asking.admitted is not None:
            return None
        if asking.refused is None or isinstance(asking.refused, Overloaded):
            raise Broken(f"no answer: {asking.refused!r}")
        assert isinstance(asking.refused, RateLimited)
        denied = self.world.last_denied
        assert denied is not None
        limits = [one for one in self.world.limits_of(*key) if holds(one, model) and not one.shadow]
        named = [
            one for one in limits if (one.scope, one.meter, one.model) == (denied.scope, denied.meter, denied.model)
        ]
        if not named:
            raise Broken(f"{denied} names a limit that does not refuse")
        room = self.oracle.room(named[0], self.clock.now)
        slots = METERS[denied.meter].unit == "slots"
        if denied.needs <= room and (slots or not (self.unread or self._late)):
            raise Broken(f"{denied}, and there is room for {room}")
        return denied

    async def _arrive(self, asking: Asking) -> None:
        """Deliver in the moment all that is sent, until a question is answered."""
        for _ in range(2000):
            await self._quiet()
            await self._deliver_all()
            if asking.admitted is not None or asking.refused is not None:
                return
            self.clock.move(0.003)

    async def _calm(self) -> None:
        """What is on its way arrives, what lies unused goes back."""
        for _ in range(2):
            for way in self.world.links:
                if way.alive:
                    way.admission.sweep()
            await self._deliver_all()
            await self._pass(0.004)

    # -- the end

    async def _finish(self) -> None:
        """Everything ends, and is read: then nothing is held by anybody, and every counter says what was used."""
        while self.dead:
            self._bury()
        while self.unread:
            self._replay()
        for _ in range(100):
            await self._calm()
            if not self.asking:
                break
            await self._pass(0.5)
        for running in list(self.running):
            if not running.sent:
                self._cancel_one(running)
            else:
                if not running.freed:
                    running.admitted.flying = False
                    running.freed = True
                    running.hold.release()
                if running.admitted.settled is None:
                    self._journal(running)
                    self._post(running)
        await self._pass(1.2)
        await self._calm()
        self.counts["asked ahead"] = self.world.asked_ahead
        self._nothing_is_held()
        self._counters_are_right()

    def _nothing_is_held(self) -> None:
        counters = cast(Any, self.world.counters)
        held: dict[str, object] = {
            "questions of clients": self.asking,
            "leases": dict(counters.leases._leases),
            "leases by worker": [one for one in counters.leases._by_worker.values() if one],
            "leases by bound": counters.leases._by_bound,
            "questions": counters._questions,
            "work": [one for one in counters._working if not one.done()],
            "recalls": counters._recalls._missing,
        }
        for way in self.world.links:
            admission = cast(Any, way.admission)
            held |= {f"questions of worker {way.number}": admission._asked, "its leases": admission._leases}
            held |= {"what goes back": admission._rests}
            held |= {"its slices": [one for one in admission._slices.values() if one.lease or one.asking]}
            left = {name: what for name, what in held.items() if what}
            if left:
                raise Broken(f"still held: {left}")

    def _counters_are_right(self) -> None:
        store, now = cast(Any, self.world.store), self.clock.now
        slots = {name: count for name, count in store._slots.items() if count}
        if slots:
            raise Broken(f"slots are held by nobody: {slots}")
        for name, limit in self.oracle.known().items():
            if METERS[limit.meter].unit != "slots":
                window = store._windows[name]
                window.advance(Times(now, self.clock.unix))
                least, most = self.oracle.edges(name, limit, now)
                if not least <= window.taken <= most:
                    raise Broken(f"of {name} {window.taken} are taken, where {least} to {most} were used")

    # -- inside

    def _a_limit(self) -> Limit:
        draw = self.draw
        meter = METERS[draw.choice(sorted(METERS))]
        key, project = draw.choice(self.keys)
        scope, scope_id = draw.choice((("key", key), ("project", project))) if project else ("key", key)
        counts = meter.unit in ("tokens", "nanos")
        return Limit(
            cast(Any, scope),
            scope_id,
            meter.name,
            draw.choice(AMOUNTS[meter.unit]),
            model=draw.choice(("", "", "", "gpt-*", "other")),
            rolling=meter.period in ("day", "month") and draw.random() < 0.4,
            hard=counts and draw.random() < 0.3,
            shadow=draw.random() < 0.15,
        )

    def _a_running(self, fits: Callable[[Running], bool]) -> Running | None:
        found = [one for one in self.running if one.admitted.worker not in self.dead and fits(one)]
        found = [one for one in found if not self._is_unread(one)]
        return self.draw.choice(found) if found else None

    def _is_unread(self, running: Running) -> bool:
        return any(running in theirs for theirs, _ in self.unread)

    def _look(self, running: Running) -> None:
        if running.freed and running.admitted.settled is not None and running in self.running:
            self.running.remove(running)

    async def _quiet(self) -> None:
        """Everything that can run now has run."""
        ready = cast(Any, asyncio.get_running_loop())._ready
        while True:
            await asyncio.sleep(0)
            if self._broken is not None:
                raise self._broken
            if not ready:
                return


def _with(limit: Limit, amount: int, shadow: bool) -> Limit:
    return Limit(limit.scope, limit.scope_id, limit.meter, amount, limit.model, limit.rolling, limit.hard, shadow)


class _Loop(asyncio.SelectorEventLoop):
    """Timers go by the history's clock."""

    def __init__(self, clock: OneClock) -> None:
        self._history = clock
        super().__init__()

    def time(self) -> float:
        return self._history.now


def live(seed: int) -> History:
    """Live one history to its end. Raises Broken, with the steps that led to it."""
    clock = OneClock(random.Random(-seed).choice(STARTS))
    with asyncio.Runner(loop_factory=lambda: _Loop(clock)) as runner:
        history = History(seed, clock)
        try:
            runner.run(history.run())
        except Exception as error:
            steps = "\n".join(" ".join(map(str, step)) for step in [history.said, *history.told])
            raise Broken(f"{steps}\nhistory {seed}: {error!r}") from error
        finally:
            runner.run(history.world.counters.close())
            history.world.board.close()
    return history


def histories(count: int, seed: int, tell: Callable[[str], None]) -> Outcome:
    """So many histories, from this seed on; the first few that are broken are told in full."""
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    for number in range(count):
        try:
            counts.update(live(seed + number).counts)
        except Broken as broken:
            wrong.append(str(broken) if len(wrong) < 3 else str(broken).rpartition("\n")[2])
        if number % 1000 == 999:
            tell(f"{number + 1} histories, {len(wrong)} wrong")
    return Outcome({"histories": count, **counts}, tuple(wrong), seed)


def main(arguments: Sequence[str]) -> int:
    """0 when nothing was wrong."""
    parser = argparse.ArgumentParser(prog="python -m soak --scenario model")
    parser.add_argument("--histories", type=int, default=10_000)
    parser.add_argument("--seed", type=int, help="that of the first history (default: one of its own)")
    given = parser.parse_args(arguments)
    seed = random.randrange(1_000_000_000) if given.seed is None else given.seed
    print(f"model: seed {seed}", flush=True)
    outcome = histories(given.histories, seed, lambda line: print(f"model: {line}", flush=True))
    print(outcome.told())
    return int(bool(outcome.wrong))
