"""Limits as a host keeps them: the parent's counters, the admissions of its workers, and the messages between them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine
from typing import Any

import msgspec
import pytest

from penstock import link
from penstock.config import Counting
from penstock.control.counters import Counters, Policy, Sources
from penstock.errors import Overloaded, PermissionDenied, RateLimited, Refusal
from penstock.gateway.admission import Hold
from penstock.limits import NANOS, Limit
from penstock.stores.base import Asking, Outcome, StoreUnavailable
from penstock.stores.slices import MemorySlices
from penstock.types import Claim, Usage
from support.limiting import KEY, TARGETS, Clock, Host, asked, settled

OTHER = msgspec.structs.replace(KEY, key_id="key_2")


def run(main: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await main

    asyncio.run(bounded())


def on_key(meter: str, amount: int, **more: Any) -> Limit:
    return Limit("key", "key_1", meter, amount, **more)


async def admitted(host: Host, most: int, worker: int = 0, **members: Any) -> list[Hold]:
    """The holds of requests one after another, up to the first that is refused or so many."""
    holds: list[Hold] = []
    try:
        while len(holds) < most:
            holds.append(await host.reserve(worker, **members))
    except RateLimited:
        pass
    return holds


def header(refusal: Refusal, name: str) -> str:
    return dict(refusal.headers)[name.encode()].decode()


def test_a_rate_admits_what_it_says_and_tells_when_to_come_back() -> None:
    async def main() -> None:
        host = Host([on_key("rpm", 60)])
        assert len(await admitted(host, 100)) == 60
        with pytest.raises(RateLimited) as refused:
            await host.reserve()
        refusal = refused.value
        assert (refusal.status, refusal.type, refusal.code) == (429, "rate_limit_error", "rate_limit_exceeded")
        assert refusal.message == "The limit of this key is reached: 60 requests per minute. Try again in 60.5 s."
        assert (header(refusal, "Retry-After"), header(refusal, "retry-after-ms")) == ("61", "60500")
        assert header(refusal, "x-ratelimit-limit-requests") == "60"
        assert header(refusal, "x-ratelimit-remaining-requests") == "0"
        assert header(refusal, "x-ratelimit-reset-requests") == "1m0.5s"
        host.clock.move(60.4)
        with pytest.raises(RateLimited):
            await host.reserve()
        host.clock.move(0.2)
        assert len(await admitted(host, 100)) == 60

    run(main())


def test_all_claims_are_taken_or_none() -> None:
    async def main() -> None:
        host = Host([on_key("rpm", 10), Limit("project", "p", "tpm", 100), on_key("concurrency", 5)])
        tokens = (await host.reserve(max_tokens=10)).claim.tokens
        fits = (100 - tokens) // tokens
        with pytest.raises(RateLimited) as refused:
            await host.reserve(max_tokens=60)
        assert "the project of this key is reached: 100 tokens per minute" in refused.value.message
        holds = await admitted(host, 10)
        assert len(holds) == min(4, fits), "the refusal has cost nothing"

    run(main())


def test_a_request_that_can_never_fit_is_told_so() -> None:
    async def main() -> None:
        host = Host([on_key("tpm", 1000)])
        with pytest.raises(RateLimited) as refused:
            await host.reserve(max_tokens=5000)
        assert "more than the limit of this key allows at all: 1,000 tokens per minute" in refused.value.message
        assert header(refused.value, "x-should-retry") == "false"

    run(main())


def test_a_slot_is_free_again_when_its_hold_is_released() -> None:
    async def main() -> None:
        host = Host([on_key("concurrency", 7)])
        holds = await admitted(host, 20)
        assert len(holds) == 7
        with pytest.raises(RateLimited) as refused:
            await host.reserve()
        assert refused.value.message.endswith("7 requests at once. Try again when one of them has ended.")
        assert header(refused.value, "retry-after-ms") == "1000"
        for hold in holds[:3]:
            hold.release()
            hold.release()
        assert len(await admitted(host, 20)) == 3

    run(main())


def test_a_client_that_goes_from_worker_to_worker_is_never_refused_its_only_slot() -> None:
    async def main() -> None:
        host = Host([on_key("concurrency", 1)], workers=4)
        for number in range(100):
            (await host.reserve(number % 4)).release()

    run(main())


def test_what_lies_unused_in_one_worker_is_called_back_before_another_refuses() -> None:
    async def main() -> None:
        host = Host([on_key("rpm", 100), on_key("concurrency", 100)], workers=2)
        for _ in range(6):  # the worker learns what it will need
            host.clock.move(0.02)
            await host.reserve(0)
        spare = len(host.links[0].admission._leases)
        assert spare == 1, "and holds more than it uses"
        assert len(await admitted(host, 200, worker=1)) == 94

    run(main())


async def busy(host: Host, worker: int, requests: int, every: float = 0.001) -> int:
    """One request after another, so many seconds apart: how many had to wait for the parent."""
    waited = 0
    for _ in range(requests):
        held = host.links[worker].admission.reserve(KEY, asked(), TARGETS, math.inf)
        if not isinstance(held, Hold):
            waited += 1
            held = await held
        held.release()
        host.pump()
        host.clock.move(every)
    return waited


def counted(host: Host, name: str) -> float:
    return sum(series.value for series in host.counters.series() if series.name == name)


def test_where_requests_come_often_the_next_lease_is_there_before_this_one_ends() -> None:
    async def main() -> None:
        host = Host([on_key("rpm", 1_000_000), on_key("tpm", 100_000_000)])
        assert await busy(host, 0, 100) < 10, "until it is known how many come"
        before = counted(host, "penstock_leases_total")
        assert await busy(host, 0, 2000) == 0
        leases = counted(host, "penstock_leases_total") - before
        assert 8 <= leases < 30, "a lease of requests lasts a quarter of a second"
        assert await busy(host, 0, 2000, every=0.00025) == 0, "also when there are suddenly more"

    run(main())


def test_what_is_asked_for_ahead_of_time_is_taken_from_nobody_and_its_denial_is_no_refusal() -> None:
    async def main() -> None:
        host = Host([on_key("rpm", 1000)], workers=2)
        await busy(host, 1, 8)
        await busy(host, 0, 60)
        slices = [one for link_ in host.links for one in link_.admission._slices.values()]
        assert all(slice.requests > 2 for slice in slices)
        host.limits = (on_key("rpm", 30),)
        host.clock.move(slices[0].ends - host.clock.now)
        assert await busy(host, 0, 2) == 0, "what is there is used while the next is asked for"
        last = [message for message in host.links[0].sent if isinstance(message, link.Lease)][-1]
        assert last.ahead
        assert counted(host, "penstock_limits_refused_total") == 0
        for _ in range(9):
            await asyncio.sleep(0)
            host.pump()
        assert all(slice.requests for slice in slices), "nothing was called back for it"
        with pytest.raises(RateLimited):
            await busy(host, 0, 1000)
        assert counted(host, "penstock_limits_refused_total") == 1

    run(main())


def test_what_was_asked_for_ahead_of_time_is_called_back_before_others_are_refused() -> None:
    async def main() -> None:
        host = Host([on_key("rpm", 1000)], workers=2)
        await busy(host, 0, 60)
        (slice,) = host.links[0].admission._slices.values()
        unused, taken = slice.requests, 1000 - host.board_cells[0]
        assert unused > 2
        host.limits = (on_key("rpm", taken + 5),)
        host.clock.move(slice.ends - host.clock.now)
        await busy(host, 0, 1)
        assert slice.requests == 2, "its claim, and half of what is left of four by two"
        host.links[0].admission.flush()
        host.pump()
        assert len(await admitted(host, 1000, worker=1)) == (unused - 1) + 5

    run(main())


def test_what_is_asked_for_ahead_of_time_does_not_come_before_those_for_whom_it_is_called_back() -> None:
    async def main() -> None:
        host = Host([on_key("rpm", 1000)], workers=2)
        await busy(host, 0, 60)
        (slice,) = host.links[0].admission._slices.values()
        host.limits = (on_key("rpm", 1000 - host.board_cells[0]),)
        host.held = True
        wanting = asyncio.ensure_future(host.reserve(1))
        await asyncio.sleep(0)
        host.links[1].deliver_up()
        host.clock.move(slice.renew - host.clock.now)
        await host.reserve(0)
        question = host.links[0].up[-1]
        assert isinstance(question, link.Lease)
        assert question.ahead
        host.links[0].deliver_up()
        assert host.links[0].down.pop() == link.Uncounted(question.ref)
        host.held = False
        while not wanting.done():
            host.pump()
            await asyncio.sleep(0)
        assert (await wanting).claim.requests == 1

    run(main())


def test_nothing_of_yesterdays_slice_is_used_today() -> None:
    async def main() -> None:
        host = Host([on_key("requests_per_day", 1000)])
        host.clock.unix = 1_801_440_000.0 - 0.3  # before midnight
        midnight = host.clock.now + 0.3
        await busy(host, 0, 100, every=0.002)
        (slice,) = host.links[0].admission._slices.values()
        assert slice.requests > 100
        host.clock.move(midnight + 0.001 - host.clock.now)
        held = host.links[0].admission.reserve(KEY, asked(), TARGETS, math.inf)
        assert not isinstance(held, Hold)
        await held

    run(main())


class Waiting(MemorySlices):
    """Counters that answer when they are let."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock, clock.wall)
        self.letting = asyncio.Event()
        self.letting.set()

    def lease(self, asking: Asking) -> Any:
        return super().lease(asking) if self.letting.is_set() else self._wait(super().lease(asking))

    async def _wait(self, outcome: Outcome) -> Outcome:
        await self.letting.wait()
        return outcome


