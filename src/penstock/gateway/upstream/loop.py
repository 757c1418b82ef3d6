"""The attempt loop until the commit point: admit, prepare, send; then repeat, go elsewhere or give up.

It alone uses http.client, and it is the only place where a request is sent again. Which attempt comes next is decided
by `retries.Attempts`, which holds all the rules; here they are carried out. Before each attempt the target's gate may
make it wait (`pressure`), and its breaker may refuse it (`health`): then nothing is sent, and the rules go on as if it
had failed. A request that succeeds at its first attempt meets none of that machinery but two looks at its lane.

Nothing is sent that the journal has no room for; what is sent is in the journal first.

An answer that broke off after the commit point may be rescued (`gateway.rescue`): what goes on with it is an attempt
like the others.

Cancelled anywhere, in a wait, a line, a connect or a call, `open` leaves nothing behind: a connection is aborted, a
place in a line is left, a breaker's probe is given back, all in the same moment.
"""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import Callable, Sequence

from penstock.config import Retries
from penstock.errors import Failure, FailureKind, Overloaded, ProviderFault, Refusal
from penstock.gateway.exchange import Exchange
from penstock.gateway.journal import Journal
from penstock.gateway.refusals import NO_RETRY, refusal_for
from penstock.gateway.upstream.answer import Answer, Output, note
from penstock.gateway.upstream.health import Admission
from penstock.gateway.upstream.lanes import Lane, Lanes
from penstock.gateway.upstream.preparation import prepared
from penstock.gateway.upstream.retries import Attempts, Try
from penstock.http.connecting import PoolError, connect
from penstock.providers.base import AnyRequest, Call
from penstock.types import Attempt, Plan, Target, milliseconds
from penstock.wire.chat import ChatRequest
from penstock.wire.members import nested_too_deeply

_NO = Admission.NO  # looked at for every attempt

Ask = Callable[[Target], tuple[AnyRequest, Output]]
"""What one target is asked, and where its answer goes. Raises Refusal where there is nothing to be asked of it."""


