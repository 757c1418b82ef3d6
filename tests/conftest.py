"""Fixtures of every room."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.upstreams import ThreadedUpstream, threaded_upstream


@pytest.fixture
def upstream() -> Iterator[ThreadedUpstream]:
    """A plain fake upstream in a thread; one with a script is `threaded_upstream(script)` of `support.upstreams`."""
    with threaded_upstream() as running:
        yield running
