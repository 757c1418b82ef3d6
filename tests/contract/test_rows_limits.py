"""Rows of the contract on limits, asked of a real server: refusals, hints for retries, headers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from support.serving import Served, serving
from support.upstreams import ThreadedUpstream, threaded_upstream

CONFIG = """
[providers.fake]
type = "openai"
base_url = "{base_url}"
[models."*"]
targets = [{{ provider = "fake" }}]
"""
GO_DURATION = re.compile(r"(\d+h)?(\d+m)?(\d+(\.\d+)?s)|\d+ms")


@pytest.fixture(scope="module")
def fake() -> Iterator[ThreadedUpstream]:
    with threaded_upstream() as running:
        yield running


@pytest.fixture(scope="module")
def served(fake: ThreadedUpstream) -> Iterator[Served]:
    with serving(CONFIG.format(base_url=fake.base_url)) as running:
        yield running


def penstock(served: Served, *arguments: str) -> Any:
    command = [sys.executable, "-m", "penstock", *arguments, "--json", "--data-dir", str(served.data_dir)]
    environment = {**os.environ, "HOME": str(served.home)}
    return json.loads(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


def chat(served: Served, key: str, **members: Any) -> httpx.Response:
    body = {"model": "gpt-5.4", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 10, **members}
    headers = {"authorization": f"Bearer {key}"}
    return httpx.post(f"{served.base_url}/chat/completions", json=body, headers=headers, trust_env=False, timeout=30.0)


def test_over_a_rate_it_is_a_429_that_names_the_limit_and_says_when_to_come_back(served: Served) -> None:
    key = penstock(served, "keys", "create", "--name", "rate", "--rpm", "2")["key"]
    assert [chat(served, key).status_code for _ in range(2)] == [200, 200]
    refused = chat(served, key)
    error = refused.json()["error"]
    assert (refused.status_code, error["type"], error["code"]) == (429, "rate_limit_error", "rate_limit_exceeded")
    assert "2 requests per minute" in error["message"]
    seconds, milliseconds = int(refused.headers["retry-after"]), int(refused.headers["retry-after-ms"])
    assert 1 <= seconds <= 61
    assert seconds - 1 < milliseconds / 1000 <= seconds
    assert "x-should-retry" not in refused.headers


@pytest.mark.parametrize(
    ("path", "members"),
    [
        ("completions", {"prompt": "Hello", "max_tokens": 5, "n": 2, "best_of": 2}),
        ("responses", {"input": "Hello", "max_output_tokens": 16}),
        ("completions", {"prompt": "Hello", "max_tokens": 10**15, "n": 10**15}),
    ],
)
def test_a_key_with_limits_may_say_how_long_an_answer_is_to_be_at_every_endpoint(
    served: Served, path: str, members: dict[str, Any]
) -> None:
    key = penstock(served, "keys", "create", "--name", f"{path}-{len(str(members))}", "--rpm", "100")["key"]
    body = {"model": "gpt-5.4", **members}
    headers = {"authorization": f"Bearer {key}"}
    answer = httpx.post(f"{served.base_url}/{path}", json=body, headers=headers, trust_env=False, timeout=30.0)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-ratelimit-remaining-requests"] == "99"
    assert chat(served, key).headers["x-ratelimit-remaining-requests"] == "98"


def test_a_spent_quota_is_a_429_that_no_sdk_repeats(served: Served) -> None:
    made = penstock(served, "keys", "create", "--name", "quota")
    penstock(served, "limits", "set", "requests_per_day", "1", "--key", made["id"])
    while chat(served, made["key"]).status_code == 200:
        pass  # an edit holds within a second, and what passes until then counts
    sent: list[httpx.Request] = []
    http = openai.DefaultHttpxClient(trust_env=False, event_hooks={"request": [sent.append]})
    client = openai.OpenAI(base_url=served.base_url, api_key=made["key"], http_client=http)
    with client, pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(model="gpt-5.4", messages=[{"role": "user", "content": "Hello"}])
    assert (caught.value.code, caught.value.response.headers["x-should-retry"]) == ("insufficient_quota", "false")
    assert len(sent) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_what_is_left_of_limits_stands_in_headers_and_is_never_overstated(served: Served, stream: bool) -> None:
    limits = ("--rpm", "5", "--tpm", "100000")
    key = penstock(served, "keys", "create", "--name", f"told-{stream}", *limits)["key"]
    for number in range(1, 6):
        headers = chat(served, key, stream=stream).headers
        assert headers["x-ratelimit-limit-requests"] == "5"
        assert headers["x-ratelimit-limit-tokens"] == "100000"
        assert int(headers["x-ratelimit-remaining-requests"]) <= 5 - number
        assert int(headers["x-ratelimit-remaining-tokens"]) < 100_000
        for unit in ("requests", "tokens"):
            assert GO_DURATION.fullmatch(headers[f"x-ratelimit-reset-{unit}"])
    refused = chat(served, key, stream=stream)
    assert (refused.status_code, refused.headers["x-ratelimit-remaining-requests"]) == (429, "0")
    assert refused.headers["x-ratelimit-reset-requests"].startswith(("59", "1m", "58"))
