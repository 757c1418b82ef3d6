"""A running server, its ledger, and who asks it: the key over HTTP, the operator by the command."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

import httpx

from support.serving import START, Served, serving
from support.upstreams import ThreadedUpstream

BODY = {"model": "gpt-5.4", "messages": [{"role": "user", "content": "Say hello."}], "user": "user-1234"}


def toml(upstream: ThreadedUpstream) -> str:
    return f"""
[providers.up]
type = "vllm"
base_url = "{upstream.base_url}"

[models."gpt-5.4"]
targets = [{{ provider = "up" }}]
"""


def exported(served: Served, count: int) -> list[dict[str, Any]]:
    """What the command exports, once it is so many rows: they are stored a moment after their answers."""
    command = [sys.executable, "-m", "penstock", "usage", "--export", "jsonl", "--data-dir", str(served.data_dir)]
    deadline = time.monotonic() + START
    while True:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        if len(rows) >= count:
            return rows
        assert time.monotonic() < deadline, rows


def test_every_answer_has_its_row_and_its_key_is_told_the_sum(upstream: ThreadedUpstream) -> None:
    with serving(toml(upstream)) as served, httpx.Client(headers=served.headers, trust_env=False) as client:
        usage = f"{served.base_url}/penstock/usage"
        assert client.get(usage).json()["data"] == []
        ids, tokens = [], 0
        for stream in (False, True, False):
            answer = client.post(f"{served.base_url}/chat/completions", json={**BODY, "stream": stream})
            assert answer.status_code == 200
            ids.append(answer.headers["x-request-id"])
            tokens += 0 if stream else answer.json()["usage"]["total_tokens"]
        rows = exported(served, 3)
        assert [row["request_id"] for row in rows] == ids
        assert {(row["key_id"], row["model"], row["user"], row["state"]) for row in rows} == {
            ("env", "gpt-5.4", "user-1234", "complete")
        }
        told = client.get(usage, params={"since": "1d"}).json()["total"]
        assert told["requests"] == 3
        counted = sum(row["prompt_tokens"] + row["completion_tokens"] for row in rows)
        assert told["prompt_tokens"] + told["completion_tokens"] == counted
        assert counted >= tokens > 0
        refused = client.post(f"{served.base_url}/chat/completions", json={**BODY, "model": "nobody-knows-it"})
        assert refused.status_code == 404
        assert len(exported(served, 3)) == 3
