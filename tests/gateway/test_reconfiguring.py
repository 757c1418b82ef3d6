"""A worker that is told to serve another configuration while it serves: what changes at once, what stays, what ends."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from penstock import link
from penstock.config import Breaker, Config, Deadlines, Limits, Model, Retries, Server, TargetConfig, Upstream
from penstock.fake_upstream import Answer, Chunk, FakeUpstream
from penstock.fake_upstream.script import Script
from penstock.types import EngineAddress
from support.gateway import Answered, chat, read_answer, request, run, to, until, upstream
from support.raw import Raw, raw_client
from support.worker_link import StandIn, started

WELL = link.Health(store_ok=True, engines_down={})
HELD = Answer(chunks=("one", Chunk(text="two", wait="gate")))
PATIENT = Retries(first_wait=0.2)


def config(*upstreams: Upstream, retries: Retries = PATIENT, server: Server | None = None, **more: Model) -> Config:
    """Every model is answered by the first of these."""
    models = {"*": to(upstreams[0].name)} | more
    return Config(server or Server(), {each.name: each for each in upstreams}, models, retries)


async def told(parent: StandIn, version: int, new: Config, health: link.Health = WELL) -> str:
    """Have the worker serve another configuration; the problem with it, if there was one."""
    parent.channel.send(link.Reconfigure(version, new, {}, health))
    answer = await parent.message(link.Reconfigured)
    assert answer.version == version
    return answer.problem


@asynccontextmanager
async def in_stream(parent: StandIn) -> AsyncIterator[Raw]:
    """A client that has read the first event of a stream."""
    async with raw_client(parent.address) as client:
        await client.send(chat(stream=True))
        await client.read_until(b'"one"')
        yield client


def test_requests_go_by_the_new_one_and_a_stream_that_had_begun_ends_by_the_old() -> None:
    async def main() -> None:
        async with FakeUpstream(HELD) as a, FakeUpstream() as b, started(config(upstream(a.base_url, "a"))) as parent:
            async with in_stream(parent) as client:
                assert await told(parent, 1, config(upstream(b.base_url, "b"))) == ""
                assert (await parent.ask(chat())).status == 200
                assert (len(a.seen), len(b.seen)) == (1, 1)
                assert a.open_connections == 1
                a.open("gate")
                assert b'"two"' in await client.read_until(b"data: [DONE]\n\n")
            assert (await parent.message(link.Settled)).version == 1
            await a.wait_for(lambda: a.open_connections == 0)

    run(main())


def test_a_stream_goes_on_through_any_number_of_configurations() -> None:
    async def main() -> None:
        async with FakeUpstream(HELD) as a, FakeUpstream() as b, started(config(upstream(a.base_url, "a"))) as parent:
            async with in_stream(parent) as client:
                for version in range(1, 20):
                    deadlines = Deadlines(idle=float(version))
                    assert await told(parent, version, config(upstream(b.base_url, "b", deadlines=deadlines))) == ""
                    assert (await parent.ask(chat())).status == 200
                await b.wait_for(lambda: b.open_connections <= 1)
                a.open("gate")
                await client.read_until(b"data: [DONE]\n\n")
            assert (await parent.message(link.Settled, lambda settled: settled.version == 19)).version == 19

    run(main())


def test_a_request_that_waits_for_its_next_attempt_makes_it_where_the_old_one_says() -> None:
    async def main() -> None:
        script = [Answer(status=503), Answer()]
        async with FakeUpstream(script) as a, FakeUpstream() as b, started(config(upstream(a.base_url, "a"))) as parent:
            async with raw_client(parent.address) as client:
                await client.send(chat())
                await a.ended()
                assert await told(parent, 1, config(upstream(b.base_url, "b"))) == ""
                answer = await read_answer(client)
            assert (answer.status, len(a.seen), len(b.seen)) == (200, 2, 0)
            assert (await parent.message(link.Settled)).version == 1
            await a.wait_for(lambda: a.open_connections == 0)

    run(main())


def test_a_provider_that_did_not_change_keeps_its_connection() -> None:
    async def main() -> None:
        async with FakeUpstream() as a, FakeUpstream() as b:
            first, second = upstream(a.base_url, "a"), upstream(b.base_url, "b")
            async with started(config(first)) as parent:
                await parent.ask(chat())
                assert await told(parent, 1, config(first, second, other=to("b"))) == ""
                await parent.ask(chat())
                assert [seen.connection for seen in a.seen] == [0, 0]
                slower = msgspec.structs.replace(first, deadlines=Deadlines(idle=7.0))
                assert await told(parent, 2, config(slower, second)) == ""
                await parent.ask(chat())
                assert [seen.connection for seen in a.seen] == [0, 0, 1]
                await a.wait_for(lambda: a.open_connections == 1)

    run(main())


def outcomes(answer: Answered, fake: FakeUpstream) -> tuple[int, int]:
    return answer.status, len(fake.seen)


def test_an_open_breaker_stays_open_unless_its_provider_changed() -> None:
    async def main() -> None:
        async with FakeUpstream([Answer(status=500), Answer()]) as a, FakeUpstream() as b:
            first, second = upstream(a.base_url, "a"), upstream(b.base_url, "b")
            breaker = Breaker(failures=1, probe_interval=600.0)
            once = Retries(attempts=1)
            old = msgspec.structs.replace(config(first, retries=once), breaker=breaker)
            async with started(old) as parent:
                assert outcomes(await parent.ask(chat()), a) == (502, 1)
                assert outcomes(await parent.ask(chat()), a) == (503, 1)
                new = msgspec.structs.replace(config(first, second, retries=PATIENT, other=to("b")), breaker=breaker)
                assert await told(parent, 1, new) == ""
                assert outcomes(await parent.ask(chat()), a) == (503, 1)
                other = msgspec.structs.replace(first, max_connections=7)
                assert await told(parent, 2, msgspec.structs.replace(new, providers={"a": other, "b": second})) == ""
                assert outcomes(await parent.ask(chat()), a) == (200, 2)

    run(main())


def test_a_breaker_that_is_open_goes_by_its_new_interval() -> None:
    async def main() -> None:
        async with FakeUpstream([Answer(status=500), Answer(status=500), Answer()]) as a:
            old = config(upstream(a.base_url, "a"), retries=Retries(attempts=1))
            old = msgspec.structs.replace(old, breaker=Breaker(failures=1, probe_interval=0.001))
            async with started(old) as parent:
                assert outcomes(await parent.ask(chat()), a) == (502, 1)
                due = time.monotonic() + 0.002
                await until(lambda: time.monotonic() > due)
                slow = msgspec.structs.replace(old, breaker=Breaker(failures=1, probe_interval=600.0))
                assert await told(parent, 1, slow) == ""
                assert outcomes(await parent.ask(chat()), a) == (502, 2)  # the probe that was due
                assert outcomes(await parent.ask(chat()), a) == (503, 2)

    run(main())


def test_a_target_that_is_gone_leaves_no_open_breaker_behind() -> None:
    async def main() -> None:
        async with FakeUpstream({"bad": [Answer(status=500), Answer()], "*": [Answer()]}) as a:
            first = upstream(a.base_url, "a")
            old = config(first, retries=Retries(attempts=1), named=Model((TargetConfig("a", "bad"),)))
            old = msgspec.structs.replace(old, breaker=Breaker(failures=1, probe_interval=600.0))
            without = msgspec.structs.replace(old, models={"*": to("a")})
            async with started(old) as parent:
                assert (await parent.ask(chat(model="named"))).status == 502
                assert await told(parent, 1, without) == ""
                assert await told(parent, 2, old) == ""
                assert (await parent.ask(chat(model="named"))).status == 200

    run(main())


@pytest.mark.parametrize("how", ["of no type that there is", "a certificate that is not there"])
def test_one_that_cannot_be_built_changes_nothing(how: str) -> None:
    async def main() -> None:
        async with FakeUpstream(HELD) as a, started(config(upstream(a.base_url, "a"))) as parent:
            bad = upstream("https://127.0.0.1:1/v1", "b", ca_file="/nonexistent/ca.pem")
            if how == "of no type that there is":
                bad = msgspec.structs.replace(bad, type="nonesuch", ca_file=None)
            async with in_stream(parent) as client:
                problem = await told(parent, 1, config(bad), link.Health(store_ok=True, engines_down={"a": "gone"}))
                assert ("nonesuch" if how == "of no type that there is" else "No such file") in problem
                a.open("gate")
                await client.read_until(b"data: [DONE]\n\n")
            assert (await parent.ask(chat())).status == 200
            assert await told(parent, 2, config(upstream(a.base_url, "c"))) == ""
            assert (await parent.message(link.Settled)).version == 2

    run(main())


def test_one_that_comes_before_it_serves_is_what_it_begins_with() -> None:
    async def main() -> None:
        async with FakeUpstream() as a, FakeUpstream() as b:
            later = link.Reconfigure(1, config(upstream(b.base_url, "b")), {}, WELL)
            async with started(config(upstream(a.base_url, "a")), later) as parent:
                assert (await parent.ask(chat())).status == 200
                assert (len(a.seen), len(b.seen)) == (0, 1)

    run(main())


def test_engines_that_are_down_are_known_with_the_configuration_that_brings_them() -> None:
    async def main() -> None:
        async with FakeUpstream() as a, FakeUpstream() as b, started(config(upstream(a.base_url, "a"))) as parent:
            new = config(upstream(b.base_url, "b"))
            assert await told(parent, 1, new, link.Health(store_ok=True, engines_down={"b": "loading"})) == ""
            assert (await parent.ask(chat())).status == 503
            assert (len(a.seen), len(b.seen)) == (0, 0)

    run(main())


def test_a_provider_whose_engine_was_replaced_is_called_at_its_new_address(tmp_path: Path) -> None:
    async def main() -> None:
        old, new = (EngineAddress(str(tmp_path / name), "token") for name in ("old", "new"))
        local = Upstream("local", "llama", settings={"model": "builtin"})
        template, answer = Answer(body='{"prompt": "x"}'), Answer(status=503, body="{}")
        script = Script(paths={"/apply-template": (template,), "/completion": (answer,)})
        async with FakeUpstream() as a, started(config(upstream(a.base_url, "a"))) as parent:
            for version, address in enumerate((old, new), 1):
                async with FakeUpstream(script, listen=f"unix:{address.uds}") as engine:
                    new_config = config(local, retries=Retries(attempts=1))
                    parent.channel.send(link.Reconfigure(version, new_config, {"local": address}, WELL))
                    assert (await parent.message(link.Reconfigured)).problem == ""
                    assert (await parent.ask(chat())).status == 503
                    assert [seen.path for seen in engine.seen] == ["/apply-template", "/completion"]

    run(main())


def test_limits_are_those_of_the_connections_beginning() -> None:
    async def main() -> None:
        async with FakeUpstream() as a:
            same = upstream(a.base_url, "a")
            async with started(config(same)) as parent, raw_client(parent.address) as before:
                await before.send(chat())
                assert (await read_answer(before)).status == 200
                small = Server(limits=Limits(body_bytes=64), trusted_proxies=("127.0.0.1",), auth_failures=1)
                assert await told(parent, 1, config(same, server=small)) == ""
                await before.send(chat())
                assert (await read_answer(before)).status == 200
                assert (await parent.ask(chat())).status == 413
                # and who is behind a proxy, and how often a key may be wrong, at once
                asked = [request("GET", "/v1/models", "sk-wrong", x_forwarded_for="192.0.2.1") for _ in range(2)]
                asked.append(request("GET", "/v1/models", "sk-wrong", x_forwarded_for="192.0.2.2"))
                assert [(await parent.ask(each)).status for each in asked] == [401, 429, 401]

    run(main())
