"""Servers for the official SDKs: in front of the strict upstream, with the built-in model, in front of a script.

Each runs once for all tests of this room. The SDKs are given a base URL and a key, and nothing else.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.fake_upstream import Answer, Chunk
from support.serving import Served, serving
from support.upstreams import ThreadedUpstream, threaded_upstream

NODE = Path(__file__).with_name("node")

UPSTREAM_KEY = "sk-upstream-0123456789"

ONE_MODEL = """
[providers.openai]
type = "openai"
base_url = "{base_url}"
api_key = "env:UPSTREAM_KEY"

[models."gpt-5.4"]
targets = [{{ provider = "openai", model = "gpt-5.4" }}]
"""

# Every answer is the first and the last: what an upstream does wrong is not to be mended by asking again.
ANY_MODEL = """
[providers.openai]
type = "openai"
base_url = "{base_url}"
api_key = "env:UPSTREAM_KEY"

[models."*"]
targets = [{{ provider = "openai" }}]

[retries]
attempts = 1

[breaker]
failures = 1000
"""

SCRIPT = {
    "limited": [Answer(status=429, retry_after=3)],
    "broken": [Answer(status=500)],
    "gated": [Answer(chunks=("first", Chunk(text=" second", wait="never opened")))],
    "dies": [Answer(chunks=("first", Chunk(data='{"error":{"message":"lost","type":"server_error"}}')))],
}


@pytest.fixture(scope="session")
def packages() -> None:
    """The Node clients, installed from the lock where one is not yet there."""
    wanted = json.loads((NODE / "package.json").read_text(encoding="utf-8"))["dependencies"]
    if not all((NODE / "node_modules" / name).exists() for name in wanted):
        command = ["npm", "ci", "--prefix", str(NODE), "--no-audit", "--no-fund"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert result.returncode == 0, result.stderr


@pytest.fixture(scope="session")
def strict() -> Iterator[Served]:
    """Serving gpt-5.4 of an upstream that enforces OpenAI's rules for it."""
    with (
        threaded_upstream(strict_profile="gpt-5.4", keys=[UPSTREAM_KEY]) as upstream,
        serving(ONE_MODEL.format(base_url=upstream.base_url), environment={"UPSTREAM_KEY": UPSTREAM_KEY}) as served,
    ):
        yield served


@pytest.fixture(scope="session")
def demo() -> Iterator[Served]:
    """Serving what a newcomer gets: no configuration, the built-in model."""
    with serving() as served:
        served.wait_for("/ready")
        yield served


@pytest.fixture(scope="session")
def scripted_upstream() -> Iterator[ThreadedUpstream]:
    """An upstream that misbehaves by model name."""
    with threaded_upstream(SCRIPT) as upstream:
        yield upstream


@pytest.fixture(scope="session")
def scripted(scripted_upstream: ThreadedUpstream) -> Iterator[Served]:
    """Serving any model of the scripted upstream."""
    config = ANY_MODEL.format(base_url=scripted_upstream.base_url)
    with serving(config, environment={"UPSTREAM_KEY": UPSTREAM_KEY}) as served:
        yield served


@pytest.fixture(params=["strict", "demo"])
def served(request: pytest.FixtureRequest) -> Served:
    """Both servers that know gpt-5.4, one after the other."""
    found: Served = request.getfixturevalue(request.param)
    return found
