"""Running rows against an upstream inside a test."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from penstock.check.ask import Settings
from penstock.check.catalogue import select
from penstock.check.client import parse_place
from penstock.check.run import Report, Run, Watcher
from penstock.fake_upstream import FakeUpstream

KEY = "sk-check-0123456789abcdef"


def settings(url: str, **members: Any) -> Settings:
    """Settings for a server of a test's own."""
    return Settings(parse_place(url), **{"key": KEY, "model": "gpt-5.4", "patience": 10.0, **members})


def check(
    upstream: FakeUpstream,
    *only: str,
    heavy: bool = False,
    watcher: Watcher | None = None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    **members: Any,
) -> Report:
    """Run these rows against an upstream that is started for it."""

    async def main() -> Report:
        async with asyncio.timeout(60):
            async with upstream:
                rows = select(only)
                mine = settings(upstream.base_url, **members)
                return await Run(rows, mine, heavy=heavy, watcher=watcher, sleep=sleep).go()

    return asyncio.run(main())


def results(report: Report) -> dict[str, str]:
    """The result of each row."""
    return {finding.row.id: finding.result for finding in report.findings}
