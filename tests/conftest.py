"""Fixtures of every room."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.databases import Place, place_of
from support.postgres import PostgresServer, postgres_server
from support.upstreams import ThreadedUpstream, threaded_upstream


def pytest_collection_finish() -> None:
    """What there is when all tests are known is not looked at by the collector again, as in a worker: each time that it
    did would hold up, for up to half a second, what a test says is done within a quarter of one."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def upstream() -> Iterator[ThreadedUpstream]:
    """A plain fake upstream in a thread; one with a script is `threaded_upstream(script)` of `support.upstreams`."""
    with threaded_upstream() as running:
        yield running


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL that all tests share, each in a database of its own; it is not to be stopped."""
    with postgres_server() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty database, in turn of each kind."""
    return place_of(request.param, request, tmp_path)
