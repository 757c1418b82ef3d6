"""A provider that is asked whether it is back: it is called again as soon as it says so, and not before."""

from __future__ import annotations

import asyncio

import pytest

from penstock.config import Breaker, Retries, Upstream
from penstock.errors import Failure, FailureKind
from penstock.fake_upstream import FakeUpstream
from penstock.gateway.upstream import Entry, Lanes, Prober
from penstock.gateway.upstream.health import Admission, State
from penstock.http.client import Pool
from penstock.providers import registry
from penstock.types import Target
from support.gateway import UPSTREAM_KEY, run, until

TARGET = Target("m", "p", "m", key="p/m")
DOWN = Failure(FailureKind.CONNECT, "It could not be reached.")


def opened(base_url: str, probe: str | None = "/models") -> Lanes:
    """A provider whose only target has just been found to be down, for an hour."""
    settings = {"base_url": base_url, "api_key": UPSTREAM_KEY} | ({"probe": probe} if probe is not None else {})
    config = Upstream("p", "openai", settings=settings)
    provider = registry.build(config, None)
    entries = {"p": Entry(provider, Pool(provider.origin, config), config)}
    lanes = Lanes(entries, Retries(), Breaker(failures=1, probe_interval=3600.0))
    lane, now = lanes.of(TARGET), lanes.clock()
    lane.failed(lane.health.admit(now), DOWN, now, now)
    assert lane.health.state is State.OPEN
    return lanes


async def probed(lanes: Lanes, prober: Prober) -> None:
    prober.sweep(lanes)
    prober.sweep(lanes)  # while one is out, there is no second
    await until(lambda: not prober._probing)
    for entry in lanes.entries.values():
        entry.pool.close()


def test_a_server_that_answers_its_probe_is_called_again_at_once_and_by_one_call() -> None:
    async def main() -> None:
        async with FakeUpstream() as fake:
            lanes = opened(fake.base_url)
            health = lanes.of(TARGET).health
            assert health.admit(lanes.clock()) is Admission.NO
            await probed(lanes, Prober())
            assert [(seen.method, seen.path) for seen in fake.seen] == [("GET", "/v1/models")]
            assert dict(fake.seen[0].headers)["authorization"] == f"Bearer {UPSTREAM_KEY}"
            assert [health.admit(lanes.clock()) for _ in range(2)] == [Admission.PROBE, Admission.NO]

    run(main())


def test_a_server_that_is_away_is_left_alone() -> None:
    async def main() -> None:
        lanes = opened("http://127.0.0.1:9/v1")
        await probed(lanes, Prober())
        assert lanes.of(TARGET).health.admit(lanes.clock()) is Admission.NO

    run(main())


def test_without_a_probe_nobody_is_asked() -> None:
    async def main() -> None:
        async with FakeUpstream() as fake:
            await probed(opened(fake.base_url, probe=None), Prober())
            assert fake.seen == []

    run(main())


def test_a_healthy_server_is_not_asked() -> None:
    async def main() -> None:
        async with FakeUpstream() as fake:
            lanes = opened(fake.base_url)
            health = lanes.of(TARGET).health
            health.found_alive()
            health.succeeded(health.admit(lanes.clock()), 0.1)
            await probed(lanes, Prober())
            assert fake.seen == []

    run(main())


def test_a_probe_that_is_out_is_given_up_at_the_end() -> None:
    async def main() -> None:
        silent = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
        port = silent.sockets[0].getsockname()[1]
        lanes, prober = opened(f"http://127.0.0.1:{port}/v1"), Prober()
        prober.sweep(lanes)
        await until(lambda: lanes.entries["p"].pool.open)
        prober.close()
        await until(lambda: not prober._probing)
        assert lanes.entries["p"].pool.open == 0
        silent.close()

    run(main())


@pytest.mark.parametrize("probe", ["models", "", "/mod els", "/a\r\nx: y"])
def test_a_probe_is_a_path(probe: str) -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="probe"):
            opened("http://127.0.0.1:9/v1", probe)

    run(main())
