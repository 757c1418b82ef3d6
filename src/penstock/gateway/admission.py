"""May this request be sent? Answered in the worker from a slice of the key's limits; where it is spent, by the parent.

A slice is four numbers that the parent granted over all limits of a key and its project at once: requests, tokens,
nano-dollars and slots, each infinite where nothing meters it. A request takes its claim of all four or of none: one
request, the tokens of its prompt and the most that its answer may have (or, where nobody says, what answers of such
models usually have), what these cost, and a slot. Nothing here waits while the slice has enough.

Else the parent is asked, one question for each request that finds too little. One question at a time asks for more
than its own claim, by how the slice was used lately. Where requests come often, the next slice is asked for ahead of
time, when little is left of this one or its lease is about to end, so that hardly a request waits for one. What a slice
still has when its lease is over, a little more than a second after it was granted at most, goes back by itself.

A `Hold` is a claim that was taken. Its slot goes back when nothing is sent for it any more; the rest is settled by the
parent from the journal. Where nothing was sent at all, all of it goes back. Slots go into the slice again where there
are plenty; where they are scarce, or others have asked for them, to the parent and in the same moment.

When it fails: a parent that does not answer refuses with 503. A grant that comes too late for its window is returned
and asked for again. Who leaves while a question is out tells the parent; what was granted meanwhile goes back.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from math import ceil, inf, sqrt

import msgspec

from penstock import link
from penstock.config import Counting
from penstock.errors import Overloaded
from penstock.gateway import limited
from penstock.gateway.limited import Gauges
from penstock.providers.base import AnyRequest
from penstock.types import Claim, Principal, Target, Usage
from penstock.wire.ceiling import ceiling
from penstock.wire.chat import ChatRequest

ANSWER_SECONDS = 5.0  # within which a parent that is well has answered, beyond what a question may wait
URGENT_SECONDS = 1.0  # after others asked for what lies unused here
HORIZON = 0.25  # seconds that a lease lasts, unless it is known better
RECENT = 0.02  # seconds within which requests are too few to tell how many come
AHEAD = 0.03  # seconds before a slice is spent that the next is asked for, if requests come more often than that
LATE = 0.1  # seconds after its time that a lease is used while the next is asked for, if it may be as long
TRIES = 3  # for one request, where grants come too late
MOST_ROUTES = 4096  # whose lengths of answers are known

MOST_SLICES = 16_384
MOST_PRICES = 64  # of one slice


_INFINITE = inf
_TOO_MUCH = 1 << 62  # nano-dollars: what no slice has
_SLOT = Claim(slots=1)

Send = Callable[[link.Message], object]
Said = link.Leased | link.Denied | link.Unpriced | link.Uncounted
Labels = tuple[tuple[str, str], ...]


class Lengths:
    """How long the answers of a model are, in completion tokens. `expected`: their mean and two deviations more."""

    __slots__ = ("_count", "_mean", "_variance", "expected")

    def __init__(self, initial: int) -> None:
        self.expected = initial
        self._mean = float(initial)
        self._variance = 0.0
        self._count = 1

    def note(self, tokens: int) -> None:
        """Another answer. The latest hundred or so count."""
        self._count += 1
        share = 1.0 / self._count if self._count < 100 else 0.01
        off = tokens - self._mean
        self._mean += share * off
        self._variance = (1.0 - share) * (self._variance + share * off * off)
        self.expected = ceil(self._mean + 2.0 * sqrt(self._variance)) or 1


Answer = tuple[Lengths, int]
"""How long it will be, and how many choices it will have."""


class _Slice:
    """What a key may use here now, all of one lease; and how it was used lately."""

    __slots__ = (
        *("gauges", "lease", "nanos", "price", "priced", "prices", "requests", "rows", "scarce", "slot", "slots"),
        "tokens",
        *("asking", "due", "ends", "lasts", "over", "rate", "renew", "since", "used"),
    )

    def __init__(self) -> None:
        self.prices: dict[Labels, tuple[float, float]] = {}
        self.priced: Sequence[Target] = ()  # what `price` is of: those asked for last
        self.price = (0.0, 0.0)
        self.rows: tuple[link.Row, ...] = ()
        self.gauges = Gauges()
        self.asking = 0.0  # until when a question for more counts as out
        self.rate = 0.0  # requests a second, lately
        self.since = -_INFINITE  # when that was last found out
        self.used = 0  # requests since then
        self.ends = -_INFINITE  # when the last lease ends, used up or not; the next may last longer
        self.lasts = HORIZON  # how long one lasts that begins then
        self.clear()

    def clear(self) -> None:
        self.lease = ""
        self.requests: link.Amount = 0
        self.tokens: link.Amount = 0
        self.nanos: link.Amount = 0
        self.slots: link.Amount = 0
        self.slot = 0  # what a request takes of the slots, as far as they are metered
        self.over = 0.0  # nothing may be taken any more
        self.renew = _INFINITE  # when the next is to be asked for,
        self.due = _INFINITE  # or at which of the requests
        self.scarce = False

    def wish(self, now: float) -> int:
        """How many further requests will come while the next lease lasts, by how many came lately."""
        elapsed = now - self.since
        if elapsed >= RECENT:
            self.rate, self.since, self.used = self.used / elapsed, now, 0
        lasts = self.ends - now if now < self.ends else self.lasts
        burst = min(2 * self.used + 1, int(1.5 * self.used / RECENT * lasts))
        return max(burst, int(1.5 * self.rate * lasts))

    def find_price(self, targets: Sequence[Target]) -> bool:
        """Whether it is known here what these targets cost; then it is `price`."""
        found = self.prices.get(_labels(targets))
        if found is None:
            return False
        self.priced, self.price = targets, found
        return True

    def learn_price(self, labels: Labels, price: tuple[float, float]) -> None:
        if len(self.prices) >= MOST_PRICES:
            self.prices.clear()
        self.prices[labels] = price
        self.priced = ()  # it may be another now

    def lines(self, now: float) -> bytes:
        """The header lines that tell what is left to who has this slice."""
        return self.gauges.lines(self.requests, self.tokens, now) if now < self.over else self.gauges.lines(0, 0, now)

    def lease_begins(self, now: float, expires: float) -> None:
        """`expires`: when it ends."""
        if now >= self.ends:
            self.lasts = max(0.01, expires - now)
        self.ends = expires


class Hold(msgspec.Struct, eq=False, gc=False):
    """What was taken for one request. `lease` and `claim` are what a settlement names; `cap`: the most tokens that
    each choice of the answer may have, None if as many as were asked for; `held`: it has not been let go of yet."""

    lease: str
    claim: Claim
    _admission: Admission
    _slice: _Slice
    _scarce: bool
    _lengths: Lengths
    _choices: int
    cap: int | None = None
    held: bool = True

    def release(self, usage: Usage | None = None) -> None:
        """Nothing is sent for it any more, and its upstream is closed: the slot is free. Later calls do nothing.

        `usage`: what the answer had, where it is whole.
        """
        if not self.held:
            return
        self.held = False
        if usage is not None and usage.source == "reported":
            self._lengths.note(usage.completion_tokens // self._choices)
        if self.claim.slots:
            slice = self._slice
            if slice.lease is self.lease and not slice.scarce:
                slice.slots += 1
            else:
                self._admission.give_back(self.lease, _SLOT, self._scarce)

    def cancel(self) -> None:
        """Nothing was sent for it: all of it is free. Later calls do nothing."""
        if not self.held:
            return
        self.held = False
        slice, claim = self._slice, self.claim
        if slice.lease is self.lease and not slice.scarce:
            slice.requests += claim.requests
            slice.tokens += claim.tokens
            slice.nanos += claim.nanos
            slice.slots += claim.slots
        elif self.lease:
            self._admission.give_back(self.lease, claim, at_once=True)

    def lines(self, now: float) -> bytes:
        """The header lines that tell what is left now, on the monotonic clock."""
        return self._slice.lines(now)


class _Question:
    """One that is out. `waiting` is done with a Hold, or with None where the grant came too late; nobody waits for one
    that was put ahead of time."""

    __slots__ = ("answer", "labels", "more", "slice", "waiting")

    def __init__(
        self, slice: _Slice, waiting: asyncio.Future[Hold | None] | None, more: bool, answer: Answer, labels: Labels
    ) -> None:
        self.waiting = waiting
        self.slice = slice
        self.more = more
        self.answer = answer
        self.labels = labels


class Admission:
    """All slices of a worker. `send` puts a message on the link; `board`: see `limited.Gauges`."""

    def __init__(
        self,
        send: Send,
        board: Sequence[int] = (),
        config: Counting = Counting(),  # noqa: B008  # a frozen value
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._send = send
        self._board = board
        self._clock = clock
        self._slices: dict[object, _Slice] = {}
        self._leases: dict[str, _Slice] = {}  # those that have something unused
        self._ending: deque[tuple[float, str]] = deque()  # when leases expire, about in order
        self._lengths: dict[str, Lengths] = {}
        self._asked: dict[int, _Question] = {}
        self._refs = itertools.count(1)
        self._rests: dict[str, list[int]] = {}  # to be sent with the next question, or soon
        self._closed: set[str] = set()
        self._urgent = 0.0  # until when they are sent at once

    def reserve(
        self, principal: Principal, asked: AnyRequest, targets: Sequence[Target], patience: float
    ) -> Hold | Awaitable[Hold]:
        """Take what the request needs; awaitable where the parent must be asked. Either way raises RateLimited,
        PermissionDenied or Overloaded. `patience`: when, on the monotonic clock, nobody waits any more."""
        slice = self._slices.get((principal.key_id, asked.model) if principal.by_model else principal.key_id)
        lengths = self._lengths.get(targets[0].route) or self._learn(targets[0].route)
        if type(asked) is ChatRequest:
            limit, choices = asked.max_tokens, asked.n
        else:
            limit, choices = ceiling(asked)
        prompt = (len(asked.body) + 3) >> 2  # as `wire.estimate` has it
        completion = (lengths.expected if limit is None else limit) * choices
        now = self._clock()
        if slice is not None and now < slice.over and not (limit is None and principal.hard):
            tokens, nanos = prompt + completion, 0
            if slice.nanos != _INFINITE:
                if targets is slice.priced or slice.find_price(targets):
                    of_prompt, of_completion = slice.price
                    nanos = ceil(prompt * of_prompt + completion * of_completion)
                else:
                    nanos = _TOO_MUCH
            if slice.requests >= 1 and slice.tokens >= tokens and slice.nanos >= nanos and slice.slots >= slice.slot:
                slice.requests -= 1
                slice.tokens -= tokens
                slice.nanos -= nanos
                slice.slots -= slice.slot
                slice.used += 1
                claim = Claim(1, tokens, nanos, slice.slot)
                hold = Hold(slice.lease, claim, self, slice, slice.scarce, lengths, choices)
                if (now >= slice.renew or slice.used >= slice.due) and now >= slice.asking:
                    question = _lease(principal, asked.model, prompt, completion, targets)
                    self._put(question, slice, None, (lengths, choices), now)
                return hold
        question = _lease(principal, asked.model, prompt, completion, targets, limit is None)
        return self._ask(question, principal.by_model, (lengths, choices), patience)

    async def _ask(self, asked: link.Lease, by_model: bool, answer: Answer, patience: float) -> Hold:
        """Ask the parent, again where its grant comes too late."""
        slice = self._slice((asked.key_id, asked.model) if by_model else asked.key_id)
        for _ in range(TRIES):
            now = self._clock()
            until = min(patience, now + self._config.max_wait)
            slice.used += 1
            waiting = asyncio.get_running_loop().create_future()
            ref, question = self._put(asked, slice, waiting, answer, now, until)
            hold = await self._answered(ref, question, until - now)
            if hold is not None:
                return hold
        raise Overloaded("The limits of this key could not be looked at in time; try again.", headers=limited.SOON)

    def _put(
        self,
        asked: link.Lease,
        slice: _Slice,
        waiting: asyncio.Future[Hold | None] | None,
        answer: Answer,
        now: float,
        until: float = 0.0,
    ) -> tuple[int, _Question]:
        """Put a question; ahead of time, if nobody is waiting."""
        wish, more = 0, now >= slice.asking
        if more:
            slice.asking = max(now, until) + ANSWER_SECONDS
            wish = slice.wish(now)
            if waiting is not None:
                self._retire(slice)
        ref = next(self._refs)
        question = self._asked[ref] = _Question(slice, waiting, more, answer, asked.targets)
        rests = self._take_rests()
        self._send(msgspec.structs.replace(asked, ref=ref, more=wish, until=until, rests=rests, ahead=waiting is None))
        return ref, question

    async def _answered(self, ref: int, question: _Question, wait: float) -> Hold | None:
        """What the parent says; nothing stays taken if that is not waited for to its end."""
        try:
            assert question.waiting is not None
            async with asyncio.timeout(ANSWER_SECONDS + max(0.0, wait)):
                return await question.waiting
        except TimeoutError:
            self._abandon(ref, question)
            raise limited.refusal(link.Uncounted(ref)) from None
        except asyncio.CancelledError:
            self._abandon(ref, question)
            raise

    def _abandon(self, ref: int, question: _Question) -> None:
        """Nobody waits for this answer any more, which may have come in this very moment."""
        if self._asked.pop(ref, None) is not None:
            if question.more:
                question.slice.asking = 0.0
            self._send(link.Forget(ref))
        waiting = question.waiting
        if waiting is not None and waiting.done() and not waiting.cancelled() and waiting.exception() is None:
            hold = waiting.result()
            if hold is not None:
                hold.cancel()

    def follow(self, config: Counting) -> None:
        """Go by another configuration."""
        self._config = config

    # -- what the parent says

    def on_answer(self, message: Said) -> None:
        """The answer to a question."""
        question = self._asked.pop(message.ref, None)
        if question is None:
            if isinstance(message, link.Leased):
                self._return_all(message)
            return
        if question.more:
            question.slice.asking = 0.0
        waiting = question.waiting
        if waiting is None:
            self._leased_ahead(question, message)
        elif isinstance(message, link.Leased):
            if waiting.done():
                self._return_all(message)
            else:
                waiting.set_result(self._leased(question, message))
        elif not waiting.done():
            if isinstance(message, link.Denied):
                self._show(question.slice, message.rows)
            waiting.set_exception(limited.refusal(message, question.slice.lines(self._clock())))

    def _leased_ahead(self, question: _Question, message: Said) -> None:
        """The answer to what was asked ahead of time: the claim is one more to be had."""
        slice = question.slice
        if not isinstance(message, link.Leased):
            slice.renew = slice.due = _INFINITE  # whoever finds too little asks for himself
        elif not question.more or self._clock() >= message.begin_by:
            self._return_all(message)
        else:
            claim = msgspec.structs.astuple(message.claim)
            spare = tuple(left + own for left, own in zip(message.spare, claim, strict=True))
            self._know(question, message)
            self._install(slice, message, spare)

    def _leased(self, question: _Question, message: link.Leased) -> Hold | None:
        """The hold of who asked; None where it came too late."""
        slice, now = question.slice, self._clock()
        if now >= message.begin_by:
            self._return_all(message)
            return None
        self._know(question, message)
        if question.more and message.more and now < message.expires:
            self._install(slice, message, message.spare)
        elif message.more:
            self.give_back(message.lease, _whole(message.spare), closed=True)
        hold = Hold(message.lease, message.claim, self, slice, message.scarce, *question.answer)
        if message.cap is not None:
            hold.cap = max(1, message.cap // question.answer[1])
        return hold

    def _know(self, question: _Question, message: link.Leased) -> None:
        """What a grant tells about those to come."""
        slice, now = question.slice, self._clock()
        self._show(slice, message.rows)
        slice.learn_price(question.labels, message.prices)
        if question.more and now < message.expires:
            slice.lease_begins(now, message.expires)

    def on_recall(self, message: link.Recall) -> None:
        """Return what lies unused of these leases, and for a while whatever comes free, in the same moment."""
        self._urgent = self._clock() + URGENT_SECONDS
        for lease in message.leases:
            slice = self._leases.get(lease)
            if slice is not None:
                self._retire(slice)
        self._send(link.Returned(message.ref, self._take_rests()))

    # -- what goes back

    def give_back(self, lease: str, claim: Claim, at_once: bool = False, closed: bool = False) -> None:
        """With the next question, or soon; at once, where it is wanted elsewhere."""
        rest = self._rests.get(lease)
        if rest is None:
            rest = self._rests[lease] = [0, 0, 0, 0]
        rest[0] += claim.requests
        rest[1] += claim.tokens
        rest[2] += claim.nanos
        rest[3] += claim.slots
        if closed:
            self._closed.add(lease)
        elif at_once or self._clock() < self._urgent:
            self.flush()

    def flush(self) -> None:
        """Send what goes back, if anything."""
        if self._rests:
            self._send(link.Returned(0, self._take_rests()))

    def sweep(self) -> None:
        """Return what leases that have expired still have. To be called some ten times a second."""
        now, ending = self._clock(), self._ending
        while ending and ending[0][0] <= now:
            slice = self._leases.get(ending.popleft()[1])
            if slice is not None:
                self._retire(slice)
        self.flush()

    def return_unused(self) -> None:
        """Return everything that lies unused: nothing more is taken by what limits were until now."""
        for slice in (*self._leases.values(), *self._slices.values()):
            self._retire(slice)
        for question in self._asked.values():
            if question.more:  # what it brings, beyond its own claim, is not for later requests
                question.more = False
                question.slice.asking = 0.0
        self.flush()

    def _retire(self, slice: _Slice) -> None:
        """Nothing more is taken of the lease that this slice has, if it has one."""
        if slice.lease:
            del self._leases[slice.lease]
            left = (slice.requests, slice.tokens, slice.nanos, slice.slots)
            self.give_back(slice.lease, _whole(left), closed=True)
        slice.clear()

    def _return_all(self, message: link.Leased) -> None:
        if message.lease:
            self.give_back(message.lease, _whole(message.spare), closed=True)
            self.give_back(message.lease, message.claim, at_once=True)

    def _take_rests(self) -> tuple[link.Rest, ...]:
        if not self._rests:
            return ()
        closed = self._closed
        rests = tuple(link.Rest(lease, Claim(*rest), lease in closed) for lease, rest in self._rests.items())
        self._rests.clear()
        closed.clear()
        return rests

    # -- inside

    def _slice(self, at: object) -> _Slice:
        slices = self._slices
        slice = slices.get(at)
        if slice is None:
            if len(slices) >= MOST_SLICES:
                now = self._clock()
                for other, idle in list(slices.items()):
                    if idle.over < now and not idle.lease and idle.asking < now:
                        del slices[other]
            slice = slices[at] = _Slice()
        return slice

    def _install(self, slice: _Slice, message: link.Leased, spare: tuple[link.Amount, ...]) -> None:
        self._retire(slice)
        slice.lease = message.lease
        slice.requests, slice.tokens, slice.nanos, slice.slots = spare
        slice.slot = 0 if slice.slots == _INFINITE else 1
        slice.over = min(message.begin_by, message.expires + LATE)
        soon = slice.rate * AHEAD
        if soon >= 1:
            slice.renew = message.expires
            slice.due = slice.used + message.more - min(soon, message.more / 4)
        slice.scarce = message.scarce
        if message.lease:
            self._leases[message.lease] = slice
            self._ending.append((slice.over, message.lease))

    def _learn(self, route: str) -> Lengths:
        lengths = self._lengths.get(route)
        if lengths is None:
            if len(self._lengths) >= MOST_ROUTES:
                self._lengths.clear()
            lengths = self._lengths[route] = Lengths(self._config.completion_tokens)
        return lengths

    def _show(self, slice: _Slice, rows: tuple[link.Row, ...]) -> None:
        """These rows of the board tell what is left to who has this slice."""
        if rows != slice.rows and self._board:
            slice.rows, slice.gauges = rows, Gauges(rows, self._board)


def _lease(
    principal: Principal,
    model: str,
    prompt: int,
    completion: int,
    targets: Sequence[Target],
    expected: bool = False,
) -> link.Lease:
    """A question, but for what is put together when it is sent."""
    return link.Lease(
        0,
        principal.key_id,
        principal.project_id,
        model,
        prompt,
        completion,
        _labels(targets),
        weight=principal.weight,
        hard=principal.hard,
        expected=expected,
    )


def _labels(targets: Sequence[Target]) -> Labels:
    return tuple([(target.provider, target.model) for target in targets])


def _whole(amounts: Sequence[link.Amount]) -> Claim:
    """What goes back: of what nothing meters, nothing."""
    return Claim(*[0 if amount == _INFINITE else int(amount) for amount in amounts])