@pytest.mark.parametrize("ahead", [False, True])
def test_what_old_limits_granted_is_not_used_once_keys_have_changed(ahead: bool) -> None:
    async def main() -> None:
        clock = Clock()
        store = Waiting(clock)
        host = Host([on_key("rpm", 10_000)], store=store, clock=clock)
        await busy(host, 0, 60)
        admission = host.links[0].admission
        (slice,) = admission._slices.values()
        store.letting.clear()
        if ahead:
            clock.move(slice.renew - clock.now)
            await host.reserve()
            asking = asyncio.ensure_future(asyncio.sleep(0))
        else:
            admission.return_unused()
            asking = asyncio.ensure_future(host.reserve())  # type: ignore[arg-type]
        await asyncio.sleep(0)
        host.pump()
        assert host.links[0].sent[-1].more > 10  # type: ignore[union-attr]
        admission.return_unused()
        store.letting.set()
        await asking
        for _ in range(9):
            host.pump()
            await asyncio.sleep(0)
        assert not slice.requests
        assert not slice.lease
        admission.flush()
        host.pump()
        assert all(held.closed for held in host.counters.leases._leases.values()), "nothing lies unused"

    run(main())


def test_a_limit_that_comes_to_a_key_without_any_holds_once_the_worker_is_told() -> None:
    async def main() -> None:
        host = Host([])
        await busy(host, 0, 3)
        host.limits = (on_key("rpm", 2),)
        host.links[0].admission.return_unused()
        assert len(await admitted(host, 9)) == 2

    run(main())


