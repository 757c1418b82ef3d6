"""A run keeps its budget, waits as it is told, says why it stopped, and shows the key nowhere."""

from __future__ import annotations

import asyncio
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from check.checking import KEY, check, results, settings
from penstock.check.ask import CannotRun, retry_after
from penstock.check.catalogue import ROWS, SECTIONS, select
from penstock.check.client import Answer as Came
from penstock.check.row import LEVELS, Row
from penstock.check.run import Finding, Run, Watcher
from penstock.fake_upstream import Answer, FakeUpstream
from penstock.fake_upstream.script import Fault, Script, Tokens
from support.certificates import make_certificate


def spent(upstream: FakeUpstream) -> int:
    """The tokens that the upstream's answers cost as it counts them: nothing for a refusal."""
    return sum(10 for seen in upstream.seen if seen.status == 200 and seen.method == "POST")


TEN = Answer(usage=Tokens(prompt=4, completion=6), report_usage="always")


class Waits:
    """Stands in for sleeping, and notes how long it would have taken."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


class Notes(Watcher):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ends: list[str] = []
        self.texts: list[str] = []

    def begins(self, row: Row, number: int, count: int) -> None:
        self.begun.append(f"{row.id} {number}/{count}")

    def ended(self, finding: Finding) -> None:
        self.ends.append(finding.row.id)

    def told(self, text: str) -> None:
        self.texts.append(text)


def test_every_row_is_told_apart_and_told_whole() -> None:
    assert len(ROWS) >= 120
    assert len({row.id for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert row.level in LEVELS
        assert row.id[0] in SECTIONS
        assert all((row.asks, row.expects, row.why, row.breaks)), row.id


def test_rows_are_chosen_by_name_section_and_level() -> None:
    assert [row.id for row in select(("I07", "K"))] == ["I07", "K03", "K08"]
    assert {row.level for row in select((), ("M",))} == {"M"}
    assert select(("K",), ("M",)) == (next(row for row in ROWS if row.id == "K08"),)
    for wrong in ({"only": ("Z9",)}, {"levels": ("X",)}):
        with pytest.raises(ValueError, match=r"neither|no level"):
            select(**wrong)


@pytest.mark.parametrize("tokens", [60, 200, 900])
def test_the_budget_of_tokens_is_never_exceeded(tokens: int) -> None:
    upstream = FakeUpstream(TEN)
    report = check(upstream, "D", "F", tokens=tokens)
    assert report.tokens <= tokens
    assert spent(upstream) <= tokens
    assert report.stopped is not None
    assert f"budget of {tokens} tokens" in report.stopped
    assert "the run was stopped before" in {finding.got for finding in report.findings}


def test_answers_without_usage_count_as_the_worst_case() -> None:
    report = check(FakeUpstream(Answer(report_usage="never")), "D03")
    assert report.tokens == report.tokens_estimated > 16


def test_what_is_reported_replaces_the_reservation() -> None:
    report = check(FakeUpstream(TEN), "D03")
    assert (report.tokens, report.tokens_estimated) == (10, 0)


def test_an_answer_is_asked_for_once_whoever_looks_at_it() -> None:
    upstream = FakeUpstream()
    check(upstream, "D02", "D03", "D04", "D05", "D07", "D15")
    assert sum(seen.method == "POST" for seen in upstream.seen) == 1


def test_the_ceiling_of_requests_is_kept() -> None:
    upstream = FakeUpstream()
    report = check(upstream, "D", requests=5)
    assert len(upstream.seen) == report.requests == 5
    assert "ceiling of 5 requests" in (report.stopped or "")


def test_requests_keep_their_pace() -> None:
    waits = Waits()
    check(FakeUpstream(), "D09", pace=1000.0, sleep=waits)
    assert len(waits.seconds) >= 2
    assert all(0 < seconds <= 1000 for seconds in waits.seconds)


def test_no_request_overlaps_another() -> None:
    upstream = FakeUpstream()
    check(upstream, "D", "I")
    ordered = sorted(upstream.seen, key=lambda seen: seen.started_at)
    alone = [(a, b) for a, b in itertools.pairwise(ordered) if a.connection != b.connection]
    assert all(a.ended_at is not None and a.ended_at <= b.started_at for a, b in alone)


def test_a_429_is_waited_out_as_long_as_the_server_says() -> None:
    waits, notes = Waits(), Notes()
    script = (Answer(), Answer(status=429, retry_after=7.0), Answer(content="Hi."))
    report = check(FakeUpstream(script), "D09", sleep=waits, watcher=notes)
    assert waits.seconds == [7.0]
    assert (report.waits, report.seconds_waited) == (1, 7.0)
    assert notes.texts == ["429: waiting 7.0 s"]


def test_a_429_that_says_nothing_is_waited_out_ever_longer() -> None:
    waits = Waits()
    report = check(FakeUpstream((Answer(), Answer(status=429))), "D09", sleep=waits)
    assert [round(seconds / 2**number, 2) for number, seconds in enumerate(waits.seconds)] == [
        pytest.approx(1, abs=0.25)
    ] * 3
    assert "does not let up" in (report.stopped or "")
    assert results(report) == {"D09": "skipped"}
    assert report.exit_status == 2


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (Answer(status=429, retry_after=3600.0), "asks to wait 3600 s"),
        (Answer(status=429, error=Fault("You are out of money.", code="insufficient_quota")), "quota is spent"),
        (Answer(status=429, headers={"x-should-retry": "false"}), "quota is spent"),
    ],
)
def test_a_wait_that_would_not_help_ends_the_run(answer: Answer, why: str) -> None:
    waits = Waits()
    report = check(FakeUpstream((Answer(), answer)), "D09", "I01", sleep=waits)
    assert why in (report.stopped or "")
    assert waits.seconds == []


def test_the_wait_is_read_as_the_sdks_read_it() -> None:
    def wait(*headers: tuple[str, str]) -> float | None:
        return retry_after(Came(429, headers, b"", "length"))

    assert wait(("retry-after", "3"), ("retry-after-ms", "1500")) == 1.5
    assert wait(("retry-after", "3")) == 3
    for wrong in ("Wed, 21 Oct 2026 07:28:00 GMT", "nan", "-1", "inf", ""):
        assert wait(("retry-after", wrong)) is None


def test_the_key_is_in_nothing_that_the_run_tells() -> None:
    told = Answer(status=400, error=Fault("x" * 200 + f" Bearer {KEY} is not for this."))
    report = check(FakeUpstream((Answer(), told)), "D", "E", "I")
    everything = "".join(f"{finding.got}" for finding in report.findings) + str(report.stopped)
    assert "not for this" not in KEY
    assert KEY not in everything
    assert KEY[:12] not in everything


def test_control_characters_of_a_server_are_not_passed_on() -> None:
    escape = "\x1b[2J\x07gone\x9b"
    script = Script(
        models={"*": (Answer(), Answer(status=400, error=Fault(escape)))},
        paths={
            "/v1/models": (Answer(body=json.dumps({"data": [{"id": escape}, {"id": "fine"}]})),),
            "/v1/nope": (Answer(raw=f"HTTP/1.1 404 No\r\ncontent-type: {escape}\r\ncontent-length: 0\r\n\r\n"),),
        },
    )
    report = check(FakeUpstream(script), "A16", "D02", "D09", model=None)
    assert report.model == "fine"
    assert report.count("failed") >= 2
    assert all((finding.got or "").isprintable() for finding in report.findings)


def test_a_key_that_is_not_taken_means_that_the_check_cannot_run() -> None:
    with pytest.raises(CannotRun, match="the key is not accepted"):
        check(FakeUpstream(strict_profile="gpt-5.4", keys=["sk-another-0123456789"]), "A01")
    with pytest.raises(CannotRun, match="a key is wanted"):
        check(FakeUpstream(strict_profile="gpt-5.4"), "A01", key=None)


def test_a_model_that_is_not_there_means_that_the_check_cannot_run() -> None:
    with pytest.raises(CannotRun, match=r"it lists gpt-5\.4"):
        check(FakeUpstream(strict_profile="gpt-5.4", keys=[KEY]), "A01", model="gpt-9")


def test_a_server_that_is_not_there_means_that_the_check_cannot_run() -> None:
    with pytest.raises(CannotRun, match=r"no connection to 127\.0\.0\.1:1"):
        asyncio.run(Run(select(("A01",)), settings("http://127.0.0.1:1/v1")).go())


def test_without_a_model_the_first_that_is_listed_is_asked() -> None:
    upstream = FakeUpstream({"one": (Answer(),), "two": (Answer(),)})
    report = check(upstream, "A01", model=None)
    assert report.model == "one"
    assert upstream.seen[-1].json()["model"] == "one"
    with pytest.raises(CannotRun, match="name one with --model"):
        check(FakeUpstream(Script(paths={"/v1/models": (Answer(body='{"data": []}'),)})), "A01", model=None)


def test_a_server_that_knows_only_max_tokens_is_asked_with_it() -> None:
    upstream = FakeUpstream((Answer(status=400, error=Fault("max_completion_tokens is unknown")), Answer()))
    check(upstream, "D03")
    assert [json.loads(seen.body).get("max_tokens") for seen in upstream.seen if seen.method == "POST"] == [None, 16]


def test_every_request_limits_what_the_model_may_say() -> None:
    upstream = FakeUpstream(strict_profile="gpt-5.4", keys=[KEY])
    check(upstream)
    served = [seen.json() for seen in upstream.seen if seen.status == 200 and seen.method == "POST" and seen.body]
    assert len(served) > 100
    for body in served:
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        assert limit is not None, body
        assert limit <= 256


def test_nothing_is_asked_to_be_stored() -> None:
    upstream = FakeUpstream(strict_profile="gpt-5.4", keys=[KEY])
    check(upstream)
    assert not any(b'"store": true' in seen.body for seen in upstream.seen)


def test_heavy_rows_are_asked_on_request_only() -> None:
    upstream = FakeUpstream()
    assert results(check(upstream, "A12", "A13", "E27")) == dict.fromkeys(("A12", "A13", "E27"), "skipped")
    assert max(len(seen.body) for seen in upstream.seen) < 1000
    assert results(check(FakeUpstream(), "A12", heavy=True)) == {"A12": "information"}


def test_a_heavy_row_that_does_not_fit_the_budget_stops_nothing() -> None:
    report = check(FakeUpstream(), "E27", "I03", heavy=True)
    assert results(report) == {"E27": "skipped", "I03": "passed"}
    assert report.exit_status == 0


def test_a_row_that_informs_cannot_fail() -> None:
    report = check(FakeUpstream((Answer(), Answer(status=500))), "F29")
    assert results(report) == {"F29": "information"}
    assert report.exit_status == 0


def test_an_answer_of_a_wild_shape_is_a_failure_and_the_run_goes_on() -> None:
    wild = Answer(body='{"choices": [{"message": {"tool_calls": [7]}}], "usage": {"total_tokens": "x"}}')
    report = check(FakeUpstream((Answer(), wild)), "G01", "K08")
    assert results(report) == {"G01": "failed", "K08": "passed"}
    assert "another shape" in (report.findings[0].got or "")


def test_a_server_that_goes_away_ends_the_run() -> None:
    body = json.dumps({"choices": [{"message": {"content": "x"}}], "data": []}).encode()
    answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)

    async def main() -> Any:
        served = 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal served
            await reader.readuntil(b"\r\n\r\n")
            served += 1
            if served == 2:
                server.close()
            writer.write(answer)
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        return await Run(select(("D09", "I03")), settings(f"http://127.0.0.1:{port}/v1")).go()

    report = asyncio.run(main())
    assert results(report) == {"D09": "failed", "I03": "skipped"}
    assert "the server went away" in report.stopped


def test_a_watcher_is_told_of_each_row() -> None:
    notes = Notes()
    check(FakeUpstream(), "D03", "D04", "A12", watcher=notes)
    assert notes.begun == ["D03 2/3", "D04 3/3"]
    assert notes.ends == ["A12", "D03", "D04"]


def test_what_was_found_before_an_interruption_is_reported() -> None:
    async def main() -> Any:
        async with FakeUpstream((Answer(), Answer(), Answer(wait="forever"))) as upstream:
            running = Run(select(("D09", "I03", "K08")), settings(upstream.base_url))
            going = asyncio.create_task(running.go())
            await upstream.reached("forever")
            going.cancel()
            with pytest.raises(asyncio.CancelledError):
                await going
            return running.report("it was interrupted")

    report = asyncio.run(main())
    assert results(report) == {"D09": "passed", "I03": "skipped", "K08": "skipped"}
    assert (report.stopped, report.exit_status) == ("it was interrupted", 2)


def test_a_certificate_is_trusted_as_the_system_trusts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = make_certificate(tmp_path)

    async def main() -> Any:
        async with FakeUpstream(tls=certificate.server_context()) as upstream:
            url = upstream.base_url.replace("127.0.0.1", "localhost")
            return await Run(select(("D01",)), settings(url)).go()

    with pytest.raises(CannotRun, match="its certificate is not trusted"):
        asyncio.run(main())
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.cert))
    assert results(asyncio.run(main())) == {"D01": "passed"}
