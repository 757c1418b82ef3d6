"""Runs the rows one after another and keeps what each found.

A row ends by passing or by a verdict. An answer whose shape its code trips over is a failure as well: the code reads
answers as clients do, and clients trip there. When the server cannot be reached any more, or the budget is spent, the
remaining rows are skipped and the report says why.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from penstock.check.ask import Ask, Settings
from penstock.check.budget import Budget, Stopped, TooMuch
from penstock.check.client import Trouble, Unreachable
from penstock.check.row import Row
from penstock.check.verdict import Failed, Skipped, Unsupported, Verdict, plain

PASSED, FAILED, UNSUPPORTED, SKIPPED, INFORMATION = "passed", "failed", "unsupported", "skipped", "information"
RESULTS = (PASSED, FAILED, UNSUPPORTED, SKIPPED, INFORMATION)

NOT_REACHED = "the run was stopped before"

# What reading an answer of an unforeseen shape raises.
_SHAPE = (AttributeError, LookupError, TypeError, ValueError, ArithmeticError, RecursionError)


class Finding(msgspec.Struct, frozen=True):
    """What a row found. `got`: what came, or a note; `tokens` and `requests` are what it cost."""

    row: Row
    result: str
    got: str | None
    requests: int
    tokens: int
    duration_ms: float


class Report(msgspec.Struct, frozen=True):
    """A whole run. `stopped` says why it ended before its last row, None when it did not."""

    url: str
    model: str
    findings: tuple[Finding, ...]
    stopped: str | None
    requests: int
    tokens: int
    tokens_estimated: int
    budget: int
    waits: int
    seconds_waited: float
    duration_seconds: float

    def count(self, result: str) -> int:
        """How many rows ended so."""
        return self.counts()[result]

    def counts(self) -> Counter[str]:
        """Rows by result."""
        return Counter(finding.result for finding in self.findings)

    @property
    def exit_status(self) -> int:
        """0: all passed; 1: some failed; 2: none failed, and the run did not come to its end."""
        if self.count(FAILED):
            return 1
        return 2 if self.stopped else 0


class Watcher:
    """Is told how a run goes; this one does not care."""

    def begins(self, row: Row, number: int, count: int) -> None:
        """A row is about to be asked."""

    def ended(self, finding: Finding) -> None:
        """A row has ended."""

    def told(self, text: str) -> None:
        """Something that takes time."""


class Run:
    """One run over some rows; what it has found is there to be reported even when it is broken off."""

    def __init__(
        self,
        rows: Sequence[Row],
        settings: Settings,
        *,
        heavy: bool = False,
        watcher: Watcher | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._rows = rows
        self._settings = settings
        self._heavy = heavy
        self._watcher = watcher or Watcher()
        self._budget = Budget(settings.tokens, settings.requests)
        self._ask = Ask(settings, self._budget, sleep=sleep, told=self._watcher.told)
        self._findings: list[Finding] = []
        self._started = time.monotonic()

    async def go(self) -> Report:
        """Ask the rows; raises CannotRun when the server, the key or the model is not there."""
        await self._ask.begin()
        stopped: str | None = None
        for number, row in enumerate(self._rows, 1):
            if row.heavy and not self._heavy:
                finding = Finding(row, SKIPPED, "asked only with --heavy", 0, 0, 0.0)
            else:
                self._watcher.begins(row, number, len(self._rows))
                finding, stopped = await _ask_row(row, self._ask)
            self._findings.append(finding)
            self._watcher.ended(finding)
            if stopped is not None:
                break
        return self.report(stopped)

    def report(self, stopped: str | None) -> Report:
        """What was found so far, and why it is not more."""
        budget, key = self._budget, self._settings.secret
        rest = self._rows[len(self._findings) :]
        findings = [*self._findings, *(Finding(row, SKIPPED, NOT_REACHED, 0, 0, 0.0) for row in rest)]
        return Report(
            url=self._settings.place.url,
            model=self._ask.model,
            findings=tuple(_fit_to_show(finding, key) for finding in findings),
            stopped=None if stopped is None else plain(redact(stopped, key)),
            requests=budget.requests_made,
            tokens=budget.tokens_spent,
            tokens_estimated=budget.tokens_estimated,
            budget=budget.tokens,
            waits=budget.waits,
            seconds_waited=budget.seconds_waited,
            duration_seconds=time.monotonic() - self._started,
        )


async def _ask_row(row: Row, ask: Ask) -> tuple[Finding, str | None]:
    """What the row found, and why the run must stop, if it must."""
    budget = ask.budget
    requests, tokens, started = budget.requests_made, budget.tokens_spent, time.monotonic()
    stop: str | None = None
    try:
        result, got = PASSED, await row.check(ask)
    except Stopped as error:
        result, got = SKIPPED, str(error)
        # What one heavy row may cost says nothing about the others.
        stop = None if row.heavy and isinstance(error, TooMuch) else got
    except Unreachable as error:
        stop = f"the server went away: {error}"
        result, got = FAILED, str(error)
    except Trouble as error:
        result, got = FAILED, str(error)
    except Verdict as verdict:
        result, got = _RESULT_OF[type(verdict)], verdict.got
    except _SHAPE as error:
        result, got = FAILED, f"an answer of another shape ({type(error).__name__}: {error})"
    if row.level == "P" and result != SKIPPED and stop is None:
        result = INFORMATION
    spent = (budget.requests_made - requests, budget.tokens_spent - tokens)
    return Finding(row, result, got, *spent, (time.monotonic() - started) * 1000), stop


_RESULT_OF: dict[type[Verdict], str] = {Failed: FAILED, Unsupported: UNSUPPORTED, Skipped: SKIPPED}


def redact(text: str, key: str | None) -> str:
    """A text without the key in it."""
    return text if not key else text.replace(key, "***")


def _fit_to_show(finding: Finding, key: str | None) -> Finding:
    if finding.got is None:
        return finding
    return msgspec.structs.replace(finding, got=plain(redact(finding.got, key)))
