"""Those who wait for a limit, in weighted fair order: each key gets its share of what comes free, by its weight.

Every limit that is waited for has a line. A question's tag says where it stands: where the last one of its key does, or
the line is by now, and further by what it costs, divided by the weight of its key. The lowest tag is served first. So a
key that asks a lot stands behind itself, and one that comes with a single question behind one of each of the others.

A question waits in one line, that of the limit which it will get something of last. It is tried again when it is the
first there and something came free, or its time has come. Nobody is served who has others before him in any line of
his limits, also if there would be enough for him and not for them. Who will not be served in time does not wait at all.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right, insort
from collections.abc import Callable, Iterator

import msgspec

from penstock.control.counters.questions import Question
from penstock.stores.base import Refused
from penstock.types import Claim

MOST = 1000  # questions in one line; beyond them nobody may wait
EQUALS = 1 << 62  # more than ever came
LOOK = 0.05  # seconds until the first of a line is tried again, where nobody says when there will be enough


class _Line:
    """One line. `tags` and `waiting` are in order."""

    def __init__(self) -> None:
        self.tags: list[tuple[float, int]] = []
        self.waiting: dict[tuple[float, int], Question] = {}
        self.timer: asyncio.TimerHandle | None = None  # when the first is tried again
        self.again = False  # something came free while it was tried
        self._now = 0.0  # the tag of whoever was served last
        self._ends: dict[str, tuple[float, int]] = {}  # by key, of those that wait: the last tag, and how many

    @property
    def first(self) -> Question:
        return self.waiting[self.tags[0]]

    def tag(self, question: Question, index: int) -> float:
        """Where a question would stand that came now; `index`: of the line's bound among its own."""
        cost: int = getattr(question.claim, question.ruling.bounds[index].unit)
        end, _ = self._ends.get(question.asked.key_id, (0.0, 0))
        return max(self._now, end) + max(cost, 1) / question.asked.weight

    def before(self, tag: float) -> Iterator[Question]:
        """Those who stand before such a tag; of its equals all, since they came first."""
        for place in self.tags[: bisect_right(self.tags, (tag, EQUALS))]:
            yield self.waiting[place]

    def join(self, question: Question, place: tuple[float, int]) -> None:
        insort(self.tags, place)
        self.waiting[place] = question
        _, count = self._ends.get(question.asked.key_id, (0.0, 0))
        self._ends[question.asked.key_id] = place[0], count + 1

    def leave(self, question: Question, place: tuple[float, int], served: bool) -> None:
        self.tags.remove(place)
        del self.waiting[place]
        if served:
            self._now = max(self._now, place[0])
        end, count = self._ends.pop(question.asked.key_id)
        if count > 1:
            self._ends[question.asked.key_id] = end, count - 1


class Lines:
    """All lines. `take` tries a question again; `refuse` is told of one whose time is over."""

    def __init__(
        self, clock: Callable[[], float], take: Callable[[Question], None], refuse: Callable[[Question, Refused], None]
    ) -> None:
        self._clock = clock
        self._take = take
        self._refuse = refuse
        self._lines: dict[str, _Line] = {}
        self._places: dict[Question, tuple[str, tuple[float, int]]] = {}
        self._timers: dict[Question, asyncio.TimerHandle] = {}
        self._refused: dict[Question, tuple[float, Refused]] = {}
        self._trying: set[Question] = set()
        self._came = 0

    def __len__(self) -> int:
        return len(self._places)

    def before(self, question: Question) -> tuple[Claim, int] | None:
        """What those take together who stand before it in any line, and the index of a bound of such a line, -1 where
        nobody does; None where nobody waits for any of its limits."""
        if not self._lines:
            return None
        found: set[Question] = set()
        found_in, anybody = -1, False
        own = self._places.get(question)
        for index, bound in enumerate(question.ruling.bounds):
            line = self._lines.get(bound.id)
            if line is None:
                continue
            anybody = True
            if own is not None and own[0] == bound.id:
                others = [line.waiting[place] for place in line.tags[: line.tags.index(own[1])]]
            else:
                others = list(line.before(line.tag(question, index)))
            if others:
                found_in = index
                found.update(others)
        if not anybody:
            return None
        claims = [msgspec.structs.astuple(other.claim) for other in found]
        return Claim(*map(sum, zip(*claims, strict=True))), found_in

    def wait(self, question: Question, refused: Refused) -> bool:
        """Have it wait, or go on waiting; False where it may not, or it would be in vain."""
        self._trying.discard(question)
        now, waits = self._clock(), [short.wait or 0.0 for short in refused.short]
        if question.asked.until <= now or now + max(waits) > question.asked.until:
            return False
        last = max(refused.short, key=lambda short: short.wait or 0.0)
        bound = question.ruling.bounds[last.index]
        place = self._places.get(question)
        if place is None or all(question.ruling.bounds[short.index].id != place[0] for short in refused.short):
            line = self._lines.setdefault(bound.id, _Line())
            if len(line.tags) >= MOST:
                return False
            self._leave(question, served=False)
            self._came += 1
            place = bound.id, (line.tag(question, last.index), self._came)
            line.join(question, place[1])
            self._places[question] = place
            if question not in self._timers:
                loop = asyncio.get_running_loop()
                self._timers[question] = loop.call_later(question.asked.until - now, self._expire, question)
        question.tries = 0
        self._refused[question] = now, refused
        line = self._lines[place[0]]
        if line.first is question:
            soon = 0.0 if line.again else LOOK if last.wait is None else max(last.wait, 0.001)
            line.again = False
            self._look_in(place[0], soon)
        return True

    def leave(self, question: Question, served: bool = False) -> None:
        """It waits no more; `served`: since it got what it waited for."""
        self._trying.discard(question)
        timer = self._timers.pop(question, None)
        if timer is not None:
            timer.cancel()
        self._refused.pop(question, None)
        self._leave(question, served)

    def freed(self, bound: str) -> None:
        """Something of it came free."""
        if bound in self._lines:
            self._look_in(bound, 0.0)

    def look(self) -> None:
        """Try whoever is first in any line."""
        for bound in list(self._lines):
            self._look(bound)

    # -- inside

    def _leave(self, question: Question, served: bool) -> None:
        place = self._places.pop(question, None)
        if place is None:
            return
        line = self._lines[place[0]]
        line.leave(question, place[1], served)
        if line.tags:
            self._look_in(place[0], 0.0)
            return
        if line.timer is not None:
            line.timer.cancel()
        del self._lines[place[0]]

    def _look_in(self, bound: str, seconds: float) -> None:
        line = self._lines[bound]
        if line.timer is not None:
            line.timer.cancel()
        line.timer = asyncio.get_running_loop().call_later(seconds, self._look, bound)

    def _look(self, bound: str) -> None:
        line = self._lines.get(bound)
        if line is None:
            return
        first = line.first
        if first in self._trying:
            line.again = True
        else:
            self._trying.add(first)
            self._take(first)

    def _expire(self, question: Question) -> None:
        """It has waited as long as it may."""
        at, refused = self._refused[question]
        passed = self._clock() - at
        short = tuple(
            one if one.wait is None else msgspec.structs.replace(one, wait=max(0.001, one.wait - passed))
            for one in refused.short
        )
        self._refuse(question, Refused(short))
