"""The counters as the parent has them: workers ask it for leases, the ledger settles with it, a store counts.

How it works: a question names a key; the limits that hold for it are looked up, and the store is asked to take the
claim of all of them, or of none. What it grants becomes a lease: the claim for the request that asked, and as many
further ones as the worker wished for and as there is plenty of. Where little is left there are no further ones, so that
no worker sits on what another needs. Before anybody is refused, what lies unused in workers is called back.

With a store in memory a question is answered in the moment it comes. A store of several hosts is waited for, at most
as long as it bounds a command.

When it fails: while the store does not answer, each limit is as it says, open (requests pass, uncounted, until it
answers again) or closed (they are refused with 503). The same holds while the ledger cannot tell what was spent before
a counter began. A worker that ends holds no slots; see `leases`. What settles while the store is away is kept for it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import Any

import msgspec

from penstock.control.counters.board import NO_ROW, Board
from penstock.control.counters.leases import SLOTS, UNIT, Leases, amounts_of
from penstock.control.counters.line import Lines
from penstock.control.counters.questions import Limits, LimitsOf, Question, Rates, Rulings, dearest
from penstock.control.counters.recalls import Recalls
from penstock.limits import METERS, Limit
from penstock.link import Denied, Lease, Leased, Message, Recall, Rest, Returned, Row, SeriesValue, Uncounted, Unpriced
from penstock.stores.base import (
    Asking,
    Bound,
    Change,
    Granted,
    History,
    Outcome,
    Refused,
    Seed,
    Short,
    Slices,
    StoreUnavailable,
    Unknown,
    since,
    width,
)
from penstock.ticks import tick
from penstock.types import Claim, Settlement

UNLIMITED = 1.0  # seconds for which a key without limits need not ask again
GRACE = 0.125  # seconds after its window's bucket in which a request may begin at most, since it takes time to be told
HISTORY = 2.0  # seconds within which the ledger says what was spent
RENEW = 1.0
TURN = 1.0  # seconds after which to ask again, where others wait and there would be enough for this one alone
TRIES = 4  # at the store, for one question

NOTHING = Claim()
_INFINITE = math.inf
_UNMETERED = (_INFINITE, _INFINITE, _INFINITE, _INFINITE)

_log = logging.getLogger("penstock.counters")

Send = Callable[[Message], None]
Tell = Callable[[int, Recall], bool]


class Policy(msgspec.Struct, frozen=True):
    """What is done while limits cannot be counted, where a limit itself does not say: whether requests pass."""

    budgets_fail_open: bool = False
    rates_fail_open: bool = True

    def open(self, limit: Limit) -> bool:
        if limit.fails_open is not None:
            return limit.fails_open or limit.shadow
        money = METERS[limit.meter].unit == "nanos"
        return limit.shadow or (self.budgets_fail_open if money else self.rates_fail_open)


class Sources(msgspec.Struct, frozen=True):
    """What the counters go by. `history` is asked before a counter begins; None where nothing is remembered. `wall`:
    Unix seconds."""

    limits_of: LimitsOf
    rates: Rates
    history: History | None = None
    wall: Callable[[], float] = time.time


class Counters:
    """All limits of this host. `tell` sends a recall to a worker, and says whether it is there; `mark` is to be
    different in each run; `workers`: by how many of this host what is free is shared."""

    def __init__(
        self,
        store: Slices,
        sources: Sources,
        tell: Tell,
        board: Board,
        *,
        mark: str,
        policy: Policy = Policy(),  # noqa: B008  # a frozen value
        workers: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.policy = policy
        self._board = board
        self.leases = Leases(mark)
        self._store = store
        self._sources = sources
        self._rulings = Rulings()
        self._recalls = Recalls(self.leases, tell)
        self._lines = Lines(clock, self._take, self._deny)
        self._workers = workers
        self._clock = clock
        self._questions: dict[tuple[int, int], Question | Lease] = {}  # Lease: its limits are being looked up
        self._working: set[asyncio.Task[None]] = set()
        self._planting: dict[str, asyncio.Task[bool]] = {}
        self._sought: Counter[str] = Counter()  # by bound, how many questions wait for what is called back
        self._granted = 0
        self._refused: dict[tuple[str, ...], int] = {}
        self._shadowed: dict[tuple[str, ...], int] = {}
        self._opened: dict[tuple[str, ...], int] = {}

    # -- what workers say

    def ask(self, worker: int, asked: Lease, send: Send) -> None:
        """A worker's question, which `send` gets the answer to."""
        self.give_back(asked.rests)
        limits = self._sources.limits_of(asked.key_id, asked.project_id)
        if isinstance(limits, tuple):
            self._judge(worker, asked, send, limits)
        else:
            self._questions[worker, asked.ref] = asked
            self._work(self._look_up(worker, asked, send, limits))

    async def _look_up(self, worker: int, asked: Lease, send: Send, finding: Awaitable[Limits]) -> None:
        limits: Limits | None
        try:
            limits = await finding
        except (StoreUnavailable, TimeoutError):
            limits = None
        if self._questions.get((worker, asked.ref)) is not asked:
            return  # nobody waits for it any more, or the worker's successor has one of this number
        del self._questions[worker, asked.ref]
        if limits is None:
            send(Uncounted(asked.ref))
        else:
            self._judge(worker, asked, send, limits)

    def _judge(self, worker: int, asked: Lease, send: Send, limits: Limits) -> None:
        ruling = self._rulings.of(asked.key_id, asked.project_id, asked.model, limits)
        if not ruling.bounds:
            claim = Claim(1, asked.prompt_tokens + asked.completion_tokens)
            send(Leased(asked.ref, "", claim, 1, _UNMETERED, self._clock() + UNLIMITED, _INFINITE))
            return
        prices = (0.0, 0.0)
        if ruling.nanos:
            found = dearest(asked.targets, self._sources.rates)
            if not isinstance(found, str):
                prices = found
            elif ruling.priced:
                send(Unpriced(asked.ref, found))
                return
        question = Question(worker, asked, send, ruling, prices)
        self._questions[worker, asked.ref] = question
        self._take(question)

    def forget(self, worker: int, ref: int) -> None:
        """Nobody waits for the answer to this question any more."""
        question = self._questions.pop((worker, ref), None)
        if isinstance(question, Question):
            question.gone = True
            self._lines.leave(question)

    def returned(self, worker: int, message: Returned) -> None:
        """What a worker returns, by itself or since it was asked to."""
        self.give_back(message.rests)
        self._recalls.answered(message.ref, worker)

    def give_back(self, rests: Sequence[Rest]) -> None:
        self._post([change for rest in rests for change in self.leases.rest(rest)])

    def gone(self, worker: int) -> Callable[[], None]:
        """This worker's process has ended. What is returned is to be called when all that its journal holds is
        settled: what is left of its leases was used by nobody."""
        for at in [at for at in self._questions if at[0] == worker]:
            self.forget(*at)
        self._recalls.gone(worker)
        changes, rest = self.leases.gone(worker)
        self._post(changes)
        return lambda: self._post(rest())

    # -- what the ledger says

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """What requests came to, each once."""
        self._post(self.leases.settle(settlements))

    # -- the life of it

    async def run(self) -> None:
        """Hold what is held, until cancelled."""
        while True:
            await tick(RENEW)
            try:
                renewed = self._store.renew(self.leases.held_slots())
                if renewed is not None:
                    await renewed
            except StoreUnavailable:
                pass  # the next question finds it so, too

    async def close(self) -> None:
        """Give back what is held, and answer nobody any more."""
        self._recalls.cancel()
        for task in (*self._working, *self._planting.values()):
            task.cancel()
        await asyncio.gather(*self._working, *self._planting.values(), return_exceptions=True)
        await self._store.close()

    def series(self) -> tuple[SeriesValue, ...]:
        """The metrics of the parent's own."""
        counted = (
            ("penstock_limits_refused_total", self._refused),
            ("penstock_limits_shadowed_total", self._shadowed),
            ("penstock_limits_open_total", self._opened),
        )
        return (
            SeriesValue("penstock_limits_waiting", (), len(self._lines)),
            SeriesValue("penstock_leases_total", (), self._granted),
            SeriesValue("penstock_leases_lost_total", (), self._store.lost),
            SeriesValue("penstock_counters_up", (), int(self._store.up)),
            *(SeriesValue(name, labels, count) for name, counts in counted for labels, count in counts.items()),
        )

    # -- one question

    def _take(self, question: Question) -> None:
        """Ask the store for what it needs; it is answered now, or by a task."""
        if question.gone:
            return
        question.tries += 1
        before = self._lines.before(question)
        if question.asked.ahead and (before is not None or self._is_sought(question.ruling.bounds)):
            self._uncounted(question)
            return
        more, ahead = (question.asked.more, NOTHING) if before is None else (0, before[0])
        asking = Asking(question.ruling.bounds, question.claim, more, self._workers * self._store.hosts, ahead)
        at = self._clock()
        try:
            outcome = self._store.lease(asking)
        except StoreUnavailable:
            self._uncounted(question)
            return
        if isinstance(outcome, Granted | Refused | Unknown):
            self._conclude(question, outcome, at)
        else:
            self._work(self._await(question, outcome, at))

    async def _await(self, question: Question, outcome: Awaitable[Outcome], at: float) -> None:
        try:
            said = await outcome
        except StoreUnavailable:
            self._uncounted(question)
        else:
            self._conclude(question, said, at)

    def _conclude(self, question: Question, outcome: Outcome, at: float) -> None:
        match outcome:
            case Granted():
                self._grant(question, outcome, at)
            case Refused():
                self._refuse(question, outcome)
            case Unknown():
                self._plant(question, outcome)

    def _grant(self, question: Question, granted: Granted, at: float) -> None:
        ruling, asked, claim = question.ruling, question.asked, question.claim
        everything = granted.taken(claim)
        held = self.leases.open(question.worker, ruling.bounds, granted.places, everything, unused=granted.more > 0)
        self._granted += 1
        for index in granted.over if not asked.ahead else ():
            _count(self._shadowed, ruling.limits[index].scope, ruling.limits[index].meter)
        before = self._lines.before(question)
        out_of_turn = before is not None and before[1] >= 0
        if asked.ahead and not granted.more:  # the last of it is for who needs it
            self.give_back((Rest(held.id, everything, closed=True),))
            self._uncounted(question)
            return
        if question.gone or out_of_turn:
            self.give_back((Rest(held.id, everything, closed=True),))
            if before is not None and not question.gone:
                wait = None if ruling.bounds[before[1]].unit == "slots" else TURN
                self._wait(question, Refused((Short(before[1], 0, wait),)))
            return
        self._end(question, served=True)
        now, expires, grace, scarce = self._clock(), at + granted.valid, GRACE, False
        each, all_ = amounts_of(claim), amounts_of(everything)
        spare, rows = list(_UNMETERED), []
        for bound, left, whole in zip(ruling.bounds, granted.left, granted.whole, strict=True):
            unit = UNIT[bound.unit]
            spare[unit] = all_[unit] - each[unit]
            if unit == SLOTS:
                scarce = scarce or left < 2 * self._workers
            elif unit <= UNIT["tokens"] and bound.enforced:
                row = self._board.write(bound.id, left, now + whole, now)
                if row != NO_ROW:
                    rows.append(Row(row, bound.amount, bound.unit == "tokens"))
            if bucket := width(bound):
                grace = min(grace, bucket / 2)
            elif unit != SLOTS and whole:  # something is taken of a calendar's window: nothing of it after its end
                grace = min(grace, max(0.0, whole - granted.valid))
        if not ruling.slots:
            claim = msgspec.structs.replace(claim, slots=0)
        question.send(
            Leased(
                asked.ref,
                held.id,
                claim,
                granted.more,
                (spare[0], spare[1], spare[2], spare[3]),
                expires,
                expires + grace,
                question.cap,
                question.prices,
                scarce,
                tuple(rows),
            )
        )

    def _refuse(self, question: Question, refused: Refused) -> None:
        """Look for a way to grant it all the same; else tell the worker no."""
        if question.asked.ahead:
            self._uncounted(question)
            return
        if question.probing:
            question.fit(refused)
            self._take(question)
            return
        if not question.recalled:
            question.recalled = True
            bounds = [question.ruling.bounds[short.index] for short in refused.short if question.may_fit(short.index)]
            bounds = [bound for bound in bounds if self._recalls.worth(bound, question.worker)]
            if bounds:
                self._sought.update(bound.id for bound in bounds)
                self._work(self._recall(question, bounds))
                return
        if question.tries < TRIES and question.fit(refused):
            self._take(question)
            return
        self._wait(question, refused)

    def _wait(self, question: Question, refused: Refused) -> None:
        if not self._lines.wait(question, refused):
            self._deny(question, refused)

    def _end(self, question: Question, served: bool = False) -> bool:
        """It is to be answered now; False where nobody waits for that."""
        self._lines.leave(question, served)
        at = question.worker, question.asked.ref
        if self._questions.get(at) is not question:
            return False
        del self._questions[at]
        return True

    async def _recall(self, question: Question, bounds: Sequence[Bound]) -> None:
        try:
            await asyncio.gather(*(self._recalls.gather(bound) for bound in bounds))
            self._take(question)
        finally:
            self._sought.subtract(bound.id for bound in bounds)
            for bound in bounds:
                if not self._sought[bound.id]:
                    del self._sought[bound.id]

    def _is_sought(self, bounds: Sequence[Bound]) -> bool:
        """Whether somebody waits for what is being called back of one of these."""
        return bool(self._sought) and any(bound.id in self._sought for bound in bounds)

    def _deny(self, question: Question, refused: Refused) -> None:
        if not self._end(question):
            return
        worst = max(refused.short, key=lambda short: -1.0 if short.wait is None else short.wait)
        limit, bound = question.ruling.limits[worst.index], question.ruling.bounds[worst.index]
        _count(self._refused, limit.scope, limit.meter)
        needs = amounts_of(question.claim)[UNIT[bound.unit]]
        rows = tuple(self._rows(question.ruling.bounds))
        question.send(
            Denied(
                question.asked.ref,
                limit.scope,
                limit.meter,
                limit.model,
                limit.amount,
                worst.wait,
                needs,
                rows,
            )
        )

    def _uncounted(self, question: Question) -> None:
        """The limits cannot be counted: each says what is to be done then. What is asked ahead of time is never granted
        so, nor where it would take something from others."""
        if not self._end(question):
            return
        ruling, asked = question.ruling, question.asked
        if asked.ahead or not all(self.policy.open(limit) for limit in ruling.limits):
            question.send(Uncounted(asked.ref))
            return
        for limit in ruling.limits:
            _count(self._opened, limit.meter)
        if question.probing:
            question.reserve(asked.completion_tokens)
        claim = msgspec.structs.replace(question.claim, slots=0)
        held = self.leases.open(question.worker, ruling.bounds, [None] * len(ruling.bounds), claim)
        now = self._clock()
        question.send(Leased(asked.ref, held.id, claim, 0, _UNMETERED, now, now + UNLIMITED, None, question.prices))

    # -- before a counter begins

    def _plant(self, question: Question, unknown: Unknown) -> None:
        """Begin the counters that do not exist yet with what the ledger knows, then ask the store again."""
        if question.tries > TRIES:
            self._uncounted(question)
            return
        pairs = [(question.ruling.limits[index], question.ruling.bounds[index]) for index in unknown.bounds]
        if self._sources.history is None:
            planted = self._store.plant([Seed(bound) for _, bound in pairs])
            if planted is None:
                self._take(question)
                return
        self._work(self._remember(question, pairs))

    async def _remember(self, question: Question, pairs: Sequence[tuple[Limit, Bound]]) -> None:
        tasks = []
        for limit, bound in pairs:
            task = self._planting.get(bound.id)
            if task is None:
                task = self._planting[bound.id] = asyncio.create_task(self._begin(limit, bound))
            tasks.append(asyncio.shield(task))
        if all(await asyncio.gather(*tasks)):
            self._take(question)
        else:
            self._uncounted(question)

    async def _begin(self, limit: Limit, bound: Bound) -> bool:
        """Plant one counter; whether that was done."""
        history, now = self._sources.history, self._sources.wall()
        try:
            spent: Sequence[tuple[float, int]] = ()
            if history is not None:
                async with asyncio.timeout(HISTORY):
                    spent = await history(limit, since(bound, now), width(bound))
            seed = Seed(bound, tuple((max(0.0, now - at), amount) for at, amount in spent))
            planted = self._store.plant([seed])
            if planted is not None:
                await planted
        except (StoreUnavailable, TimeoutError):
            return False
        finally:
            del self._planting[bound.id]
        return True

    # -- inside

    def _post(self, changes: Sequence[Change]) -> None:
        if changes:
            self._store.post(changes)
            for change in changes:
                if change.actual > change.reserved:  # what goes back is on the board with the next lease
                    self._board.add(change.bound.id, change.reserved - change.actual)
                else:
                    self._lines.freed(change.bound.id)

    def _rows(self, bounds: Sequence[Bound]) -> Iterator[Row]:
        for bound in bounds:
            row = self._board.row(bound.id)
            if row != NO_ROW and bound.enforced:
                yield Row(row, bound.amount, bound.unit == "tokens")

    def _work(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._working.add(task)
        task.add_done_callback(self._worked)

    def _worked(self, task: asyncio.Task[None]) -> None:
        self._working.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a question for a lease failed", exc_info=error)


def _count(counts: dict[tuple[str, ...], int], *labels: str) -> None:
    counts[labels] = counts.get(labels, 0) + 1
