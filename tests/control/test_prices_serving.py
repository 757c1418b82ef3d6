"""Prices in a running server: what the ledger says that requests cost, and what another configuration makes of it."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from penstock.fake_upstream import Answer, Tokens
from support.serving import START, Served, serving
from support.upstreams import ThreadedUpstream, threaded_upstream

USED = Answer(usage=Tokens(prompt=1000, completion=100, cached=400))
PRICE = '\n[prices."up/gpt-*"]\ninput = {}\noutput = 2\ncached_input = 0.25\n'


@pytest.fixture
def upstream() -> Iterator[ThreadedUpstream]:
    with threaded_upstream({"*": [USED]}) as running:
        yield running


def toml(upstream: ThreadedUpstream) -> str:
    where = f'[providers.up]\ntype = "vllm"\nbase_url = "{upstream.base_url}"\n'
    return where + '[models."*"]\ntargets = [{ provider = "up" }]\n'


def ask(served: Served, model: str) -> None:
    body = {"model": model, "messages": [{"role": "user", "content": "x"}]}
    url = f"{served.base_url}/chat/completions"
    assert httpx.post(url, json=body, headers=served.headers, trust_env=False, timeout=30).status_code == 200


def usage(served: Served, requests: int) -> dict[str, Any]:
    """The sums of each model, once so many requests are stored."""
    deadline = time.monotonic() + START
    while True:
        url = f"{served.base_url}/penstock/usage"
        told = httpx.get(url, headers=served.headers, trust_env=False, timeout=30).json()
        if told.get("total", {}).get("requests") == requests:
            return {line["model"]: line for line in told["data"]}
        assert time.monotonic() < deadline, (told, served.output)
        time.sleep(0.05)


def until_applied(served: Served) -> None:
    deadline = time.monotonic() + START
    while ' is applied by 1 worker: prices."up/gpt-*"' not in served.output:
        assert time.monotonic() < deadline, served.output
        time.sleep(0.02)


def test_the_ledger_has_what_requests_cost_by_the_prices_that_hold(upstream: ThreadedUpstream) -> None:
    with serving(toml(upstream) + PRICE.format(1)) as served:
        ask(served, "gpt-5.4")
        ask(served, "other")
        sums = usage(served, 2)
        assert sums["gpt-5.4"]["cost_nanos"] == 600 * 1000 + 400 * 250 + 100 * 2000
        assert (sums["other"]["cost_nanos"], sums["other"]["unpriced_requests"]) == (None, 1)

        (served.home / "penstock.toml").write_text(toml(upstream) + PRICE.format(10))
        served.process.send_signal(signal.SIGHUP)
        until_applied(served)
        ask(served, "gpt-5.4")
        assert usage(served, 3)["gpt-5.4"]["cost_nanos"] == 900_000 + 600 * 10_000 + 400 * 250 + 100 * 2000
