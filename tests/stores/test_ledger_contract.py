"""One contract for every store of the ledger, and what is SQLite's or PostgreSQL's own."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock.limits import Limit
from penstock.stores import sqlite, sqlledger
from penstock.stores.base import Ledger, Mark, RequestRow, RowQuery, StoreUnavailable, UsageLine, UsageQuery, row_of
from penstock.stores.base.ledger import MOST_NANOS, MOST_TOKENS
from penstock.stores.memoryledger import MemoryLedger
from penstock.stores.sql import open_stores
from penstock.stores.sqlite import FILE
from support.databases import KINDS, Place, place_of
from support.ledger import NOON, a_brief, a_row, an_attempt

NOW = NOON + 7 * 86_400

Opened = tuple[Ledger, Callable[[], Awaitable[None]]]
Open = Callable[[], Awaitable[Opened]]


def clock() -> float:
    return NOW


def in_database(place: Place) -> Open:
    """Gives ledgers that share one database, each one with connections of its own."""

    async def opened() -> Opened:
        stores = await open_stores(place.store, place.directory, clock)
        return stores.ledger, stores.close

    return opened


@pytest.fixture(params=KINDS)
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    if request.param != "memory":
        return in_database(place_of(request.param, request, tmp_path))
    shared = MemoryLedger(clock)

    async def same() -> Opened:
        return shared, shared.close

    return same


def run(opened: Open, scenario: Callable[[Ledger], Awaitable[None]]) -> None:
    async def main() -> None:
        ledger, close = await opened()
        try:
            await scenario(ledger)
        finally:
            await close()

    asyncio.run(main())


def a_line(*group: str, requests: int = 1, **changes: Any) -> UsageLine:
    """What so many rows of `a_row` come to."""
    line = UsageLine(
        group=group,
        requests=requests,
        prompt_tokens=100 * requests,
        cached_tokens=40 * requests,
        completion_tokens=20 * requests,
        reasoning_tokens=5 * requests,
        cost_nanos=1_000 * requests,
    )
    return msgspec.structs.replace(line, **changes)


async def kept(ledger: Ledger, query: RowQuery | None = None) -> list[RequestRow]:
    return [row async for row in ledger.rows(query or RowQuery())]


def test_a_row_comes_back_with_all_that_was_stored(opened: Open) -> None:
    async def scenario(ledger: Ledger) -> None:
        plain = a_row(1)
        lost = a_row(
            2,
            stream=False,
            status=500,
            ended="lost",
            code="upstream_error",
            finish="",
            prompt_source="estimated",
            completion_source="partial",
            cost_nanos=None,
            duration_ms=None,
            first_event_ms=None,
            tags="team=search,nightly",
            user="user-1234",
            safety_identifier="safety-1234",
            trace=b'{"stopped":"patience","why":"\xc3\xa9"}',
            state="partial",
        )
        id_ = lost.id
        tries = (
            an_attempt(id_, 1, provider="backup", model="other", status=503, outcome="status", price_version="own"),
            an_attempt(id_, 2, outcome="unknown", duration_ms=None, cost_nanos=None, wait_ms=1000.5, state="partial"),
        )
        lost = msgspec.structs.replace(lost, attempts=tries)
        await ledger.store([plain, lost], [])
        assert await kept(ledger) == [plain, lost]

    run(opened, scenario)


def briefs() -> list[RequestRow]:
    """Rows that have a short form: of many keys and hours, some with nothing known of their price or first event."""
    rows = []
    for number in range(90):
        sources: Any = {"prompt_source": ("reported", "estimated", "partial")[number % 3]}
        sources["completion_source"] = sources["prompt_source"]
        changes: Any = {
            **sources,
            "cost_nanos": None if number % 4 == 0 else number * 1000,
            "model": f"gpt-{number % 2}",
            "prompt_tokens": number,
        }
        row = a_row(number, NOON + number // 60 * 3600 + number, trace=b"", key_id=f"key_{number % 5}", **changes)
        if number % 3 == 0:
            row = msgspec.structs.replace(row, first_event_ms=None, stream=False)
        attempt = an_attempt(row.id, duration_ms=700.0 + number, **changes)
        rows.append(msgspec.structs.replace(row, attempts=(attempt,)))
    return rows


def test_a_row_in_its_short_form_is_the_same_row(opened: Open) -> None:
    async def scenario(ledger: Ledger) -> None:
        rows = briefs()
        assert [row_of(a_brief(row)) for row in rows] == rows
        whole = a_row(95, NOON + 5)
        await ledger.store([a_brief(row) for row in rows[:47]], [Mark("j", 47)])
        await ledger.store([whole, *(a_brief(row) for row in rows[40:60]), *rows[55:70]], [Mark("j", 70)])
        await ledger.store([*rows[65:80], *(a_brief(row) for row in (*rows[80:], rows[85]))], [Mark("j", 90)])
        assert await kept(ledger) == sorted([*rows, whole], key=lambda row: row.id)
        expected = MemoryLedger(clock)
        await expected.store([*rows, whole], [])
        for by in ((), ("key", "hour"), ("target", "day")):
            query = UsageQuery(by=by)
            assert await ledger.usage(query) == await expected.usage(query)

    run(opened, scenario)


def test_what_is_stored_again_is_kept_and_counted_once(opened: Open) -> None:
    async def scenario(ledger: Ledger) -> None:
        rows = [a_row(number, NOON + number) for number in range(70)]
        await ledger.store(rows[:30], [Mark("j", 30)])
        await ledger.store(rows[:30], [Mark("j", 30)])
        await ledger.store([*rows[20:], rows[69], rows[0]], [Mark("j", 70)])
        other = msgspec.structs.replace(rows[5], prompt_tokens=7, attempts=())
        await ledger.store([other], [])
        assert await kept(ledger) == rows
        assert await ledger.usage(UsageQuery()) == (a_line(requests=70),)
        assert await ledger.usage(UsageQuery(by=("hour",))) == (a_line("2026-11-05T12:00Z", requests=70),)

    run(opened, scenario)


def test_rows_that_several_store_at_once_are_counted_once(opened: Open) -> None:
    async def scenario(ledger: Ledger) -> None:
        others = [await opened() for _ in range(3)]
        rows = [a_row(number, NOON + number, key_id=f"key_{number % 7}") for number in range(60)]
        parts = [rows[0:30], rows[15:45], rows[30:60], rows[::-1]]
        ledgers = [ledger, *(other for other, _ in others)]
        await asyncio.gather(*(one.store(part, []) for one, part in zip(ledgers, parts, strict=True)))
        assert await kept(ledger) == rows
        assert await ledger.usage(UsageQuery()) == (a_line(requests=60),)
        for _, close in others:
            await close()

    run(opened, scenario)


def test_marks_only_grow_and_are_stored_with_the_rows(opened: Open) -> None:
    async def scenario(ledger: Ledger) -> None:
        await ledger.store([a_row()], [Mark("one", 100), Mark("two", 7)])
        await ledger.store([], [Mark("one", 50), Mark("two", 8)])
        assert await ledger.marks() == {"one": 100, "two": 8}
        await ledger.forget(["one", "never"])
        await ledger.forget(["one"])
        assert await ledger.marks() == {"two": 8}

    run(opened, scenario)


def test_a_cancelled_call_is_stored_whole_or_not_at_all(opened: Open) -> None:
    async def scenario(ledger: Ledger) -> None:
        for turns in range(12):
            rows = [a_row(number, NOON + turns) for number in range(30)]
            task = asyncio.ensure_future(ledger.store(rows, [Mark(str(turns), 30)]))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await ledger.store([], [])  # behind it, where a thread was left at its work
            there = await kept(ledger, RowQuery(NOON + turns, NOON + turns + 1))
            assert there in ([], rows)
            assert (str(turns) in await ledger.marks()) == bool(there)
        stored = len(await kept(ledger))
        assert [line.requests for line in await ledger.usage(UsageQuery())] == ([stored] if stored else [])

    run(opened, scenario)


def test_usage_is_summed_up_by_what_is_asked_for(opened: Open) -> None:
    async def scenario(ledger: Ledger) -> None:
        day = 86_400
        await ledger.store(
            [
                a_row(1, NOON),
                a_row(2, NOON + 3600, key_id="key_b"),
                a_row(3, NOON + day, asked="other", provider="own", model="llama"),
                a_row(4, NOON + day, key_id="key_c", project_id="prj_2", endpoint="embeddings"),
            ],
            [],
        )

        async def by(*dimensions: Any, **narrowed: Any) -> dict[tuple[str, ...], int]:
            lines = await ledger.usage(UsageQuery(by=dimensions, **narrowed))
            assert list(lines) == sorted(lines, key=lambda line: line.group)
            return {line.group: line.requests for line in lines}

        assert await by("key") == {("key_a",): 2, ("key_b",): 1, ("key_c",): 1}
        assert await by("project") == {("prj_1",): 3, ("prj_2",): 1}
        assert await by("model") == {("gpt-5.4",): 3, ("other",): 1}
        assert await by("provider") == {("openai",): 3, ("own",): 1}
        assert await by("target") == {("openai/gpt-5.4",): 3, ("own/llama",): 1}
        assert await by("endpoint") == {("chat.completions",): 3, ("embeddings",): 1}
        assert await by("day") == {("2026-11-05",): 2, ("2026-11-06",): 2}
        assert await by("hour") == {("2026-11-05T12:00Z",): 1, ("2026-11-05T13:00Z",): 1, ("2026-11-06T12:00Z",): 2}
        assert await by("day", "key") == {
            ("2026-11-05", "key_a"): 1,
            ("2026-11-05", "key_b"): 1,
            ("2026-11-06", "key_a"): 1,
            ("2026-11-06", "key_c"): 1,
        }
        assert await by() == {(): 4}
        assert await by("model", key_id="key_a") == {("gpt-5.4",): 1, ("other",): 1}
        assert await by("key", project_id="prj_2") == {("key_c",): 1}
        assert await by("key", key_id="nobody") == {}
        assert await by(key_id="nobody") == {}

    run(opened, scenario)


def test_usage_is_cut_at_whole_hours_wherever_days_begin(opened: Open) -> None:
    async def scenario(ledger: Ledger) -> None:
        hours = [NOON + 3600 * hour for hour in range(72)]
        await ledger.store([a_row(number, at) for number, at in enumerate(hours)], [])
        for since, until in itertools.product((0, 1, 11, 12, 13, 36, 40), (41, 47, 48, 60, 71, 72)):
            query = UsageQuery(since=NOON + 3600 * since + 1800, until=NOON + 3600 * until - 1800)
            (line,) = await ledger.usage(query)
            assert line.requests == until - since
        (line,) = await ledger.usage(UsageQuery(since=NOON + 3600 * 70))
        assert line.requests == 2
        assert await ledger.usage(UsageQuery(since=NOON + 3600, until=NOON)) == ()

    run(opened, scenario)


def test_usage_tells_what_nobody_reported_and_what_has_no_price(opened: Open) -> None:
    async def scenario(ledger: Ledger) -> None:
        await ledger.store(
            [
                a_row(1, prompt_source="estimated", completion_source="estimated"),
                a_row(2, completion_source="partial", cost_nanos=None, tags="x"),
                a_row(3),
            ],
            [],
        )
        told: dict[str, int] = {"estimated_tokens": 120, "partial_tokens": 20, "cost_nanos": 2_000, "unpriced": 1}
        assert await ledger.usage(UsageQuery()) == (a_line(requests=3, **told),)
        by_tag = {"estimated_tokens": 120, "cost_nanos": 2_000}
        assert await ledger.usage(UsageQuery(by=("tag",))) == (
            a_line("", requests=2, **by_tag),
            a_line("x", partial_tokens=20, cost_nanos=0, unpriced=1),
        )

    run(opened, scenario)


def test_by_tag_a_request_counts_for_each_of_its_tags(opened: Open) -> None:
    async def scenario(ledger: Ledger) -> None:
        await ledger.store(
            [a_row(1, tags="a,b"), a_row(2, NOON + 60, tags="b"), a_row(3, NOON + 60, key_id="key_b", tags="b,c")], []
        )

        async def by_tag(**narrowed: Any) -> dict[tuple[str, ...], int]:
            return {line.group: line.requests for line in await ledger.usage(UsageQuery(by=("tag",), **narrowed))}

        assert await by_tag() == {("a",): 1, ("b",): 3, ("c",): 1}
        assert await by_tag(since=NOON + 1) == {("b",): 2, ("c",): 1}
        assert await by_tag(key_id="key_a") == {("a",): 1, ("b",): 2}

    run(opened, scenario)


def limit(meter: str, scope: Any = "key", scope_id: str = "key_a", model: str = "") -> Limit:
    return Limit(scope, scope_id, meter, 1, model)


def test_counters_learn_what_was_spent_of_each_unit(opened: Open) -> None:
    async def scenario(ledger: Ledger) -> None:
        await ledger.store(
            [
                a_row(1, NOON),
                a_row(2, NOON + 400, asked="gpt-5.4-mini"),
                a_row(3, NOON + 7200, cost_nanos=None),
                a_row(4, NOON, key_id="key_b", asked="other"),
            ],
            [],
        )
        everything = float("inf")
        day = NOON - 12 * 3600

        async def spent(limit: Limit, since: float = 0.0, span: float = everything) -> list[tuple[float, int]]:
            return list(await ledger.spent(limit, since, span))

        assert await spent(limit("requests_per_day")) == [(day + 86_400, 3)]
        assert await spent(limit("tokens_per_day")) == [(day + 86_400, 360)]
        assert await spent(limit("usd_total")) == [(day + 86_400, 2_000)]
        assert await spent(limit("concurrency")) == []
        assert await spent(limit("requests_per_day", "project", "prj_1")) == [(day + 86_400, 4)]
        assert await spent(limit("requests_per_day", model="gpt-5.4")) == [(day + 86_400, 2)]
        assert await spent(limit("requests_per_day", model="gpt-5.4-*")) == [(day + 86_400, 1)]
        assert await spent(limit("requests_per_day", model="gpt-*")) == [(day + 86_400, 3)]
        assert await spent(limit("rpm"), span=4000) == [(NOON + 3600, 2), (NOON + 10_800, 1)]
        assert await spent(limit("rpm"), span=360) == [(NOON + 360, 1), (NOON + 720, 1), (NOON + 7560, 1)]
        assert await spent(limit("rpm"), span=0.25) == [(NOON + 1, 1), (NOON + 401, 1), (NOON + 7201, 1)]
        assert await spent(limit("rpm"), NOON + 360, 360) == [(NOON + 720, 1), (NOON + 7560, 1)]
        assert (await spent(limit("rpm"), NOON + 300, 360))[0] == (NOON + 360, 1)
        assert await spent(limit("rpm"), NOON + 400, 0.25) == [(NOON + 401, 1), (NOON + 7201, 1)]
        await ledger.store([a_row(9, NOW)], [])
        assert (await spent(limit("rpm"), NOW - 60, 0.25)) == [(NOW, 1)]  # not in the future

    run(opened, scenario)


def test_rows_are_given_in_order_of_time_within_what_is_asked(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlledger, "PAGE", 4)

    async def scenario(ledger: Ledger) -> None:
        rows = [a_row(number, NOON + number / 1000, key_id=f"key_{number % 3}") for number in range(20)]
        await ledger.store(rows[::-1], [])
        assert await kept(ledger) == rows
        assert await kept(ledger, RowQuery(NOON + 0.003, NOON + 0.012)) == rows[3:12]
        assert await kept(ledger, RowQuery(key_id="key_1")) == rows[1::3]
        assert await kept(ledger, RowQuery(key_id="key_1", project_id="prj_2")) == []

    run(opened, scenario)


def test_pruning_deletes_the_oldest_rows_and_no_sums(opened: Open) -> None:
    async def scenario(ledger: Ledger) -> None:
        rows = [a_row(number, NOON + number) for number in range(10)]
        await ledger.store(rows, [])
        assert await ledger.prune(NOON + 7, 5) == 5
        assert await kept(ledger) == rows[5:]
        assert await ledger.prune(NOON + 7, 5) == 2
        assert await ledger.prune(NOON + 7, 5) == 0
        assert await kept(ledger) == rows[7:]
        assert await ledger.usage(UsageQuery()) == (a_line(requests=10),)

    run(opened, scenario)


def test_trimming_drops_only_the_finest_sums(opened: Open) -> None:
    async def scenario(ledger: Ledger) -> None:
        await ledger.store([a_row(1, NOON), a_row(2, NOON + 720)], [])
        await ledger.trim(NOON + 360)
        assert list(await ledger.spent(limit("rpm"), 0.0, 360)) == [(NOON + 1080, 1)]
        assert list(await ledger.spent(limit("rpm"), 0.0, 3600)) == [(NOON + 3600, 2)]

    run(opened, scenario)


def test_figures_beyond_belief_do_not_stop_the_ledger(opened: Open) -> None:
    async def scenario(ledger: Ledger) -> None:
        rows = [a_row(number, prompt_tokens=2**53, cost_nanos=2**80) for number in range(40)]
        await ledger.store(rows, [])
        (line,) = await ledger.usage(UsageQuery())
        assert line.prompt_tokens == 40 * MOST_TOKENS
        assert line.cost_nanos == 40 * MOST_NANOS

    run(opened, scenario)


def test_text_with_a_null_character_is_stored(opened: Open) -> None:
    async def scenario(ledger: Ledger) -> None:
        await ledger.store([a_row(1, asked="a\0b", user="u\0"), a_row(2, asked="a\0b")], [])
        await ledger.store([a_row(3, asked="a\0b")], [])
        assert [line.requests for line in await ledger.usage(UsageQuery(by=("model",)))] == [3]

    run(opened, scenario)


def test_what_is_stored_can_be_waited_for_to_be_on_the_disk(opened: Open) -> None:
    async def scenario(ledger: Ledger) -> None:
        await ledger.sync()
        await ledger.store([a_row()], [])
        await ledger.sync()
        assert len(await kept(ledger)) == 1

    run(opened, scenario)


# -- SQLite


def test_a_store_that_is_locked_too_long_has_stored_nothing_and_works_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY", 0.1)

    async def scenario(ledger: Ledger) -> None:
        await ledger.store([a_row(1)], [])
        with closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreUnavailable, match="locked"):
                await ledger.store([a_row(2)], [Mark("j", 2)])
            assert len(await kept(ledger)) == 1  # readers do not wait
            other.execute("ROLLBACK")
        assert await ledger.marks() == {}
        await ledger.store([a_row(2), a_row(3, key_id="key_new")], [Mark("j", 3)])
        assert len(await kept(ledger)) == 3

    run(in_database(Place("sqlite", tmp_path)), scenario)


def test_a_disk_that_is_full_is_told_and_what_was_refused_can_be_stored_later(tmp_path: Path) -> None:
    async def scenario(ledger: Ledger) -> None:
        rows = [a_row(number, trace=b'"%s"' % (b"x" * 5000)) for number in range(40)]
        await ledger.store(rows[:1], [])
        writing = ledger._writer._apart._connection  # type: ignore[attr-defined]  # a full disk, as SQLite itself can play it
        pages = writing.execute("PRAGMA page_count").fetchone()[0]
        writing.execute(f"PRAGMA max_page_count = {pages + 2}")
        with pytest.raises(StoreUnavailable, match="full"):
            await ledger.store(rows, [Mark("j", 1)])
        assert (await kept(ledger), await ledger.marks()) == (rows[:1], {})
        await ledger.store(rows, [Mark("j", 1)])  # by a new connection, which knows of no bound
        assert await kept(ledger) == rows
        assert (await ledger.usage(UsageQuery()))[0].requests == 40

    run(in_database(Place("sqlite", tmp_path)), scenario)
