"""What the entries of one request come to: its row, its attempts' rows, what they cost and what is settled."""

from __future__ import annotations

import json
from typing import Any

import pytest

from penstock.control.ledger.rows import Closed, Common, account, accounts, at_length
from penstock.control.prices.rates import PER_NANO, Rates, Tariff, tariff
from penstock.journal import Answered, Done, Ended, Entry, Reserved, Spent, Tried
from penstock.stores.base import row_of
from penstock.stores.base.ledger import Series
from penstock.types import Settlement
from support.journals import RESERVED, begun, in_brief

REPORTED = Spent(100, 50, 30, 20, "reported")
PER_TOKEN = 3


def price(provider: str, model: str, at: float) -> Tariff:
    """Three nano-dollars a token, but of what nobody knows the price of."""
    assert at == 1_800_000_000.0
    rate = PER_TOKEN * PER_NANO
    return tariff(f"{provider}-1", () if model == "unpriced" else ((-1, Rates(rate, rate, rate, rate)),))


def tried(outcome: str = "ok", status: int = 200, **fields: Any) -> Tried:
    made: dict[str, Any] = {"provider": "fake", "model": "gpt-5.4", "duration_ms": 10.0}
    return Tried(status=status, outcome=outcome, **{**made, **fields})


def done(*attempts: Tried, first: int = 0, usage: Spent | None = REPORTED, **fields: Any) -> Done:
    made: dict[str, Any] = {
        "id": "req_1",
        "status": 200,
        "ended": "ok",
        "code": None,
        "finish": "stop",
        "provider": "fake",
        "model": "gpt-5.4",
        "heard": 7,
        "duration_ms": 12.0,
        "first_event_ms": 3.0,
        **fields,
    }
    return Done(usage=usage, first=first, attempts=attempts or (tried(),), **made)


def test_an_answer_costs_what_its_provider_reported() -> None:
    row, settlement = account([begun(reserved=RESERVED, tags=("a", "b"), user="u")], done(), price)
    assert (row.prompt_tokens, row.cached_tokens, row.completion_tokens, row.reasoning_tokens) == (100, 30, 50, 20)
    assert (row.prompt_source, row.completion_source, row.cost_nanos, row.price_version) == (
        *("reported", "reported", 450, "fake-1"),
    )
    assert (row.id, row.key_id, row.project_id, row.asked, row.tags, row.user) == (
        *("req_1", "key_alice", "prj_1", "gpt-5.4", "a,b", "u"),
    )
    assert (row.status, row.ended, row.finish, row.state, row.trace) == (200, "ok", "stop", "complete", b"")
    (attempt,) = row.attempts
    assert (attempt.id, attempt.number, attempt.outcome, attempt.state) == ("req_1/1", 1, "ok", "complete")
    assert (attempt.cost_nanos, attempt.completion_tokens, attempt.duration_ms) == (450, 50, 10.0)
    assert settlement == Settlement("lease_1", 1, 1000, 5000, 150, 450)


def test_an_answer_that_nobody_saw_is_charged_what_was_reserved_and_a_stream_what_came() -> None:
    left = done(tried("cancelled"), usage=None, heard=0)
    row, settlement = account([begun(reserved=RESERVED, stream=False)], left, price)
    assert (row.prompt_tokens, row.completion_tokens, row.cost_nanos) == (100, 900, 5000)
    assert (row.prompt_source, row.completion_source) == ("partial", "partial")
    assert settlement == Settlement("lease_1", 1, 1000, 5000, 1000, 5000)
    row, settlement = account([begun(reserved=RESERVED, stream=True)], left, price)
    assert (row.prompt_tokens, row.completion_tokens, row.cost_nanos) == (100, 0, 300)