def test_what_a_lease_has_left_goes_back_when_it_expires() -> None:
    async def main() -> None:
        host = Host([on_key("tokens_per_day", 100_000), on_key("concurrency", 50)])
        holds = []
        for _ in range(8):
            host.clock.move(0.02)
            holds.append(await host.reserve())
        for hold in holds:
            hold.release()
        host.clock.move(1.1)
        host.links[0].admission.sweep()
        host.pump()
        used = sum(hold.claim.tokens for hold in holds)
        host.counters.settle([settled(hold.lease, hold.claim, hold.claim) for hold in holds])
        assert len(host.counters.leases) == 0, "nothing is out"
        hold = await host.reserve(max_tokens=100_000 - used - 200)
        assert hold.claim.tokens <= 100_000 - used

    run(main())


def test_settling_returns_what_was_too_much_and_carries_what_was_too_little() -> None:
    async def main() -> None:
        host = Host([on_key("tpm", 1000)])
        first = await host.reserve(max_tokens=900)
        with pytest.raises(RateLimited):
            await host.reserve(max_tokens=500)
        host.counters.settle([settled(first.lease, first.claim, Claim(1, 100))])
        second = await host.reserve(max_tokens=500)
        host.counters.settle([settled(second.lease, second.claim, Claim(1, 5000))])
        with pytest.raises(RateLimited):
            await host.reserve(max_tokens=1)
        host.clock.move(61)
        await host.reserve(max_tokens=900)

    run(main())