class Upstreams:
    """All targets of a worker. `jitter` gives numbers from 0 to 1; without a `journal` nothing is written down."""

    def __init__(
        self,
        lanes: Lanes,
        retries: Retries,
        jitter: Callable[[], float] = random.random,
        journal: Journal | None = None,
    ) -> None:
        self.lanes = lanes
        self.retries = retries
        self._journal = journal
        self._jitter = jitter
        self._clock = lanes.clock
        self._known = lanes.all()

    async def open(self, asked: AnyRequest, plan: Plan, exchange: Exchange, output: Output) -> Answer:
        """An answer that is committed (streamed) or whole (not streamed). Raises Refusal when there is none."""
        if self._journal is not None and not self._journal.reserve(exchange):
            message = "No more requests can be accounted for: the ledger is full. Try again later."
            raise Overloaded(message, code="ledger_full")
        target = plan.targets[0]
        lane = self._lane(asked, target)
        lane.budget.calls += 1
        tried = await self._try(asked, Try(target), lane, exchange, output)
        if isinstance(tried, Answer) and (tried.failure is None or tried.committed):
            return tried
        return await self._go_on(asked, plan, exchange, output, tried)

    async def _go_on(
        self, asked: AnyRequest, plan: Plan, exchange: Exchange, output: Output, tried: Answer | Failure
    ) -> Answer:
        """The attempts after the first, which failed."""
        attempts = self._attempts(plan.targets, exchange)
        failure = self._note(exchange, plan.targets[0], tried, 0.0)
        answer = await self._follow(attempts, plan.targets[0], failure, lambda target: (asked, output), exchange)
        if answer is None:
            raise self._refusal(attempts)
        return answer

    async def rescue(self, broken: Answer, targets: Sequence[Target], ask: Ask, exchange: Exchange) -> Answer | None:
        """Another answer after one that broke off when it had been committed; None where there is none.

        It is an attempt like the others of this request, by the same rules, but at `targets` alone. `ask`: see `Ask`.
        """
        assert broken.failure is not None
        attempts = broken.attempts or self._attempts(targets, exchange)
        attempts.rescue(targets, self._patience(exchange))
        return await self._follow(attempts, broken.target, broken.failure, ask, exchange)

    async def _follow(
        self, attempts: Attempts, target: Target, failure: Failure, ask: Ask, exchange: Exchange
    ) -> Answer | None:
        """The attempts after one at `target`, which failed and is on record; None where none of them led anywhere."""
        journal = self._journal
        while True:
            following = attempts.after(target, failure, self._clock())
            if following is None:
                exchange.stopped = attempts.stopped
                return None
            if journal is not None:
                journal.ended(exchange)
                if not journal.reserve(exchange):
                    exchange.stopped = "ledger_full"
                    return None
            if following.wait:
                await asyncio.sleep(following.wait)
            target = following.target
            try:
                asked, output = ask(target)
                tried = await self._try(asked, following, self._lane(asked, target), exchange, output)
            except Refusal:  # this target cannot do what is asked, which is not what the first one said
                exchange.stopped = "unsuited"
                return None
            if isinstance(tried, Answer) and (tried.failure is None or tried.committed):
                exchange.waited = following.wait
                tried.attempts = attempts
                return tried
            failure = self._note(exchange, target, tried, following.wait)

    def _attempts(self, targets: Sequence[Target], exchange: Exchange) -> Attempts:
        patience = self._patience(exchange)
        return Attempts(targets, self.retries, patience, self.lanes.ready_at, self._spend, self._jitter)

    def _patience(self, exchange: Exchange) -> float:
        """Until when attempts may begin, after a failure just now."""
        return min(exchange.patience, self._clock() + self.retries.patience)

    def _note(self, exchange: Exchange, target: Target, tried: Answer | Failure, waited: float) -> Failure:
        """Put what was tried on the exchange."""
        if isinstance(tried, Answer):
            note(exchange, tried, waited)
            assert tried.failure is not None
            return tried.failure
        kind = tried.kind.value
        exchange.attempts.append(Attempt(target.provider, target.model, 0, kind, 0.0, milliseconds(waited)))
        return tried

    def _refusal(self, attempts: Attempts) -> Refusal:
        """What the caller is told: the first failure, and not to multiply our attempts by its own."""
        assert attempts.first_failure is not None
        refusal = refusal_for(*attempts.first_failure)
        if attempts.repeated and NO_RETRY not in refusal.headers:
            refusal.headers = (*refusal.headers, NO_RETRY)
        return refusal

    def _spend(self, target: Target) -> bool:
        return self.lanes.of(target).budget.spend(self._clock())

    def _lane(self, asked: AnyRequest, target: Target) -> Lane:
        if isinstance(asked, ChatRequest):
            return self._known.get(target.key) or self.lanes.of(target)
        return self.lanes.beside(target, asked.endpoint)

    async def _try(
        self, asked: AnyRequest, attempt: Try, lane: Lane, exchange: Exchange, output: Output
    ) -> Answer | Failure:
        """One attempt: an answer that ended well or badly, or the reason why none was made."""
        target, entry, health = attempt.target, lane.entry, lane.health
        exchange.target = target
        reader = entry.provider.reader(asked, target)  # first: a provider may refuse, and nothing is held yet
        if lane.gate.pressed:
            came = self._clock()
            may_go = await lane.gate.enter(min(exchange.patience, came + self.retries.max_wait - exchange.lined))
            exchange.lined += self._clock() - came
            if not may_go:
                return _held_back(FailureKind.PRESSED, target, lane.gate.opens_in())
        now = self._clock()
        admission = health.admit(now)
        if admission is _NO:
            if lane.gate.pressed:
                lane.gate.ended()  # the turn that was given goes to the next in line
            return _held_back(FailureKind.UNHEALTHY, target, health.ready_at(now) - now)
        exchange.calls += 1
        answer = Answer(lane, admission, target, reader, output if asked.stream else None)
        try:
            call = entry.provider.prepare(asked, target)
            if not isinstance(call, Call):
                call = await prepared(entry, call, exchange.patience)
            # What closed one idle connection closed others, too: afresh means on a new one.
            connection = None if attempt.afresh else entry.pool.take()
            if connection is None:
                connection = await connect(entry.pool, exchange.patience)
            journal = self._journal
            begins = None if journal is None else functools.partial(journal.begin, exchange, asked, target)
            answer.send(connection, call, exchange.patience, begins)
            await answer.outcome
        except PoolError as error:
            failure = error.failure
            answer.fail(Failure(failure.kind, f"The provider '{target.provider}' {failure.message}."))
        except ProviderFault as fault:
            answer.fail(fault.failure)
        except RecursionError as error:  # in `prepare`: from higher up it could just be judged
            answer.abort()
            raise nested_too_deeply() from error
        except asyncio.CancelledError:
            answer.leave(exchange, attempt.wait)
            raise
        except BaseException:
            answer.abort()
            raise
        return answer


def _held_back(kind: FailureKind, target: Target, wait: float) -> Failure:
    if kind is FailureKind.PRESSED:
        message = f"The provider '{target.provider}' limits our rate of requests."
        return Failure(kind, message, 429, retry_after=wait)
    message = f"The provider '{target.provider}' has failed lately and is left alone."
    return Failure(kind, message, 503, retry_after=wait)
