"""One record for each request, whatever its ending; and what the observers make of it."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.config import Config, Deadlines, Limits, Server
from penstock.fake_upstream import Answer, Chunk, FakeUpstream
from penstock.fake_upstream.script import Cut
from penstock.gateway import telemetry as module
from penstock.gateway.telemetry import AccessLog, Metrics, Telemetry
from penstock.link import METRICS
from penstock.types import Attempt, Record, Usage
from support.gateway import KEY, Running, chat, gateway, request, run, to, until, upstream

DECLARED = {metric.name: metric for metric in METRICS}


def record(**changes: Any) -> Record:
    """A record of an ordinary answer, but for the changes."""
    members: dict[str, Any] = {
        "request_id": "req_1",
        "started_at": 1.0,
        "key_id": "key_alice",
        "route": "gpt-*",
        "provider": "fake",
        "model": "gpt-5.4",
        "stream": False,
        "status": 200,
        "ended": "ok",
        "code": None,
        "usage": None,
        "duration_ms": 20.0,
        "first_event_ms": None,
        "attempts": (Attempt("fake", "gpt-5.4", 200, "ok", 19.0),),
    }
    return Record(**(members | changes))


class Keeper:
    """Keeps what it is told, batch by batch."""

    def __init__(self) -> None:
        self.batches: list[Sequence[Record]] = []
        self.flushed = 0

    def observe(self, records: Sequence[Record]) -> None:
        self.batches.append(records)

    def flush(self) -> None:
        self.flushed += 1


class Raiser:
    """Cannot bear to be told anything."""

    def observe(self, records: Sequence[Record]) -> None:
        raise RuntimeError("no")

    def flush(self) -> None:
        raise RuntimeError("nor that")


def counted(*records: Record) -> dict[tuple[str, ...], tuple[float, tuple[int, ...]]]:
    """The series of these records."""
    metrics = Metrics()
    metrics.observe(records)
    return {(one.name, *one.labels): (one.value, one.buckets) for one in metrics.series(3, 7)}


# -- one record for each request

SCRIPT: dict[str, tuple[Answer, ...]] = {
    "good": (Answer(),),
    "bad": (Answer(status=400),),
    "busy": (Answer(status=429),),
    "broken": (Answer(status=500),),
    "html": (Answer(body="<html>"),),
    "dies": (Answer(chunks=("a", "b"), cut=Cut(after_events=2)),),
    "short": (Answer(cut=Cut(after_bytes=20)),),
    "silent": (Answer(wait="forever"),),
    "stalls": (Answer(chunks=("a", Chunk(text="b", wait="forever"))),),
}
ENDINGS: dict[str, tuple[str | bytes, dict[str, Any], set[str]]] = {
    "answered": ("good", {}, {"ok"}),
    "streamed": ("good", {"stream": True}, {"ok"}),
    "refused upstream": ("bad", {}, {"refused"}),
    "limited upstream": ("busy", {"stream": True}, {"refused"}),
    "failed upstream": ("broken", {}, {"failed"}),
    "unusable": ("html", {"stream": True}, {"failed"}),
    "cut": ("dies", {"stream": True}, {"cut"}),
    "dead before its end": ("short", {}, {"failed"}),
    "late": ("silent", {}, {"failed"}),
    "late in the stream": ("stalls", {"stream": True}, {"cut"}),
    "invalid": ("good", {"temperature": 9}, {"refused"}),
    "no such model": ("nope", {}, {"refused"}),
    "no key": (request("GET", "/v1/models", None), {}, {"refused"}),
    "unknown key": (chat("sk-nobody-knows-this-key"), {}, {"refused"}),
    "no such route": (request("GET", "/nope"), {}, {"refused"}),
    "no such method": (request("PUT", "/v1/models"), {}, {"refused"}),
    "not HTTP": (b"hello\r\n\r\n", {}, {"refused"}),
    "too large": (chat(padding="x" * 100_000), {}, {"refused"}),
    "no host": (b"GET /v1/models HTTP/1.1\r\n\r\n", {}, {"refused"}),
    "listed": (request("GET", "/v1/models"), {}, {"ok"}),
    "one model": (request("GET", "/v1/models/good"), {}, {"ok"}),
    "one model that is not": (request("GET", "/v1/models/nope"), {}, {"refused"}),
}
HANGUPS = ("silent", "stalls")


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.sampled_from(sorted(ENDINGS)), min_size=1, max_size=30),
    st.lists(st.sampled_from(HANGUPS), max_size=5),
)
def test_every_ending_of_a_request_is_one_record_one_line_and_one_count(endings: list[str], hangups: list[str]) -> None:
    async def hang_up(running: Running, model: str) -> None:
        async with running.client() as client:
            await client.send(chat(model=model, stream=model == "stalls"))
            if model == "stalls":
                await client.read_until(b'"a"')

    async def ask(running: Running, ending: str) -> str:
        what, members, _ = ENDINGS[ending]
        answer = await (running.ask(what) if isinstance(what, bytes) else running.chat(model=what, **members))
        return answer.headers["x-request-id"]

    async def main() -> None:
        models = {name: to("fake") for name in SCRIPT}
        config = Config(server=Server(limits=Limits(body_bytes=50_000), auth_failures=1000))
        late = Deadlines(headers=0.2, idle=0.2)
        async with (
            FakeUpstream(SCRIPT) as fake,
            gateway(upstream(fake.base_url, deadlines=late), models=models, config=config) as running,
        ):
            ids = [await ask(running, "listed")]  # from here on the key is known: each request begins at once
            asking = [ask(running, ending) for ending in endings]
            leaving = [hang_up(running, model) for model in hangups]
            ids += await asyncio.gather(*asking)
            await asyncio.gather(*leaving)
            total = 1 + len(endings) + len(hangups)
            records = await running.recorder.wait(total)
            await until(lambda: not running.server.edge.connections)
            series = running.series()
            assert len(records) == total
            assert len({one.request_id for one in records}) == total
            by_id = {one.request_id: one for one in records}
            for ending, request_id in zip(endings, ids[1:], strict=True):
                assert by_id[request_id].ended in ENDINGS[ending][2]
            left = [one for one in records if one.request_id not in ids]
            assert all(one.ended == "hangup" for one in left)
            requests = {key: value for key, value in series.items() if key[0] == "penstock_requests_total"}
            assert sum(requests.values()) == total
            for ended, count in Counter(one.ended for one in records).items():
                assert sum(value for key, value in requests.items() if key[4] == ended) == count
            assert series["penstock_requests_in_flight",] == 0

    run(main())


def test_labels_come_from_the_configuration_alone() -> None:
    async def main() -> None:
        models = {"gpt-*": to("fake"), "*": to("fake")}
        async with FakeUpstream() as fake, gateway(fake.base_url, models=models) as running:
            marks = ["gpt-anything", "anything-else", "x" * 200, 'quote"line\n']
            for mark in marks:
                await running.chat(model=mark)
                await running.chat(model=mark, stream=True)
                await running.ask(request("GET", "/v1/models/anything", x_client_request_id="anything"))
                await running.chat(f"sk-anything-{len(mark)}")
            labels = {label for key in running.series() for label in key[1:]}
            fixed = {"", "*", "gpt-*", "fake", "ok", "refused", "prompt", "completion", "unknown", "200", "400", "401"}
            assert labels <= fixed | {"429", "throttled"}

    run(main())


# -- metrics


def test_a_request_is_counted_by_what_was_configured_and_how_it_ended() -> None:
    series = counted(record(), record(), record(status=502, ended="failed", attempts=()))
    assert series["penstock_requests_total", "gpt-*", "fake", "200", "ok"] == (2, ())
    assert series["penstock_requests_total", "gpt-*", "fake", "502", "failed"] == (1, ())
    assert series["penstock_attempts_total", "fake", "ok"] == (2, ())
    assert series["penstock_connections_open",] == (3, ())
    assert series["penstock_tasks",] == (7, ())


def test_every_attempt_is_counted() -> None:
    stale = Attempt("fake", "gpt-5.4", 0, "stale", 1.0)
    series = counted(record(attempts=(stale, record().attempts[0])))
    assert series["penstock_attempts_total", "fake", "stale"] == (1, ())
    assert series["penstock_attempts_total", "fake", "ok"] == (1, ())


def test_tokens_are_summed_by_kind_and_what_was_not_used_has_no_series() -> None:
    series = counted(
        record(usage=Usage(10, 5)), record(usage=Usage(1, 2, cached_tokens=1, reasoning_tokens=2)), record(usage=None)
    )
    tokens = {key[3]: value for key, (value, _) in series.items() if key[0] == "penstock_tokens_total"}
    assert tokens == {"prompt": 11, "completion": 7, "cached": 1, "reasoning": 2}
    assert not any(key[0] == "penstock_tokens_total" for key in counted(record()))


@given(st.lists(st.floats(0, 1e6), max_size=50))
def test_a_histogram_holds_every_observation_once_and_their_sum(durations_ms: list[float]) -> None:
    series = counted(*(record(duration_ms=duration, first_event_ms=duration / 2) for duration in durations_ms))
    for name, share in (("penstock_request_duration_seconds", 1.0), ("penstock_time_to_first_event_seconds", 0.5)):
        bounds = DECLARED[name].bounds
        total, buckets = series.get((name, "gpt-*", "fake"), (0.0, (0,) * (len(bounds) + 1)))
        seconds = [duration * share / 1000 for duration in durations_ms]
        assert total == pytest.approx(sum(seconds))
        assert sum(buckets) == len(seconds)
        for bound, upto in zip(bounds, [sum(buckets[: n + 1]) for n in range(len(bounds))], strict=True):
            assert upto == sum(second <= bound for second in seconds)


def test_what_has_no_first_event_is_not_observed_as_one() -> None:
    series = counted(record(first_event_ms=None), record(first_event_ms=3.0))
    assert sum(series["penstock_time_to_first_event_seconds", "gpt-*", "fake"][1]) == 1
    assert sum(series["penstock_request_duration_seconds", "gpt-*", "fake"][1]) == 2


def test_each_series_is_one_that_is_declared() -> None:
    metrics = Metrics()
    metrics.auth_failed("missing")
    metrics.observe([record(usage=Usage(1, 1, 1, 1), first_event_ms=1.0, rescue="continued")])
    for one in metrics.series(1, 1):
        declared = DECLARED[one.name]
        assert len(one.labels) == len(declared.labels)
        assert len(one.buckets) == (len(declared.bounds) + 1 if declared.kind == "histogram" else 0)
    parents = ("config", "ledger", "limits", "leases", "counters", "kept_answers", "idempotent")
    of_others = {name for name in DECLARED if name.removeprefix("penstock_").startswith(parents)}
    of_others |= {"penstock_breaker_open"}
    assert {one.name for one in metrics.series(1, 1)} == set(DECLARED) - of_others


def test_tokens_of_a_rescued_answer_are_counted_with_each_provider() -> None:
    tried = (
        Attempt("one", "m", 0, "reset", 1.0, 0.0, Usage(7, 2, source="partial")),
        Attempt("two", "m", 200, "ok", 1.0, 0.0, Usage(9, 3)),
    )
    series = counted(record(provider="one", attempts=tried, usage=Usage(16, 5), rescue="continued"))
    assert [series["penstock_tokens_total", "gpt-*", name, "prompt"][0] for name in ("one", "two")] == [7, 9]
    assert [series["penstock_tokens_total", "gpt-*", name, "completion"][0] for name in ("one", "two")] == [2, 3]


def test_rescues_are_counted_by_their_outcome_and_not_by_its_reason() -> None:
    series = counted(record(rescue="continued"), record(rescue="unfit: it reasoned"), record(rescue="unfit: other"))
    assert series["penstock_rescues_total", "gpt-*", "continued"][0] == 1
    assert series["penstock_rescues_total", "gpt-*", "unfit"][0] == 2


def test_requests_in_flight_are_those_that_have_begun_and_not_ended() -> None:
    telemetry = Telemetry(Metrics())
    telemetry.begin()
    telemetry.begin()
    telemetry.end(record())
    telemetry.note(record())
    assert telemetry.metrics.in_flight == 1


# -- observers


def test_observers_are_told_of_many_at_once_in_order_and_of_each_once() -> None:
    keeper = Keeper()
    telemetry = Telemetry(Metrics(), (keeper,))
    telemetry.notify()
    for number in range(3):
        telemetry.note(record(request_id=f"req_{number}"))
    telemetry.notify()
    telemetry.notify()
    telemetry.note(record(request_id="req_3"))
    telemetry.notify()
    ids = [[one.request_id for one in batch] for batch in keeper.batches]
    assert ids == [["req_0", "req_1", "req_2"], ["req_3"]]
    assert keeper.flushed == 4


def test_few_records_wait_for_observers() -> None:
    keeper = Keeper()
    telemetry = Telemetry(Metrics(), (keeper,))
    for number in range(70):
        telemetry.begin()
        telemetry.end(record(request_id=f"req_{number}"))
    assert [len(batch) for batch in keeper.batches] == [32, 32]
    assert keeper.flushed == 0
    telemetry.notify()
    assert [one.request_id for batch in keeper.batches for one in batch] == [f"req_{number}" for number in range(70)]
    assert {one.name: one.value for one in telemetry.metrics.series(0, 0)}["penstock_requests_total"] == 70


def test_an_observer_that_raises_stops_no_other_and_is_complained_of_but_not_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(module, "log", lines.append)
    keeper = Keeper()
    telemetry = Telemetry(Metrics(), (Raiser(), keeper))
    for _ in range(30):
        telemetry.note(record())
        telemetry.notify()
    assert len(keeper.batches) == 30
    assert 1 <= len(lines) <= 10
    assert "Raiser" in lines[0]
    assert {one.name: one.value for one in telemetry.metrics.series(0, 0)}["penstock_requests_total"] == 30


# -- the access line


def written(*batches: Sequence[Record]) -> list[Any]:
    """The lines of an access log, decoded."""
    reading, writing = os.pipe()
    log = AccessLog(writing)
    for batch in batches:
        log.observe(batch)
    log.close()
    os.close(writing)
    with os.fdopen(reading) as lines:
        return [json.loads(line) for line in lines]


def test_a_line_is_the_record() -> None:
    tried = {"provider": "fake", "model": "gpt-5.4", "status": 200, "outcome": "ok", "duration_ms": 19.0}
    (line,) = written([record(usage=Usage(7, 9), client="192.0.2.1", code="x")])
    assert line["request_id"] == "req_1"
    assert line["usage"] == {
        "prompt_tokens": 7,
        "completion_tokens": 9,
        "cached_tokens": 0,
        "reasoning_tokens": 0,
        "source": "reported",
    }
    assert line["attempts"] == [{**tried, "wait_ms": 0.0, "usage": None}]
    assert set(line) == set(Record.__struct_fields__)


def test_what_a_client_sends_cannot_begin_a_line_of_its_own() -> None:
    hostile = 'a"\n{"request_id":"forged"}\r\n\u2028\x00'
    (line,) = written([record(model=hostile, client_request_id=hostile)])
    assert (line["model"], line["client_request_id"]) == (hostile, hostile)


def test_lines_are_written_as_they_come_and_not_only_with_the_next_request() -> None:
    reading, writing = os.pipe()
    log = AccessLog(writing)
    with os.fdopen(reading) as lines:
        for number in range(5):
            log.observe([record(request_id=f"req_{number}")])
        log.flush()
        assert [json.loads(lines.readline())["request_id"] for _ in range(5)] == [f"req_{n}" for n in range(5)]
        log.close()
        os.close(writing)


def test_a_reader_that_stalls_costs_lines_that_are_counted_and_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_BUFFERED", 100_000)
    reading, writing = os.pipe()
    log = AccessLog(writing)
    batch = [record()] * 10
    for _ in range(300):  # about a megabyte, and nobody reads
        log.observe(batch)
        log.flush()
    got: list[Any] = []

    def read() -> None:
        with os.fdopen(reading) as lines:
            got.extend(json.loads(line) for line in lines)

    reader = threading.Thread(target=read)
    reader.start()
    log.close()
    os.close(writing)
    reader.join(10)
    dropped = sum(line.get("dropped_access_lines", 0) for line in got)
    kept = sum("request_id" in line for line in got)
    assert dropped > 1000
    assert kept + dropped == 3000


def test_a_reader_that_never_reads_again_does_not_keep_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLOSE_SECONDS", 0.05)
    reading, writing = os.pipe()
    log = AccessLog(writing)
    log.observe([record()] * 1000)
    log.close()
    assert log._writer.daemon, "so that the interpreter does not wait for it either"
    os.close(reading)  # its write fails, and it ends
    log._writer.join(10)
    assert not log._writer.is_alive()
    os.close(writing)


def test_a_reader_that_is_gone_harms_nobody() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    log = AccessLog(writing)
    for _ in range(3):
        log.observe([record()])
    log.close()
    assert not log._writer.is_alive()
    os.close(writing)


def test_neither_the_prompt_nor_the_answer_is_on_record() -> None:
    async def main() -> None:
        told = Answer(content="the secret answer")
        async with FakeUpstream(told) as fake, gateway(fake.base_url) as running:
            prompt = [{"role": "user", "content": "the secret question"}]
            await running.chat(messages=prompt, user="somebody")
            await running.chat(messages=prompt, stream=True)
            await running.chat(messages=prompt, temperature="the secret question")
            lines = repr(written(await running.recorder.wait(3)))
            for secret in ("secret", "somebody", KEY):
                assert secret not in lines

    run(main())
