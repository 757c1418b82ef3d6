"""Requests with an idempotency key at a real server: run once over its workers, free again when one is killed."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from penstock.fake_upstream import Answer
from support.processes import children
from support.serving import Served, serving
from support.upstreams import ThreadedUpstream, threaded_upstream

CONFIG = """
[providers.fake]
type = "openai"
base_url = "{base_url}"

[models."*"]
targets = [{{ provider = "fake" }}]
"""
SCRIPT = {"m": [Answer()], "held": [Answer(wait_first="never"), Answer()]}


@pytest.fixture(scope="module")
def upstream() -> Iterator[ThreadedUpstream]:
    with threaded_upstream(SCRIPT) as upstream:
        yield upstream


@pytest.fixture(scope="module")
def served(upstream: ThreadedUpstream) -> Iterator[Served]:
    with serving(CONFIG.format(base_url=upstream.base_url), arguments=("--workers", "2")) as served:
        served.wait_for("/ready")
        yield served


def ask(served: Served, mark: str, model: str = "m", stream: bool = False) -> httpx.Response:
    """One request on a connection of its own."""
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": mark}], "stream": stream}
    headers = served.headers | {"idempotency-key": mark}
    url = f"{served.base_url}/chat/completions"
    return httpx.post(url, json=body, headers=headers, timeout=30, trust_env=False)


def sent(upstream: ThreadedUpstream, mark: str) -> int:
    return sum(mark in seen.body.decode() for seen in upstream.seen)


@pytest.mark.parametrize("stream", [False, True])
def test_of_many_repeats_at_two_workers_one_runs(served: Served, upstream: ThreadedUpstream, stream: bool) -> None:
    mark = f"many-{stream}"
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: ask(served, mark, stream=stream), range(48)))
    assert sent(upstream, mark) == 1
    statuses = Counter(answer.status_code for answer in answers)
    assert statuses.keys() <= {200, 409}
    last = ask(served, mark, stream=stream)
    assert last.headers["x-penstock-replayed"] == "true"
    assert {answer.content for answer in answers if answer.status_code == 200} == {last.content}


def test_a_worker_that_is_killed_gives_its_keys_back(served: Served, upstream: ThreadedUpstream) -> None:
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, served, "killed", "held")
        upstream.wait_for(lambda: sent(upstream, "killed") == 1)
        assert ask(served, "killed", "held").status_code == 409
        for pid in children(served.pid):
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(httpx.TransportError):
            first.result()
    served.wait_for("/ready")
    answer = ask(served, "killed", "held")
    assert answer.status_code == 200, answer.text
    assert sent(upstream, "killed") == 2
