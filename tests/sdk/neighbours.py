"""A server in front of an upstream for the endpoints beside chat completions, shared by the tests of both SDKs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from penstock.fake_upstream import Answer
from penstock.fake_upstream.script import Cut
from support.serving import Served, serving
from support.upstreams import ThreadedUpstream, threaded_upstream

CONFIG = """
[providers.fake]
type = "openai"
base_url = "{base_url}"

[models.m]
targets = [{{ provider = "fake", model = "another" }}]

[models.dies]
targets = [{{ provider = "fake" }}]

[models.breaks]
targets = [{{ provider = "fake" }}]

[models.limited]
targets = [{{ provider = "fake" }}]
"""

SCRIPT = {
    "another": [Answer()],
    "breaks": [Answer(chunks=("first ", "second "), cut=Cut(after_events=2))],  # in a completion, after its texts
    "dies": [Answer(chunks=("first ", "second "), cut=Cut(after_events=6))],  # in a response, after them
    "limited": [Answer(status=429)],
}


@pytest.fixture(scope="module")
def upstream() -> Iterator[ThreadedUpstream]:
    """What answers."""
    with threaded_upstream(SCRIPT) as upstream:
        yield upstream


@pytest.fixture(scope="module")
def relayed(upstream: ThreadedUpstream) -> Iterator[Served]:
    """The server before it."""
    with serving(CONFIG.format(base_url=upstream.base_url)) as served:
        yield served
