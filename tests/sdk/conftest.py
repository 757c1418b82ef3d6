"""Servers for the official SDKs: in front of the strict upstream, with the built-in model, in front of a script.

Each runs once for all tests of this room. The SDKs are given a base URL and a key, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from penstock.fake_upstream import Answer, Chunk
from support.serving import Served, serving
from support.upstreams import ThreadedUpstream, threaded_upstream

UPSTREAM_KEY = "sk-upstream-0123456789"

ONE_MODEL = """
[providers.openai]
type = "openai"
base_url = "{base_url}"
api_key = "env:UPSTREAM_KEY"

[models."gpt-5.4"]
targets = [{{ provider = "openai", model = "gpt-5.4" }}]
"""

ANY_MODEL = """
[providers.openai]
type = "openai"
base_url = "{base_url}"
api_key = "env:UPSTREAM_KEY"

[models."*"]
targets = [{{ provider = "openai" }}]
"""

SCRIPT = {
    "limited": [Answer(status=429, retry_after=3)],
    "broken": [Answer(status=500)],
    "gated": [Answer(chunks=("first", Chunk(text=" second", wait="never opened")))],
    "dies": [Answer(chunks=("first", Chunk(data='{"error":{"message":"lost","type":"server_error"}}')))],
}


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
