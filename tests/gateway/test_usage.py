"""`GET /v1/penstock/usage`: a key is told what it has used, and nothing of others."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from penstock.control import usage
from penstock.stores.base import StoreUnavailable, UsageLine, UsageQuery
from penstock.stores.memoryledger import MemoryLedger
from penstock.types import Principal
from support.gateway import ALICE, KEY, Answered, gateway, request, run
from support.ledger import NOON, a_row
from support.upstreams import ThreadedUpstream

BOBS = "sk-the-other-callers-key-0123456789"
BOB = Principal("key_bob", "bob")


async def asked(ledger: MemoryLedger | None, upstream: str, query: str = "", key: str | None = KEY) -> Answered:
    async with gateway(upstream, keys={KEY: ALICE, BOBS: BOB}) as running:
        if ledger is not None:
            running.kin.own_usage.open(ledger)
        return await running.ask(request("GET", f"/v1/penstock/usage{query}", key))


async def used() -> MemoryLedger:
    """Alice's two requests and Bob's one."""
    ledger = MemoryLedger()
    alices = [a_row(1, key_id="key_alice"), a_row(2, NOON + 86_400, key_id="key_alice", asked="other", cost_nanos=None)]
    await ledger.store([*alices, a_row(3, key_id="key_bob")], [])
    return ledger


def test_a_key_is_told_its_own_use_and_nothing_of_others(upstream: ThreadedUpstream) -> None:
    async def main() -> None:
        ledger = await used()
        answer = await asked(ledger, upstream.base_url)
        assert answer.status == 200
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-request-id"].startswith("req_")
        figures: dict[str, Any] = {
            "requests": 1,
            "prompt_tokens": 100,
            "cached_tokens": 40,
            "completion_tokens": 20,
            "reasoning_tokens": 5,
            "estimated_tokens": 0,
            "partial_tokens": 0,
        }
        total = {name: 2 * figure for name, figure in figures.items()}
        assert answer.json() == {
            "object": "usage",
            "by": ["model"],
            "since": None,
            "until": None,
            "data": [
                {"model": "gpt-5.4", **figures, "cost_nanos": 1_000, "unpriced_requests": 0},
                {"model": "other", **figures, "cost_nanos": None, "unpriced_requests": 1},
            ],
            "total": {**total, "cost_nanos": 1_000, "unpriced_requests": 1},
        }
        assert (await asked(ledger, upstream.base_url, key=BOBS)).json()["total"]["requests"] == 1

    run(main())


def test_time_and_groups_are_the_callers_to_choose(upstream: ThreadedUpstream) -> None:
    async def main() -> None:
        ledger = await used()
        answer = await asked(ledger, upstream.base_url, "?by=day,model&since=2026-11-06&until=2026-11-07T00:00%2B00:00")
        told = answer.json()
        assert [(line["day"], line["model"]) for line in told["data"]] == [("2026-11-06", "other")]
        assert (told["since"], told["until"]) == (1_793_923_200, 1_794_009_600)
        assert (await asked(ledger, upstream.base_url, "?by=tag")).json()["total"] is None

    run(main())


@pytest.mark.parametrize(
    ("query", "param", "says"),
    [
        ("?by=key", "by", "model, provider"),
        ("?by=", "by", "model, provider"),
        ("?by=day,day", "by", "once"),
        ("?by=tag,day", "by", "alone"),
        ("?since=yesterday", "since", "7d"),
        ("?until=99999-01-01", "until", "7d"),
        ("?key=key_bob", "key", "by, since and until"),
        ("?since=7d&since=8d", "by", "once"),
        ("?since=%ff", "since", "7d"),
        ("?" + "&".join(f"a{n}=1" for n in range(20)), "by", "cannot be read"),
    ],
)
def test_what_cannot_be_asked_is_a_400_that_says_what_can(
    upstream: ThreadedUpstream, query: str, param: str, says: str
) -> None:
    async def main() -> None:
        answer = await asked(await used(), upstream.base_url, query)
        assert answer.status == 400
        assert answer.error["param"] == param
        assert answer.error["type"] == "invalid_request_error"
        assert says in answer.error["message"]

    run(main())


def test_without_a_key_nothing_is_told(upstream: ThreadedUpstream) -> None:
    async def main() -> None:
        assert (await asked(await used(), upstream.base_url, key=None)).status == 401

    run(main())


class Away(MemoryLedger):
    """A store that cannot be asked, or does not answer."""

    def __init__(self, hangs: bool = False) -> None:
        super().__init__()
        self._hangs = hangs

    async def usage(self, query: UsageQuery) -> tuple[UsageLine, ...]:
        if self._hangs:
            await asyncio.Event().wait()
        raise StoreUnavailable("the disk is gone")


@pytest.mark.parametrize("ledger", [None, Away(), Away(hangs=True)], ids=["not open yet", "away", "hangs"])
def test_a_ledger_that_does_not_answer_is_a_503(
    upstream: ThreadedUpstream, monkeypatch: pytest.MonkeyPatch, ledger: MemoryLedger | None
) -> None:
    monkeypatch.setattr(usage, "LIMIT", 0.05)

    async def main() -> None:
        answer = await asked(ledger, upstream.base_url)
        assert answer.status == 503
        assert answer.error["code"] == "overloaded"
        assert answer.headers["retry-after"] == "1"
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()  # what hangs

    run(main())


def test_a_cost_that_nobody_knows_is_not_nothing() -> None:
    line = UsageLine((), requests=2, unpriced=2)
    assert usage.known_cost(line) is None
    assert usage.known_cost(msgspec.structs.replace(line, unpriced=1, cost_nanos=5)) == 5
    assert usage.known_cost(UsageLine(())) == 0