@pytest.mark.parametrize("usage", [REPORTED, None, Spent(4, 5, 0, 0, "estimated"), Spent(4, 5, 0, 0, "partial")])
@pytest.mark.parametrize("reserved", [RESERVED, None])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"model": "unpriced", "asked": "\0", "stream": False},
        {"model": "unpriced", "user": "u\0", "safety_identifier": "s", "asked": "\0"},
    ],
)
def test_the_short_entry_of_an_answer_says_what_the_long_one_does(
    usage: Spent | None, reserved: Reserved | None, fields: dict[str, Any]
) -> None:
    opened: list[Entry] = [begun(reserved=reserved, tags=("a",), **fields)]
    long = done(usage=usage, model=fields.get("model", "gpt-5.4"))
    tokens = (0, 0, 0, 0) if usage is None else (100, 50, 30, 20) if usage is REPORTED else (4, 5, 0, 0)
    source = "" if usage is None else usage.source
    short = Answered("req_1", "stop", source, *tokens, 7, 12.0, 3.0, 10.0)
    assert account(opened, short, price) == account(opened, long, price)
    if "user" in fields:
        return
    untagged = begun(reserved=reserved, **fields)
    context, sent = in_brief(untagged, {})
    assert context is not None
    known: dict[Series, Series] = {}
    closed: list[Closed] = [((sent, Common(context)), short) for _ in range(2)]
    assert at_length(closed[0][0]) == [untagged]
    (row, again), settlements = accounts(closed, price, known)
    whole, settlement = account([untagged], long, price)
    assert row_of(row) == whole
    assert settlements == ([] if settlement is None else [settlement, settlement])
    assert isinstance(row, tuple)
    assert isinstance(again, tuple)
    assert list(known) == [row[1]]
    assert again[1] is row[1], "rows of one series share it"
    ((other,), _) = accounts([(([untagged]), short)], price, known)
    assert other == whole, "and a beginning at length makes the same"


def test_a_figure_that_nobody_believes_has_no_short_form() -> None:
    context, sent = in_brief(begun(), {})
    assert context is not None
    opened = sent, Common(context)
    much = Answered("req_1", "stop", "reported", 2**41, 0, 0, 0, 0, 12.0, None, 10.0)
    assert accounts([(opened, much)], price, {}) == ([account([begun()], much, price)[0]], [])


def test_without_a_reservation_nothing_is_settled() -> None:
    assert account([begun()], done(), price)[1] is None


@pytest.mark.parametrize(
    ("attempt", "usage", "tokens", "sources"),
    [
        (tried(), None, (100, 7), ("estimated", "estimated")),
        (tried("cancelled"), None, (100, 7), ("partial", "partial")),
        (tried("reset", 0), None, (100, 7), ("partial", "partial")),
        (tried("timeout_idle", 0), REPORTED, (100, 50), ("reported", "partial")),
        (tried("unavailable", 503), None, (0, 0), ("estimated", "estimated")),
        (tried("stale", 0), None, (0, 0), ("estimated", "estimated")),
        (tried(), Spent(4, 5, 0, 0, "estimated"), (4, 5), ("estimated", "estimated")),
        (tried(), Spent(4, 5, 0, 0, "partial"), (4, 5), ("partial", "partial")),
    ],
)
def test_what_nobody_reported_is_estimated_by_how_it_ended(
    attempt: Tried, usage: Spent | None, tokens: tuple[int, int], sources: tuple[str, str]
) -> None:
    row, _ = account([begun()], done(attempt, usage=usage), price)
    assert (row.prompt_tokens, row.completion_tokens) == tokens
    assert (row.prompt_source, row.completion_source) == sources
    assert row.cost_nanos == PER_TOKEN * sum(tokens)


def test_an_unknown_price_is_unknown_and_settles_money_at_its_reservation() -> None:
    row, settlement = account([begun(model="unpriced", reserved=RESERVED)], done(), price)
    assert (row.cost_nanos, row.attempts[0].cost_nanos, row.price_version) == (None, None, "")
    assert settlement is not None
    assert (settlement.used_tokens, settlement.used_nanos) == (150, 5000)


