"""One gateway for all rows: a hosted model behind a provider that enforces OpenAI's rules for it, and the local one."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from support.callers import DEMO, HOSTED, Caller, client
from support.serving import Served, serving
from support.upstreams import ThreadedUpstream, threaded_upstream

UPSTREAM_KEY = "sk-upstream-0123456789"

CONFIG = f"""
[providers.openai]
type = "openai"
base_url = "{{base_url}}"
api_key = "env:UPSTREAM_KEY"

[providers.local]
type = "llama"

[models."{HOSTED}"]
targets = [{{{{ provider = "openai", model = "gpt-5.4" }}}}]

[models."{DEMO}"]
targets = [{{{{ provider = "local" }}}}]
"""


@pytest.fixture(scope="session")
def strict_upstream() -> Iterator[ThreadedUpstream]:
    """What the hosted model's provider calls."""
    with threaded_upstream(strict_profile="gpt-5.4", keys=[UPSTREAM_KEY]) as upstream:
        yield upstream


@pytest.fixture(scope="session")
def house(strict_upstream: ThreadedUpstream) -> Iterator[Served]:
    """The gateway."""
    config = CONFIG.format(base_url=strict_upstream.base_url)
    with serving(config, environment={"UPSTREAM_KEY": UPSTREAM_KEY}) as served:
        served.wait_for("/ready")
        yield served


@pytest.fixture(scope="session")
def http(house: Served) -> Iterator[httpx.Client]:
    """A client of it."""
    with client(house) as http:
        yield http


@pytest.fixture
def hosted(house: Served, http: httpx.Client) -> Caller:
    """Asks the hosted model."""
    return Caller(house, http, HOSTED)


@pytest.fixture
def local(house: Served, http: httpx.Client) -> Caller:
    """Asks the local model."""
    return Caller(house, http, DEMO)


@pytest.fixture(params=["hosted", "local"])
def caller(request: pytest.FixtureRequest) -> Caller:
    """Asks either, one after the other."""
    found: Caller = request.getfixturevalue(request.param)
    return found
