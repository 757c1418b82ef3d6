"""Gateways that share their counters in a Redis, as operators run them: real processes, and keys in one PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import httpx
import pytest

from penstock.fake_upstream import Answer
from support.limited_keys import limited_key
from support.postgres import PostgresServer
from support.redis import RedisServer, redis_server
from support.serving import START, Served, serving
from support.upstreams import threaded_upstream

CONFIG = """
[server]
store = "{store}"
counters = "{counters}"
workers = 2

[providers.fake]
type = "openai"
base_url = "{base_url}"
api_key = "sk-upstream"

[models."gpt-5.4"]
targets = [{{ provider = "fake" }}]

[prices."fake/*"]
input = 1
output = 2
"""


@pytest.fixture
def counters() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


class Caller:
    """Asks gateways in turn."""

    def __init__(self, gateways: list[Served], client: httpx.Client) -> None:
        self._gateways = gateways
        self._client = client
        self._turn = 0

    def ask(self, key: str) -> int:
        """The status of one request."""
        self._turn += 1
        return self._client.post(
            f"{self._gateways[self._turn % len(self._gateways)].base_url}/chat/completions",
            headers={"authorization": f"Bearer {key}"},
            json={"model": "gpt-5.4", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5},
        ).status_code


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)  # nothing tells


def test_gateways_keep_a_limit_together_and_an_outage_is_as_it_was_declared(
    postgres: PostgresServer, counters: RedisServer
) -> None:
    store = postgres.create()
    with threaded_upstream(lambda _: Answer(content="yes")) as upstream, ExitStack() as stack:
        config = CONFIG.format(store=store, counters=counters.url, base_url=upstream.base_url)
        gateways = [stack.enter_context(serving(config)) for _ in range(2)]
        file = ("--config", str(gateways[0].home / "penstock.toml"))
        rate = limited_key(gateways[0], "--rpm", "20", "--concurrency", "5", *file)
        budget = limited_key(gateways[0], "--budget-usd", "100", *file, "--name", "budget")
        caller = Caller(gateways, stack.enter_context(httpx.Client(trust_env=False, timeout=30)))
        statuses = [caller.ask(rate) for _ in range(40)]
        assert statuses == [200] * 20 + [429] * 20, "each of its 20, whichever gateway is asked"
        assert caller.ask(budget) == 200
        counters.freeze()
        assert caller.ask(rate) == 200, "a rate that cannot be counted lets through"
        assert caller.ask(rate) == 200
        until(lambda: caller.ask(budget) == 503)  # a budget does not, once no slice of it is left
        counters.thaw()
        until(lambda: [caller.ask(rate), caller.ask(rate), caller.ask(budget)] == [429, 429, 200])
        for gateway in gateways:
            assert gateway.output.count("redis.sock does not answer") == 1
            assert gateway.output.count("redis.sock answers again") == 1