def test_an_answer_of_unknown_length_reserves_what_such_answers_have() -> None:
    async def main() -> None:
        host = Host([on_key("tpm", 1_000_000)])
        first = await host.reserve(max_tokens=None)
        prompt = first.claim.tokens - 512
        assert 0 < prompt < 40
        for _ in range(200):
            hold = await host.reserve(max_tokens=None)
            hold.release(Usage(10, 100))
        assert (await host.reserve(max_tokens=None)).claim.tokens - prompt < 300
        twice = await host.reserve(max_tokens=50, n=2)
        assert twice.claim.tokens in range(100 + prompt, 100 + prompt + 9), "and each choice counts"

    run(main())


def test_money_is_reserved_at_the_dearest_price_and_a_spent_budget_is_a_quota() -> None:
    async def main() -> None:
        host = Host([on_key("usd_total", NANOS // 100_000)], rates=lambda provider, model: (100.0, 400.0))
        hold = await host.reserve(max_tokens=10)
        prompt = hold.claim.tokens - 10
        assert hold.claim.nanos == prompt * 100 + 10 * 400
        with pytest.raises(RateLimited) as refused:
            await host.reserve(max_tokens=10)
        assert refused.value.code == "insufficient_quota"
        assert header(refused.value, "x-should-retry") == "false"
        assert "is spent: 0.00001 US dollars in all" in refused.value.message

    run(main())


def test_a_budget_refuses_a_target_whose_price_nobody_knows() -> None:
    async def main() -> None:
        host = Host([on_key("usd_per_day", NANOS)], rates=lambda provider, model: None)
        with pytest.raises(PermissionDenied) as refused:
            await host.reserve()
        assert (refused.value.status, refused.value.type) == (403, "permission_error")
        assert "'fake/gpt-5.4'" in refused.value.message
        assert "[prices]" in refused.value.message
        host.limits = (on_key("usd_per_day", NANOS, shadow=True),)
        await host.reserve()

    run(main())


def test_a_hard_limit_caps_the_answer_at_what_is_left() -> None:
    async def main() -> None:
        host = Host([on_key("tpm", 1000, hard=True)])
        key = msgspec.structs.replace(KEY, hard=True)
        first = await host.reserve(key=key, max_tokens=900)
        assert first.cap == 900
        prompt = first.claim.tokens - 900
        second = await host.reserve(key=key, max_tokens=900)
        assert second.cap == 1000 - 900 - 2 * prompt
        with pytest.raises(RateLimited):
            await host.reserve(key=key, max_tokens=900)
        host.clock.move(61)
        third = await host.reserve(key=key, max_tokens=None)
        assert third.cap == 512, "which is what is expected, since an eighth of what is left is less"
        fourth = await host.reserve(key=key, max_tokens=None, n=2)
        assert fourth.cap is not None
        assert third.claim.tokens + fourth.claim.tokens <= 1000
        assert fourth.claim.tokens >= 2 * fourth.cap + 15

    run(main())


def test_a_hard_limit_that_is_nearly_spent_says_so_and_when_there_will_be_more() -> None:
    async def main() -> None:
        host = Host([on_key("tpm", 1000, hard=True)])
        key = msgspec.structs.replace(KEY, hard=True)
        await host.reserve(key=key, max_tokens=980)
        with pytest.raises(RateLimited, match="is reached: 1,000 tokens per minute") as refused:
            await host.reserve(key=key, max_tokens=5000)
        assert 0 < int(header(refused.value, "Retry-After")) <= 61

    run(main())


def test_a_hard_limit_leaves_an_answer_of_unknown_length_an_eighth_of_what_is_left() -> None:
    async def main() -> None:
        host = Host([on_key("tokens_per_day", 80_000, hard=True)])
        hold = await host.reserve(key=msgspec.structs.replace(KEY, hard=True), max_tokens=None)
        assert hold.cap is not None
        assert 9_900 < hold.cap <= 10_000

    run(main())


def test_a_shadow_limit_counts_and_refuses_nothing() -> None:
    async def main() -> None:
        host = Host([on_key("rpm", 5, shadow=True), on_key("concurrency", 2, shadow=True)])
        assert len(await admitted(host, 20)) == 20
        counted = {one.labels: one.value for one in host.counters.series() if one.name.endswith("shadowed_total")}
        assert counted == {("key", "rpm"): 15, ("key", "concurrency"): 18}

    run(main())


def test_who_leaves_while_a_question_is_out_holds_nothing() -> None:
    async def main() -> None:
        host = Host([on_key("concurrency", 1), on_key("rpm", 10)], held=True)
        for arrived in (False, True):
            leaving = asyncio.ensure_future(host.reserve())
            await asyncio.sleep(0)
            if arrived:  # the answer is there, and its task has not run yet
                host.pump()
            leaving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await leaving
            host.pump()
            host.links[0].admission.sweep()
            host.pump()
            assert len(host.counters.leases) == 0
        staying = asyncio.ensure_future(host.reserve())
        await asyncio.sleep(0)
        host.pump()
        await staying

    run(main())


def test_a_worker_that_ends_holds_no_slots_and_its_reservations_stay_until_they_are_settled() -> None:
    async def main() -> None:
        host = Host([on_key("concurrency", 3), on_key("tokens_per_day", 10_000)], workers=2)
        lost = [await host.reserve(0, max_tokens=3000) for _ in range(3)]
        rest = host.crash(0)
        with pytest.raises(RateLimited):
            await host.reserve(1, max_tokens=3000)
        again = await admitted(host, 5, worker=1, max_tokens=10)
        assert len(again) == 3
        host.counters.settle([settled(lost[0].lease, lost[0].claim, Claim(1, 50))])
        rest()
        for hold in again:
            hold.release()
        assert len(await admitted(host, 9, worker=1, max_tokens=3000)) == 3

    run(main())


def test_what_was_used_beyond_a_reservation_counts_now_whatever_others_give_back_to_windows_that_are_over() -> None:
    async def main() -> None:
        host = Host([on_key("tpm", 1_000_000)])
        holds = await admitted(host, 12, max_tokens=100)
        first, second = holds[-2:]
        assert first.lease == second.lease
        host.limits = (on_key("tpm", 1000),)
        host.clock.move(70.0)
        more, less = first.claim.tokens + 50, second.claim.tokens - 50
        host.counters.settle(
            [
                settled(first.lease, first.claim, Claim(1, more)),
                settled(second.lease, second.claim, Claim(1, less)),
            ]
        )
        prompt = first.claim.tokens - 100
        with pytest.raises(RateLimited):
            await host.reserve(max_tokens=951 - prompt)
        assert (await host.reserve(max_tokens=950 - prompt)).claim.tokens == 950

    run(main())


def test_limits_that_are_edited_hold_from_the_next_lease_on() -> None:
    async def main() -> None:
        host = Host([on_key("rpm", 5)])
        assert len(await admitted(host, 9)) == 5
        host.limits = (on_key("rpm", 8),)
        assert len(await admitted(host, 9)) == 3
        host.limits = ()
        assert len(await admitted(host, 50)) == 50
        host.limits = (on_key("rpm", 8),)
        host.clock.move(1.1)
        with pytest.raises(RateLimited):
            await host.reserve()

    run(main())


def test_a_limit_of_some_models_holds_for_those_alone() -> None:
    async def main() -> None:
        host = Host([on_key("rpm", 2, model="gpt-*"), on_key("rpm", 5)])
        key = msgspec.structs.replace(KEY, by_model=True)
        assert len(await admitted(host, 9, key=key)) == 2
        with pytest.raises(RateLimited) as refused:
            await host.reserve(key=key)
        assert "2 requests per minute for models 'gpt-*'" in refused.value.message
        assert len(await admitted(host, 9, key=key, model="office")) == 3

    run(main())


def test_counters_begin_with_what_the_ledger_knows() -> None:
    async def main() -> None:
        async def history(limit: Limit, since: float, width: float) -> list[tuple[float, int]]:
            now = host.clock.wall()
            return [(now - 30, 3), (now - 1, 1)] if limit.meter == "rpm" else [(since, 90)]

        host = Host([on_key("rpm", 5), on_key("requests_per_month", 100)], history=history)
        assert len(await admitted(host, 9)) == 1
        host.clock.move(31)
        assert len(await admitted(host, 9)) == 3
        host.clock.move(61)
        assert len(await admitted(host, 9)) == 5
        host.clock.move(61)
        holds = await admitted(host, 9)
        assert len(holds) == 1, "ten of the month"

    run(main())


def test_a_parent_that_says_nothing_is_a_503() -> None:
    async def main() -> None:
        host = Host([on_key("rpm", 5)], held=True)
        asking = asyncio.ensure_future(host.reserve())
        await asyncio.sleep(0)
        host.links[0].down.append(link.Uncounted(1))
        host.links[0].deliver_down()
        with pytest.raises(Overloaded):
            await asking

    run(main())


def test_a_grant_that_comes_too_late_for_its_window_is_returned_and_asked_for_again() -> None:
    async def main() -> None:
        host = Host([on_key("rpm", 5)], held=True)
        asking = asyncio.ensure_future(host.reserve())
        await asyncio.sleep(0)
        host.links[0].deliver_up()
        host.clock.move(1.0)
        host.links[0].deliver_down()
        await asyncio.sleep(0)
        host.pump()
        await asking
        host.links[0].admission.sweep()
        host.pump()
        host.held = False
        assert len(await admitted(host, 9)) == 4

    run(main())


def test_a_budget_is_not_called_spent_while_some_of_it_lies_unused() -> None:
    async def main() -> None:
        host = Host([on_key("usd_total", 60_000)], workers=2, rates=lambda provider, model: (0.0, 100.0))
        holds = []
        for _ in range(6):  # the worker learns what it will need
            host.clock.move(0.02)
            holds.append(await host.reserve(0))
        assert host.links[0].admission._leases, "and holds more than it uses"
        left = 600 - sum(hold.claim.nanos for hold in holds) // 100
        await host.reserve(1, max_tokens=left)

    run(main())


def test_what_a_request_gave_up_before_it_was_sent_is_free_at_once() -> None:
    async def main() -> None:
        host = Host([on_key("rpm", 2)], workers=2)
        holds = await admitted(host, 9)
        assert len(holds) == 2
        holds[0].cancel()
        await asyncio.sleep(0)
        await host.reserve(1)

    run(main())


def test_an_operator_says_what_an_answer_has_while_nobody_knows() -> None:
    async def main() -> None:
        host = Host([on_key("tpm", 1_000_000)])
        host.links[0].admission.follow(Counting(completion_tokens=33))
        hold = await host.reserve(max_tokens=None)
        assert 33 < hold.claim.tokens < 33 + 40

    run(main())


class Faltering(MemorySlices):
    """Counters that can be away."""

    def lease(self, asking: Asking) -> Outcome:
        if not self.up:
            raise StoreUnavailable("it is away")
        return super().lease(asking)


def test_while_counters_are_away_nothing_is_granted_ahead_of_time() -> None:
    async def main() -> None:
        clock = Clock()
        store = Faltering(clock, clock.wall)
        host = Host([on_key("rpm", 10_000)], store=store, clock=clock)
        await busy(host, 0, 60)
        (slice,) = host.links[0].admission._slices.values()
        store.up = False
        clock.move(slice.renew - clock.now)
        assert await busy(host, 0, 2) == 0
        questions = [message for message in host.links[0].sent if isinstance(message, link.Lease) and message.ahead]
        assert [question.ref for question in questions] == [questions[0].ref], "it is not asked again and again"
        assert counted(host, "penstock_limits_open_total") == 0

    run(main())


MONEY = on_key("usd_per_day", NANOS)


@pytest.mark.parametrize(
    ("limits", "policy", "passes"),
    [
        ([on_key("rpm", 1)], Policy(), True),
        ([on_key("rpm", 1), on_key("concurrency", 1)], Policy(rates_fail_open=False), False),
        ([MONEY], Policy(), False),
        ([on_key("rpm", 1), MONEY], Policy(), False),
        ([MONEY], Policy(budgets_fail_open=True), True),
        ([on_key("rpm", 1, fails_open=False)], Policy(), False),
        ([on_key("usd_per_day", NANOS, fails_open=True)], Policy(), True),
        ([on_key("usd_per_day", NANOS, shadow=True)], Policy(), True),
    ],
)
def test_while_nobody_can_count_each_limit_is_open_or_closed_as_declared(
    limits: list[Limit], policy: Policy, passes: bool
) -> None:
    async def main() -> None:
        clock = Clock()
        store = Faltering(clock, clock.wall)
        host = Host(limits, store=store, clock=clock)
        host.counters.policy = policy
        store.up = False
        if not passes:
            with pytest.raises(Overloaded) as refused:
                await host.reserve()
            assert (refused.value.status, header(refused.value, "Retry-After")) == (503, "1")
            return
        for _ in range(5):
            (await host.reserve()).release()
        opened = {one.labels: one.value for one in host.counters.series() if one.name == "penstock_limits_open_total"}
        assert opened == {(limit.meter,): 5 for limit in limits}

    run(main())


def test_what_passed_uncounted_is_counted_when_it_is_settled() -> None:
    async def main() -> None:
        clock = Clock()
        store = Faltering(clock, clock.wall)
        host = Host([on_key("tpm", 1000)], store=store, clock=clock)
        await host.reserve(max_tokens=100)
        store.up = False
        hold = await host.reserve(max_tokens=5000)
        store.up = True
        host.counters.settle([settled(hold.lease, hold.claim, Claim(1, 850))])
        with pytest.raises(RateLimited):
            await host.reserve(max_tokens=100)

    run(main())


def test_a_question_of_a_worker_that_ended_does_not_answer_that_of_its_successor() -> None:
    async def main() -> None:
        host = Host([on_key("concurrency", 1)], held=True)
        found: list[asyncio.Future[tuple[Limit, ...]]] = []

        def finding(key_id: str, project_id: str) -> asyncio.Future[tuple[Limit, ...]]:
            found.append(asyncio.get_running_loop().create_future())
            return found[-1]

        sources = Sources(finding, lambda provider, model: None, None, host.clock.wall)
        host.counters = Counters(host.store, sources, host._tell, host.board, mark="m-", clock=host.clock)
        lost = asyncio.ensure_future(host.reserve())
        await asyncio.sleep(0)
        host.pump()
        host.crash(0)
        staying = asyncio.ensure_future(host.reserve())
        await asyncio.sleep(0)
        host.pump()
        for limits in found:  # that of the first comes, when the second's question has its number
            limits.set_result(host.limits)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        host.pump()
        await staying
        lost.cancel()

    run(main())
