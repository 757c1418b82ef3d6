"""Kept answers, and the runs of requests with an idempotency key, in memory: nothing survives the process.

As in `stores.memory`, every method lets other tasks run first; what follows its first await is one step of the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import msgspec

from penstock.stores.base.answers import Listing, NoSuchCursor, page_of
from penstock.stores.base.runs import Verdict
from penstock.types import KeptAnswer, Page, Run


class MemoryAnswers:
    """Implements `stores.base.answers.Answers`."""

    def __init__(self) -> None:
        self._answers: dict[tuple[str, str], KeptAnswer] = {}

    async def keep(self, answers: Sequence[KeptAnswer]) -> None:
        await asyncio.sleep(0)
        self._answers |= {(answer.scope, answer.id): answer for answer in answers}

    async def find(self, scope: str, answer_id: str, since: float) -> KeptAnswer | None:
        await asyncio.sleep(0)
        return self._find(scope, answer_id, since)

    def _find(self, scope: str, answer_id: str, since: float) -> KeptAnswer | None:
        found = self._answers.get((scope, answer_id))
        return found if found is not None and found.kept_at >= since else None

    async def list(self, scope: str, page: Page, since: float) -> Listing:
        await asyncio.sleep(0)
        own = [one for one in self._answers.values() if one.scope == scope and one.kept_at >= since]
        own.sort(key=_place, reverse=page.descending)
        if page.after:
            cursor = self._find(scope, page.after, since)
            if cursor is None:
                raise NoSuchCursor(page.after)
            own = own[own.index(cursor) + 1 :]
        fitting = [one for one in own if _fits(one, page)]
        count = page_of([len(one.body) for one in fitting], page.limit)
        answers = tuple(msgspec.structs.replace(one, messages=b"") for one in fitting[:count])
        return Listing(answers, len(fitting) > count)

    async def edit(self, scope: str, answer_id: str, metadata: Mapping[str, str], since: float) -> KeptAnswer | None:
        await asyncio.sleep(0)
        found = self._find(scope, answer_id, since)
        if found is None:
            return None
        edited = self._answers[scope, answer_id] = msgspec.structs.replace(found, metadata=dict(metadata))
        return edited

    async def drop(self, scope: str, answer_id: str, since: float) -> bool:
        await asyncio.sleep(0)
        there = self._find(scope, answer_id, since) is not None
        if there:
            del self._answers[scope, answer_id]
        return there

    async def sweep(self, before: float, most: int) -> int:
        await asyncio.sleep(0)
        old = [at for at, answer in self._answers.items() if answer.kept_at < before][:most]
        for at in old:
            del self._answers[at]
        return len(old)


class _Held(msgspec.Struct):
    run: Run
    until: float
    done: bool = False


class MemoryRuns:
    """Implements `stores.base.runs.Runs`."""

    def __init__(self) -> None:
        self._held: dict[bytes, _Held] = {}

    async def claim(self, run: Run, now: float, until: float) -> Verdict:
        await asyncio.sleep(0)
        held = self._held.get(run.id)
        if held is None or held.until <= now:
            self._held[run.id] = _Held(run, until)
            return Verdict.CLAIMED
        if held.run.fingerprint != run.fingerprint:
            return Verdict.REUSED
        return Verdict.DONE if held.done else Verdict.RUNNING

    async def finish(self, run: Run, until: float) -> bool:
        await asyncio.sleep(0)
        held = self._held.get(run.id)
        if held is None or held.run.claim != run.claim:
            return False
        held.done, held.until = True, until
        return True

    async def release(self, run: Run) -> None:
        await asyncio.sleep(0)
        held = self._held.get(run.id)
        if held is not None and held.run.claim == run.claim and not held.done:
            del self._held[run.id]

    async def renew(self, claims: Sequence[str], until: float) -> None:
        await asyncio.sleep(0)
        for held in self._held.values():
            if held.run.claim in claims and not held.done:
                held.until = until

    async def sweep(self, now: float, most: int) -> int:
        await asyncio.sleep(0)
        over = [run_id for run_id, held in self._held.items() if held.until <= now][:most]
        for run_id in over:
            del self._held[run_id]
        return len(over)


def _place(answer: KeptAnswer) -> tuple[float, str]:
    return answer.kept_at, answer.id


def _fits(answer: KeptAnswer, page: Page) -> bool:
    return (not page.model or answer.model == page.model) and page.metadata.items() <= answer.metadata.items()
