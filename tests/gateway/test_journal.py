"""What a worker writes down: before anything is sent, and before an answer ends; and what it does without room."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from penstock.config import Retries
from penstock.control.ledger.reading import segments
from penstock.fake_upstream import Answer, Chunk, FakeUpstream, Tokens
from penstock.gateway.exchange import Exchange
from penstock.gateway.journal import Journal
from penstock.journal import (
    ENTRY_BYTES,
    START,
    Answered,
    Begun,
    Context,
    Done,
    Ended,
    Entry,
    Sent,
    entries,
    segment_path,
)
from penstock.providers.base import AnyRequest
from penstock.types import Claim, Principal, Record, Target
from penstock.wire.chat import decode_chat
from support.gateway import KEY, chat, gateway, request, run, to, until
from support.gateway import upstream as configured
from support.journals import MOST, RESERVED, a_journal, written

TARGET = Target("*", "fake", "gpt-5.4", label=b"fake/gpt-5.4", key="fake/gpt-5.4")
RECORD = Record("req", 0.0, "key", "*", "fake", "gpt-5.4", False, 200, "ok", None, None, 1.0, None, ())


def chat_of(model: str) -> AnyRequest:
    return decode_chat(json.dumps({"model": model, "messages": [{"role": "user", "content": "Hi."}]}).encode())


ASKED = chat_of("gpt-5.4")


def exchange(id: str = "req") -> Exchange:
    made = Exchange(id, 0.0, 0.0)
    made.principal = Principal("key", "key")
    return made


def entries_of(prefix: str, number: int) -> list[Entry]:
    """The entries of one segment as they stand there."""
    segment = Path(segment_path(prefix, number)).read_bytes()
    return entries(segment, START, len(segment))[0]


def fill(journal: Journal, count: int, asked: AnyRequest = ASKED) -> int:
    """Requests that begin and end, as many as there is room for up to `count`."""
    for number in range(count):
        one = exchange(f"req_{number}")
        if not journal.reserve(one):
            return number
        journal.begin(one, asked, TARGET)
        journal.done(one, RECORD, 0)
    return count


def test_an_answer_is_two_entries_and_the_second_is_there_before_the_answer_ends(tmp_path: Path) -> None:
    async def scenario() -> None:
        with a_journal(tmp_path) as (journal, prefix):
            answer = Answer(content="Hello.", usage=Tokens(7, 2, 3))
            async with FakeUpstream(answer) as upstream, gateway(upstream.base_url, journal=journal) as running:
                body = {"user": "u-1", "safety_identifier": "s-1"}
                answered = await running.ask(chat(**body))
                begun, done = written(prefix)
        assert isinstance(begun, Begun)
        assert isinstance(done, Answered)
        assert begun.id == done.id == answered.headers["x-request-id"]
        assert (begun.number, begun.provider, begun.asked, begun.key_id) == (0, "fake", "gpt-5.4", "key_alice")
        assert (begun.user, begun.safety_identifier, begun.tags) == ("u-1", "s-1", ())
        assert begun.prompt_bytes > 50
        assert (done.finish, done.source, done.first_event_ms) == ("stop", "reported", None)
        assert (done.prompt_tokens, done.completion_tokens, done.cached_tokens) == (7, 2, 3)
        assert 0 < done.took_ms <= done.duration_ms

    run(scenario())


def test_what_is_sent_is_in_the_journal_first_and_a_stream_ends_there_before_its_last_bytes(tmp_path: Path) -> None:
    async def scenario() -> None:
        with a_journal(tmp_path) as (journal, prefix):
            answer = Answer(chunks=("one", Chunk(text="two", wait="gate")))
            async with (
                FakeUpstream(answer) as upstream,
                gateway(upstream.base_url, journal=journal) as running,
                running.client() as client,
            ):
                await client.send(chat(stream=True))
                await upstream.reached("gate")
                assert [type(entry) for entry in written(prefix)] == [Begun]
                upstream.open("gate")
                await client.read_until(b"[DONE]")
                assert [type(entry) for entry in written(prefix)] == [Begun, Answered]

    run(scenario())


def test_an_error_that_a_client_is_told_is_in_the_journal_before_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        with a_journal(tmp_path) as (journal, prefix):
            async with FakeUpstream(Answer(status=500)) as upstream, gateway(upstream.base_url, journal=journal) as run:
                answered = await run.chat()
                entries = written(prefix)
        assert answered.status == 502
        done = entries[-1]
        assert isinstance(done, Done)
        assert (done.status, done.ended, done.usage) == (502, "failed", None)

    run(scenario())


def test_each_attempt_begins_and_one_that_another_follows_is_ended_first(tmp_path: Path) -> None:
    async def scenario() -> None:
        with a_journal(tmp_path) as (journal, prefix):
            script = {"gpt-5.4": [Answer(status=503), Answer()]}
            async with (
                FakeUpstream(script) as upstream,
                gateway(upstream.base_url, journal=journal, retries=Retries(first_wait=0.001)) as running,
            ):
                assert (await running.chat()).status == 200
                begun, ended, again, done = written(prefix)
        assert isinstance(begun, Begun)
        assert isinstance(ended, Ended)
        assert isinstance(again, Begun)
        assert isinstance(done, Done)
        assert (begun.number, ended.first, again.number, done.first) == (0, 0, 1, 1)
        assert [one.outcome for one in (*ended.attempts, *done.attempts)] == ["unavailable", "ok"]

    run(scenario())


def test_what_cannot_be_connected_to_is_not_begun_and_counts_among_the_attempts(tmp_path: Path) -> None:
    async def scenario() -> None:
        with a_journal(tmp_path) as (journal, prefix):
            async with (
                FakeUpstream() as upstream,
                gateway(
                    configured("http://127.0.0.1:9/v1", "away"),
                    configured(upstream.base_url, "here"),
                    models={"*": to("away", "here")},
                    retries=Retries(),
                    journal=journal,
                ) as running,
            ):
                assert (await running.chat()).status == 200
                begun, done = written(prefix)
        assert isinstance(begun, Begun)
        assert isinstance(done, Done)
        assert (begun.number, begun.provider, done.first) == (1, "here", 0)
        assert [one.outcome for one in done.attempts] == ["connect", "ok"]

    run(scenario())


def test_a_hang_up_is_ended_with_what_had_come(tmp_path: Path) -> None:
    async def scenario() -> None:
        with a_journal(tmp_path) as (journal, prefix):
            answer = Answer(chunks=("one", Chunk(text="two", wait=0.001), Chunk(text="three", wait="forever")))
            async with FakeUpstream(answer) as upstream, gateway(upstream.base_url, journal=journal) as running:
                async with running.client() as client:
                    await client.send(chat(stream=True))
                    await client.read_until(b"two")
                await running.recorder.wait(1)
                done = written(prefix)[-1]
        assert isinstance(done, Done)
        assert (done.ended, done.usage, done.attempts[0].outcome) == ("hangup", None, "cancelled")
        assert done.heard >= 2

    run(scenario())


def test_what_is_refused_before_anything_is_sent_is_not_in_the_journal(tmp_path: Path) -> None:
    async def scenario() -> None:
        with a_journal(tmp_path) as (journal, prefix):
            async with FakeUpstream() as upstream, gateway(upstream.base_url, journal=journal) as running:
                assert (await running.ask(chat(temperature=9))).status == 400
                assert (await running.ask(request("POST", "/v1/chat/completions", "sk-unknown"))).status == 401
        assert written(prefix) == []

    run(scenario())


def test_tags_come_from_a_header_and_bad_ones_are_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        with a_journal(tmp_path) as (journal, prefix):
            async with FakeUpstream() as upstream, gateway(upstream.base_url, journal=journal) as running:
                body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi."}]}).encode()
                for tags in (" team-a, ,batch 7,", "a"):
                    sent = request("POST", "/v1/chat/completions", KEY, body, x_penstock_tags=tags)
                    assert (await running.ask(sent)).status == 200
                for tags in (",".join("abcdefghijk"), "x" * 65, "caf\u00e9"):
                    answered = await running.ask(
                        request("POST", "/v1/chat/completions", KEY, body).replace(
                            b"\r\n\r\n", b"\r\nx-penstock-tags: " + tags.encode() + b"\r\n\r\n", 1
                        )
                    )
                    assert (answered.status, answered.error["param"]) == (400, "x-penstock-tags")
                assert len(upstream.seen) == 2
        assert [one.tags for one in written(prefix) if isinstance(one, Begun)] == [("team-a", "batch 7"), ("a",)]

    run(scenario())


def test_the_neighbours_of_chat_are_attributed_too(tmp_path: Path) -> None:
    async def scenario() -> None:
        with a_journal(tmp_path) as (journal, prefix):
            async with FakeUpstream() as upstream, gateway(upstream.base_url, journal=journal) as running:
                for user in ("u-1", 7):
                    body = json.dumps({"model": "m", "input": "Hi.", "user": user}).encode()
                    await running.ask(request("POST", "/v1/embeddings", KEY, body))
        users = [(one.endpoint, one.user) for one in written(prefix) if isinstance(one, Begun)]
        assert users == [("embeddings", "u-1"), ("embeddings", None)]

    run(scenario())


def test_without_room_requests_are_refused_before_anything_is_sent_until_there_is_room_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        complaints: list[str] = []
        size = 8 * ENTRY_BYTES
        with a_journal(tmp_path, 3 * size, complaints, size) as (journal, prefix):
            async with FakeUpstream() as upstream, gateway(upstream.base_url, journal=journal) as running:
                answered = await running.chat()
                while answered.status == 200:
                    answered = await running.chat()
                assert (answered.status, answered.error["code"]) == (503, "ledger_full")
                assert len(upstream.seen) == sum(isinstance(one, Answered) for one in written(prefix))
                await until(lambda: complaints)
                assert len(complaints) == 1
                assert "49152 bytes wait to be stored" in complaints[0]
                for number in (1, 2):  # the parent has stored them
                    os.unlink(segment_path(prefix, number))
                await until(lambda: len(complaints) == 2)
                assert (await running.chat()).status == 200
        assert "can grow again" in complaints[1]

    run(scenario())


def test_what_was_begun_can_always_be_ended(tmp_path: Path) -> None:
    size = 16 * ENTRY_BYTES
    with a_journal(tmp_path, 2 * size, segment_bytes=size) as (journal, prefix):
        opened: list[Exchange] = []
        while True:
            one = exchange(f"req_{len(opened)}")
            if not journal.reserve(one):
                break
            journal.begin(one, ASKED, TARGET)
            opened.append(one)
        long = Record("req", 0.0, "key", "*", "fake", "m" * 5000, False, 200, "ok", None, None, 1.0, None, ())
        for one in opened:
            journal.done(one, long, 0)
    assert len(opened) > 8
    assert [type(entry) for entry in written(prefix)] == [Begun] * len(opened) + [Done] * len(opened)


def test_a_journal_goes_on_from_segment_to_segment_and_loses_nothing(tmp_path: Path) -> None:
    size = 4 * ENTRY_BYTES
    with a_journal(tmp_path, MOST, segment_bytes=size) as (journal, prefix):
        made = 0
        while made < 300:
            made += fill(journal, 300 - made)
    assert len(written(prefix)) == 600
    assert len(segments(prefix)) > 5
    assert {os.stat(segment_path(prefix, number)).st_mode & 0o777 for number in segments(prefix)} == {0o600}


def test_what_beginnings_have_in_common_is_told_once_in_a_segment(tmp_path: Path) -> None:
    size = 8 * ENTRY_BYTES
    others = [TARGET, Target("*", "other", "gpt-5.4", label=b"other/gpt-5.4", key="other/gpt-5.4")]
    with a_journal(tmp_path, MOST, segment_bytes=size) as (journal, prefix):
        for number in range(400):
            one = exchange(f"req_{number}")
            while not journal.reserve(one):
                pass
            journal.begin(one, ASKED, others[number % 2])
            journal.done(one, RECORD, 0)
    begun = [entry for entry in written(prefix) if isinstance(entry, Begun)]
    assert [(one.id, one.provider) for one in begun] == [
        (f"req_{number}", others[number % 2].provider) for number in range(400)
    ]
    told = [
        [entry.provider for entry in entries_of(prefix, number) if isinstance(entry, Context)]
        for number in segments(prefix)
    ]
    assert len(told) > 3
    assert all(sorted(each) == ["fake", "other"] for each in told[:-2]), told


def test_a_beginning_that_cannot_be_written_is_lost_alone(tmp_path: Path) -> None:
    hold = SimpleNamespace(lease="lease_1", claim=Claim(1, 2**70, 0, 0))
    with a_journal(tmp_path) as (journal, prefix):
        one = exchange("req_a")
        one.hold = hold
        assert journal.reserve(one)
        with pytest.raises(OverflowError):
            journal.begin(one, ASKED, TARGET)
        assert fill(journal, 2) == 2
    assert [one.id for one in written(prefix) if isinstance(one, Begun)] == ["req_0", "req_1"]


def test_what_would_take_much_to_name_is_told_at_length_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.gateway.journal.MOST_CONTEXTS", 2)
    name = "\U0001f600" * 256
    long = chat_of(name)  # more than half an entry
    with a_journal(tmp_path) as (journal, prefix):
        for asked in (long, chat_of("a"), chat_of("b"), chat_of("c"), chat_of("a"), long):
            assert fill(journal, 1, asked) == 1
    kinds = [type(entry) for entry in entries_of(prefix, 1) if not isinstance(entry, Done)]
    assert kinds == [Begun, Context, Sent, Context, Sent, Begun, Sent, Begun]
    asked_for = [entry.asked for entry in written(prefix) if isinstance(entry, Begun)]
    assert asked_for == [name, "a", "b", "c", "a", name]


def test_what_was_reserved_is_told_with_a_beginning_in_brief_and_at_length(tmp_path: Path) -> None:
    hold = SimpleNamespace(lease="lease_1", claim=Claim(1, 1000, 5000, 1))
    with a_journal(tmp_path) as (journal, prefix):
        for tags in ((), ("a",)):
            one = exchange()
            one.hold, one.tags = hold, tags
            assert journal.reserve(one)
            journal.begin(one, ASKED, TARGET)
            journal.done(one, RECORD, 0)
    brief, _, long, _ = written(prefix)
    assert isinstance(brief, Begun)
    assert brief.reserved == RESERVED
    assert long == msgspec.structs.replace(brief, tags=("a",))
    assert any(isinstance(entry, Sent) for entry in entries_of(prefix, 1))


def test_an_entry_that_is_too_long_is_cut_and_read_all_the_same(tmp_path: Path) -> None:
    body = {
        "model": "\u20ac" * 200,
        "messages": [{"role": "user", "content": "Hi."}],
        "user": "\u20ac" * 100_000,
    }
    with a_journal(tmp_path) as (journal, prefix):
        assert fill(journal, 1, decode_chat(json.dumps(body).encode())) == 1
    begun, _ = written(prefix)
    assert isinstance(begun, Begun)
    assert begun.id == "req_0"
    assert begun.user == "\u20ac" * 85


def test_a_disk_that_is_full_refuses_requests_and_harms_nothing_else(tmp_path: Path) -> None:
    code = """
import resource, signal, sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from support.journals import a_journal
from gateway.test_journal import exchange, fill
complaints = []
with a_journal(Path(sys.argv[1]), complaints=complaints, segment_bytes=1 << 16) as (journal, prefix):
    before = fill(journal, 10)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 15, resource.RLIM_INFINITY))
    made = 0
    while filled := fill(journal, 1000) or not complaints:
        made += filled
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    while not journal.reserve(exchange()):
        pass
print(before, made, complaints)
"""
    paths = [str(Path(__file__).parents[2] / "src"), str(Path(__file__).parents[1])]
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), *paths], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.startswith("10 "), done
    assert "File too large" in done.stdout
    assert "can grow again" in done.stdout
