"""Chat completions that are kept: taken from the workers at once, written behind them, found when somebody asks.

How it works: a worker hands over what is to be kept and waits for nothing. It stands in a line, bounded in bytes, from
which one task writes, many at a time. Whoever asks for an answer first waits until all that stood in line before is
written, so that what was answered is found. What is older than the retention is gone for every question, and swept away
some at a time.

When it fails: a store that is away is tried again every RETRY seconds, which the log says once for each outage; the
line grows to its bound, and what comes then is dropped and counted. Questions are answered "not available". What stands
in line when the process is killed is lost: it is no ledger.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable

import msgspec

from penstock.config import AnswersConfig
from penstock.control.patience import SECONDS, Patience
from penstock.link import (
    AnswersFound,
    AnswersMessage,
    DropAnswer,
    EditAnswer,
    FindAnswer,
    KeepAnswer,
    ListAnswers,
    SeriesValue,
)
from penstock.stores.base import StoreUnavailable
from penstock.stores.base.answers import Answers, NoSuchCursor
from penstock.types import KeptAnswer
from penstock.wire.answer import BROKEN

LINE_BYTES = 64 * 1024 * 1024
BATCH, BATCH_BYTES = 100, 8 * 1024 * 1024
RETRY = 1.0
SWEEP, SWEPT = 60.0, 500  # seconds between sweeps, answers in one step of them
DAY = 86_400.0
LONGEST_NAME = 256  # of an id or a model; what has a longer one is no answer of a server that we know

_log = logging.getLogger("penstock.answers")


class _Named(msgspec.Struct):
    id: str
    model: str = ""


_named = msgspec.json.Decoder(_Named).decode

Send = Callable[[AnswersFound], None]
Question = FindAnswer | ListAnswers | EditAnswer | DropAnswer


class KeptAnswers:
    """All of one server's. Of the clock's seconds are the times at which answers were kept."""

    def __init__(self, config: AnswersConfig, clock: Callable[[], float] = time.time) -> None:
        self.config = config
        self._clock = clock
        self._store: Answers | None = None
        self._line: deque[KeptAnswer] = deque()
        self._line_bytes = 0
        self._came = 0  # answers that were put in line, ever
        self._written = 0  # of those
        self._stir = asyncio.Event()  # something was put in line, or written
        self._wake = asyncio.Event()
        self._failing = False
        self._patience = Patience()
        self._counts = {"kept": 0, "lost": 0, "unfit": 0}

    def receive(self, message: AnswersMessage, send: Send) -> None:
        """A worker's message; a question is answered by `send`."""
        if isinstance(message, KeepAnswer):
            self._queue(message)
        else:
            self._patience.start(self._reply(message, send))

    async def run(self, store: Answers) -> None:
        """Write what stands in line, and sweep, until cancelled."""
        self._store = store
        sweeping = asyncio.create_task(self._keep_sweeping(store))
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._line:
                    await self._write(store)
        finally:
            sweeping.cancel()

    async def close(self, within: float) -> None:
        """Let what stands in line be written, so far as that goes in time; `run` must run on until then."""
        try:
            async with asyncio.timeout(within):
                await self._caught_up()
        except TimeoutError:
            _log.error("%d chat completions that were to be kept are lost: the store did not answer", len(self._line))

    def series(self) -> tuple[SeriesValue, ...]:
        """How many were kept, lost because the store was away, or of no use."""
        return tuple(
            SeriesValue("penstock_kept_answers_total", (outcome,), count)
            for outcome, count in self._counts.items()
            if count
        )

    # -- keeping

    def _queue(self, message: KeepAnswer) -> None:
        try:
            named = _named(message.body)
        except BROKEN:
            named = _Named("")
        if not (_is_name(named.id) and _is_name(named.model)):
            self._counts["unfit"] += 1
            return
        size = len(message.body) + len(message.messages)
        if self._line_bytes + size > LINE_BYTES:
            self._counts["lost"] += 1
            return
        answer = KeptAnswer(
            message.scope, named.id, named.model, self._clock(), message.metadata, message.body, message.messages
        )
        self._line.append(answer)
        self._line_bytes += size
        self._came += 1
        self._wake.set()

    async def _write(self, store: Answers) -> None:
        """The next ones in line; they stay there until the store has them."""
        batch, size = [], 0
        for answer in self._line:
            batch.append(answer)
            size += len(answer.body) + len(answer.messages)
            if len(batch) >= BATCH or size >= BATCH_BYTES:
                break
        try:
            await store.keep(batch)
        except StoreUnavailable as error:
            if not self._failing:
                self._failing = True
                _log.error("chat completions cannot be kept now and wait in memory: %s", error)
            await asyncio.sleep(RETRY)
            return
        if self._failing:
            self._failing = False
            _log.warning("chat completions are kept again; %d were lost so far", self._counts["lost"])
        for _ in batch:
            self._line.popleft()
        self._line_bytes -= size
        self._counts["kept"] += len(batch)
        self._written += len(batch)
        self._stir.set()
        self._stir = asyncio.Event()

    async def _caught_up(self) -> None:
        """Return when all that stands in line now is written."""
        came = self._came
        while self._written < came:
            await self._stir.wait()

    # -- finding

    async def _reply(self, question: Question, send: Send) -> None:
        try:
            found = await self._patience.wait(self._find(question))
        except (StoreUnavailable, TimeoutError):
            found = AnswersFound(question.ref, available=False)
        send(found)

    async def _find(self, question: Question) -> AnswersFound:
        async with asyncio.timeout(SECONDS):
            await self._caught_up()
        store, ref = self._store, question.ref
        if store is None:
            raise StoreUnavailable("it is not open yet")
        since = self._since()
        answer: KeptAnswer | None
        match question:
            case FindAnswer():
                answer = await store.find(question.scope, question.id, since)
            case EditAnswer():
                answer = await store.edit(question.scope, question.id, question.metadata, since)
            case DropAnswer():
                return AnswersFound(ref, there=await store.drop(question.scope, question.id, since))
            case ListAnswers():
                try:
                    listing = await store.list(question.scope, question.page, since)
                except NoSuchCursor:
                    return AnswersFound(ref, there=False)
                return AnswersFound(ref, listing.answers, listing.more)
        return AnswersFound(ref, there=False) if answer is None else AnswersFound(ref, (answer,))

    def _since(self) -> float:
        return self._clock() - self.config.retention_days * DAY

    # -- forgetting

    async def _keep_sweeping(self, store: Answers) -> None:
        while True:
            await asyncio.sleep(SWEEP)
            await self.sweep(store)

    async def sweep(self, store: Answers) -> None:
        """Forget what is older than the retention."""
        try:
            while await store.sweep(self._since(), SWEPT) == SWEPT:
                pass
        except StoreUnavailable:
            pass  # whoever needs the store says so; the next sweep does this one's work


def _is_name(text: str) -> bool:
    return 0 < len(text) <= LONGEST_NAME and text.isprintable()
