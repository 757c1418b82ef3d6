"""A worker as its parent meets it: started over a link, told things, asked things, drained, and left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from penstock import link
from penstock.fake_upstream import Answer, Chunk, FakeUpstream
from penstock.types import Claim, Principal
from support.certificates import make_certificate
from support.gateway import KEY, chat, read_answer, request, run
from support.raw import Raw, raw_client
from support.worker_link import COMMAND, StandIn, worker

HELD = Answer(chunks=("one", Chunk(text="two", wait="gate")))


def with_worker(test: Callable[[FakeUpstream, StandIn], Any], script: Answer | None = None, **settings: Any) -> None:
    async def main() -> None:
        async with FakeUpstream(script) as fake, worker(fake.base_url, **settings) as parent:
            await test(fake, parent)

    run(main())


@asynccontextmanager
async def in_stream(parent: StandIn) -> AsyncIterator[Raw]:
    """A client that has read the first event of a stream."""
    async with raw_client(parent.address) as client:
        await client.send(chat(stream=True))
        await client.read_until(b'"one"')
        yield client


async def lines(parent: StandIn) -> list[Any]:
    """All access lines of a worker that has ended."""
    assert parent.process.stdout is not None
    return [json.loads(line) for line in (await parent.process.stdout.read()).splitlines()]


def value(snapshot: link.Snapshot, name: str, *labels: str) -> float:
    return next((one.value for one in snapshot.series if (one.name, one.labels) == (name, labels)), 0.0)


def test_it_asks_the_parent_for_a_key_once_and_again_when_keys_changed() -> None:
    async def test(fake: FakeUpstream, parent: StandIn) -> None:
        assert [(await parent.ask(chat())).status for _ in range(3)] == [200, 200, 200]
        assert len(parent.keys.lookups) == 1
        parent.keys.principals = {"sk-another-key-0123456789": Principal("key_2", "two")}
        parent.channel.send(link.KeysChanged())
        parent.channel.send(link.SnapshotRequest(7))
        await parent.message(link.Snapshot, lambda snapshot: snapshot.ref == 7)  # what was sent before it has arrived
        assert (await parent.ask(chat())).status == 401
        assert (await parent.ask(chat("sk-another-key-0123456789"))).status == 200
        assert len(parent.keys.lookups) == 3

    with_worker(test)


def test_it_asks_for_another_lease_when_keys_changed() -> None:
    async def test(fake: FakeUpstream, parent: StandIn) -> None:
        parent.keys.principals[KEY] = Principal("key_alice", "alice", limited=True)
        asking = asyncio.ensure_future(parent.ask(chat()))
        question = await parent.message(link.Lease)
        until = time.monotonic() + 60.0
        parent.channel.send(link.Leased(question.ref, "one", Claim(1, 100), 5, (5, 9e9, 9e9, 9e9), until, until))
        assert (await asking).status == 200
        assert (await parent.ask(chat())).status == 200
        parent.channel.send(link.KeysChanged())
        returned = await parent.message(link.Returned, lambda message: any(rest.closed for rest in message.rests))
        assert [(rest.lease, rest.claim.requests) for rest in returned.rests if rest.closed] == [("one", 4)]
        asking = asyncio.ensure_future(parent.ask(chat()))
        question = await parent.message(link.Lease)
        parent.channel.send(link.Denied(question.ref, "key", "rpm", "", 2, 9.0, 1))
        assert (await asking).status == 429

    with_worker(test)


def test_it_tells_its_counts_when_asked_and_every_second_unasked() -> None:
    async def test(fake: FakeUpstream, parent: StandIn) -> None:
        await parent.ask(chat())
        await parent.ask(chat(None))
        parent.channel.send(link.SnapshotRequest(41))
        asked = await parent.message(link.Snapshot, lambda snapshot: snapshot.ref == 41)
        unasked = await parent.message(link.Snapshot, lambda snapshot: snapshot.ref == 0)
        for snapshot in (asked, unasked):
            assert value(snapshot, "penstock_requests_total", "gpt-5.4", "fake", "200", "ok") == 1
            assert value(snapshot, "penstock_auth_failures_total", "missing") == 1

    with_worker(test)


def test_it_is_ready_as_far_as_the_parent_says() -> None:
    async def test(fake: FakeUpstream, parent: StandIn) -> None:
        async def told(health: link.Health) -> int:
            parent.channel.send(health)
            parent.channel.send(link.SnapshotRequest(1))
            await parent.message(link.Snapshot, lambda snapshot: snapshot.ref == 1)
            return (await parent.ask(request("GET", "/ready", None))).status

        assert await told(link.Health(store_ok=True, engines_down={})) == 200
        assert await told(link.Health(store_ok=False, engines_down={})) == 503
        assert await told(link.Health(store_ok=True, engines_down={"fake": "loading"})) == 503
        assert (await parent.ask(chat())).status == 503
        assert await told(link.Health(store_ok=True, engines_down={})) == 200
        assert (await parent.ask(chat())).status == 200

    with_worker(test)


def test_it_ends_at_once_when_the_link_does_also_in_the_middle_of_a_stream() -> None:
    async def test(fake: FakeUpstream, parent: StandIn) -> None:
        async with in_stream(parent) as client:
            parent.channel.close()
            assert await parent.ended() == 0
            with contextlib.suppress(ConnectionResetError):
                assert b"[DONE]" not in await client.read_all()
        assert (await fake.ended()).hung_up

    with_worker(test, HELD)


def test_it_ends_when_the_link_does_before_it_was_told_to_start() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *COMMAND, str(theirs.fileno()), pass_fds=(theirs.fileno(),), stderr=PIPE
            )
        ours.close()
        _, errors = await asyncio.wait_for(process.communicate(), 10)
        assert (process.returncode, errors) == (0, b"")

    run(main())


def test_it_ends_although_nobody_reads_its_lines() -> None:
    async def main() -> None:
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writing, b"x" * 4096)
        os.set_blocking(writing, True)
        async with FakeUpstream() as fake, worker(fake.base_url, stdout=writing) as parent:
            os.close(writing)
            for _ in range(5):
                assert (await parent.ask(chat())).status == 200
            parent.channel.close()
            assert await parent.ended() == 0
        os.close(reading)

    run(main())


def test_drained_it_lets_an_answer_end_and_then_goes() -> None:
    async def test(fake: FakeUpstream, parent: StandIn) -> None:
        async with in_stream(parent) as client:
            parent.channel.send(link.Drain(20.0))
            parent.channel.send(link.SnapshotRequest(1))
            await parent.message(link.Snapshot, lambda snapshot: snapshot.ref == 1)
            fake.open("gate")
            assert b"data: [DONE]\n\n" in await client.read_all()
        assert await parent.ended() == 0
        last = await parent.message(link.Snapshot, lambda s: value(s, "penstock_requests_in_flight") == 0)
        assert value(last, "penstock_requests_total", "gpt-5.4", "fake", "200", "ok") == 1
        assert [line["ended"] for line in await lines(parent)] == ["ok"]

    with_worker(test, HELD)


def test_drained_it_ends_what_does_not_end_in_an_error_that_is_on_record() -> None:
    async def test(fake: FakeUpstream, parent: StandIn) -> None:
        async with in_stream(parent) as client:
            parent.channel.send(link.Drain(0.05))
            rest = await client.read_all()
            error = json.loads(rest.removesuffix(b"\n\n\r\n0\r\n\r\n").rpartition(b"data: ")[2])["error"]
            assert (error["type"], error["code"]) == ("server_error", "server_shutting_down")
        assert await parent.ended() == 0
        assert (await fake.ended()).hung_up
        (line,) = await lines(parent)
        assert (line["ended"], line["status"], line["code"]) == ("drained", 200, "server_shutting_down")
        assert [attempt["outcome"] for attempt in line["attempts"]] == ["cancelled"]

    with_worker(test, HELD)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_are_the_parents_business(number: signal.Signals) -> None:
    async def test(fake: FakeUpstream, parent: StandIn) -> None:
        parent.process.send_signal(number)
        assert (await parent.ask(chat())).status == 200
        assert parent.process.returncode is None

    with_worker(test)


def test_without_an_access_log_it_writes_nothing() -> None:
    async def test(fake: FakeUpstream, parent: StandIn) -> None:
        assert (await parent.ask(chat())).status == 200
        parent.channel.send(link.Drain(1.0))
        assert await parent.ended() == 0
        assert await lines(parent) == []

    with_worker(test, access_log=False)


def test_new_handshakes_use_a_certificate_that_was_renewed_and_half_of_one_changes_nothing(tmp_path: Path) -> None:
    old, new = make_certificate(tmp_path, "old"), make_certificate(tmp_path, "new")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"

    def put(source: Path, place: Path) -> None:
        shutil.copy(source, tmp_path / "next")
        os.replace(tmp_path / "next", place)

    async def main() -> None:
        put(old.cert, cert)
        put(old.key, key)
        async with (
            FakeUpstream() as fake,
            worker(fake.base_url, tls_cert=str(cert), tls_key=str(key)) as parent,
        ):

            async def status(trusted: ssl.SSLContext) -> int:
                async with raw_client(parent.address, trusted) as client:
                    await client.send(chat())
                    return (await read_answer(client)).status

            async with raw_client(parent.address, old.client_context()) as before:
                assert await status(old.client_context()) == 200
                put(new.cert, cert)
                await parent.logged("cannot be loaded, the old one stays")
                assert await status(old.client_context()) == 200
                put(new.key, key)
                await parent.logged("was loaded again")
                assert await status(new.client_context()) == 200
                with pytest.raises(ssl.SSLCertVerificationError):
                    await status(old.client_context())
                await before.send(chat())
                assert (await read_answer(before)).status == 200, "a connection that stands is not touched"

    run(main())