def test_a_request_costs_what_all_its_attempts_do_and_the_trace_has_those_never_sent() -> None:
    entries: list[Entry] = [
        begun(number=1, provider="one"),
        Ended("req_1", 0, (tried("connect", 0, provider="none"), tried("reset", 0, provider="one"))),
        begun(number=2, provider="two"),
    ]
    row, _ = account(entries, done(tried(provider="two"), first=2, skipped=(("three", "m", "lacks tools"),)), price)
    assert [(one.number, one.provider, one.outcome) for one in row.attempts] == [(2, "one", "reset"), (3, "two", "ok")]
    assert (row.prompt_tokens, row.completion_tokens, row.cost_nanos) == (200, 50, 3 * 250)
    assert (row.prompt_source, row.completion_source) == ("partial", "reported")
    trace = json.loads(row.trace)
    assert [(one["number"], one["outcome"]) for one in trace["attempts"]] == [(1, "connect"), (2, "reset"), (3, "ok")]
    assert trace["skipped"] == [{"provider": "three", "model": "m", "reason": "lacks tools"}]


def test_a_refusal_before_the_answer_does_not_make_reported_tokens_estimated() -> None:
    entries: list[Entry] = [begun(), Ended("req_1", 0, (tried("unavailable", 503),)), begun(number=1)]
    row, _ = account(entries, done(first=1), price)
    assert (row.prompt_source, row.completion_source, row.cost_nanos) == ("reported", "reported", 450)


def test_where_several_tries_made_one_answer_each_costs_its_own() -> None:
    parts = (tried("reset", 0, usage=Spent(10, 5, 0, 0, "partial")), tried(usage=Spent(20, 6, 0, 0, "reported")))
    total = Spent(30, 11, 0, 0, "estimated")
    row, _ = account([begun(), begun(number=1)], done(*parts, usage=total, rescue="continued"), price)
    assert [(one.prompt_tokens, one.completion_tokens) for one in row.attempts] == [(10, 5), (20, 6)]
    assert (row.prompt_tokens, row.completion_tokens, row.cost_nanos) == (30, 11, 123)
    assert json.loads(row.trace)["rescue"] == "continued"


def test_what_a_dead_worker_had_begun_is_charged_at_its_reservation() -> None:
    row, settlement = account([begun(reserved=RESERVED)], None, price)
    assert (row.state, row.ended, row.status, row.duration_ms) == ("partial", "lost", 0, None)
    assert (row.prompt_tokens, row.completion_tokens, row.cost_nanos) == (100, 900, 5000)
    assert (row.prompt_source, row.completion_source) == ("partial", "partial")
    (attempt,) = row.attempts
    assert (attempt.state, attempt.outcome, attempt.duration_ms, attempt.cost_nanos) == (
        "partial",
        "unknown",
        None,
        5000,
    )
    assert settlement is not None
    assert settlement == Settlement("lease_1", 1, 1000, 5000, 1000, 5000)


def test_a_dead_workers_request_without_a_reservation_is_charged_its_prompt() -> None:
    row, settlement = account([begun()], None, price)
    assert (row.prompt_tokens, row.completion_tokens, row.cost_nanos, settlement) == (100, 0, 300, None)


def test_of_a_dead_workers_request_what_had_ended_has_ended() -> None:
    entries: list[Entry] = [
        begun(reserved=RESERVED),
        Ended("req_1", 0, (tried("unavailable", 503),)),
        begun(number=1, reserved=RESERVED),
    ]
    row, settlement = account(entries, None, price)
    assert [(one.state, one.outcome) for one in row.attempts] == [("complete", "unavailable"), ("partial", "unknown")]
    assert row.cost_nanos == 5000
    row, settlement = account(entries[:2], None, price)  # it waited for its next attempt
    assert (row.state, row.cost_nanos) == ("partial", 0)
    assert settlement is not None
    assert (settlement.requests, settlement.used_tokens, settlement.used_nanos) == (1, 0, 0)


def test_a_text_of_a_clients_is_fit_for_every_database() -> None:
    row, _ = account([begun(user="a\0b", asked="m\0", model="m\0")], done(), price)
    assert (row.user, row.asked, row.attempts[0].model) == ("a\ufffdb", "m\ufffd", "m\ufffd")


def test_a_reservation_of_no_tokens_leaves_the_prompts_estimate() -> None:
    row, _ = account([begun(reserved=Reserved("l", 1, 0, 0))], None, price)
    assert (row.prompt_tokens, row.completion_tokens, row.cost_nanos) == (100, 0, 300)
