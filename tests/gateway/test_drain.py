"""SIGTERM on the real server: nothing new is taken, and what is in progress ends by itself or in an error."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from penstock.fake_upstream import Answer, Chunk
from support.serving import Served, serving
from support.upstreams import ThreadedUpstream, threaded_upstream

HELD = Answer(chunks=("one", Chunk(text="two", wait="gate")))
BODY: dict[str, Any] = {"model": "gpt-5.4", "messages": [{"role": "user", "content": "Hello"}]}
PATIENCE = 10.0


@contextmanager
def before(script: Answer, drain_timeout: float, workers: int = 1) -> Iterator[tuple[ThreadedUpstream, Served]]:
    """A server with so much time for answers in progress, before a fake upstream."""
    with threaded_upstream(script) as fake:
        config = f"""
        [server]
        workers = {workers}
        [server.limits]
        drain_timeout = {drain_timeout}
        [providers.fake]
        type = "openai"
        base_url = "{fake.base_url}"
        [models."*"]
        targets = [{{ provider = "fake" }}]
        """
        with serving(config) as served:
            yield fake, served


@contextmanager
def client() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=PATIENCE) as made:
        yield made


@contextmanager
def in_stream(served: Served) -> Iterator[Iterator[str]]:
    """What a client gets of a stream whose first event it has read."""
    url = f"{served.base_url}/chat/completions"
    with client() as http, http.stream("POST", url, json={**BODY, "stream": True}, headers=served.headers) as answer:
        parts = answer.iter_text()
        got = ""
        while '"one"' not in got:
            got += next(parts)
        yield parts


def until_it_drains(served: Served) -> None:
    """Wait until the server says that it does, and its worker has begun to, which is told a moment later."""
    deadline = time.monotonic() + PATIENCE
    while "Draining" not in served.output:
        assert time.monotonic() < deadline, served.output
        time.sleep(0.005)  # it tells nobody but its log
    url = httpx.URL(served.url)
    until_refused((url.host, url.port or 0))


def until_refused(address: tuple[str, int]) -> None:
    """Connect until nobody listens there any more: workers close their sockets each in its own time."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(address, PATIENCE).close()
        except ConnectionRefusedError:
            return
        except ConnectionResetError:
            pass  # it was in the queue as the last socket closed
        assert time.monotonic() < deadline


def records(served: Served) -> list[Any]:
    """The access lines."""
    return [json.loads(line) for line in served.output.splitlines() if line.startswith("{")]


def ended(served: Served) -> int:
    return served.process.wait(PATIENCE)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stream_that_ends_in_time_ends_as_if_nothing_were(number: signal.Signals) -> None:
    with before(HELD, 20.0) as (fake, served):
        with in_stream(served) as parts:
            served.process.send_signal(number)
            until_it_drains(served)
            fake.open("gate")
            rest = "".join(parts)
        assert rest.endswith("data: [DONE]\n\n")
        assert ended(served) == 0
        assert [record["ended"] for record in records(served)] == ["ok"]


def test_a_stream_that_does_not_end_in_time_ends_in_an_error_in_the_stream() -> None:
    with before(HELD, 0.3) as (fake, served):
        with in_stream(served) as parts:
            served.process.send_signal(signal.SIGTERM)
            rest = "".join(parts)
        error = json.loads(rest.removesuffix("\n\n").rpartition("data: ")[2])["error"]
        assert (error["type"], error["code"]) == ("server_error", "server_shutting_down")
        assert "[DONE]" not in rest
        assert ended(served) == 0
        assert fake.ended().hung_up
        (record,) = records(served)
        assert (record["ended"], record["code"]) == ("drained", "server_shutting_down")


@pytest.mark.parametrize(("limit", "status"), [(20.0, 200), (0.3, 503)])
def test_an_answer_that_is_not_streamed_is_given_whole_or_refused(limit: float, status: int) -> None:
    with before(Answer(wait="gate"), limit) as (fake, served), client() as http:
        found: list[httpx.Response] = []
        url = f"{served.base_url}/chat/completions"
        asking = threading.Thread(target=lambda: found.append(http.post(url, json=BODY, headers=served.headers)))
        asking.start()
        fake.reached("gate")
        served.process.send_signal(signal.SIGTERM)
        until_it_drains(served)
        if status == 200:
            fake.open("gate")
        asking.join(PATIENCE)
        assert found[0].status_code == status
        assert found[0].headers["connection"] == "close"
        if status == 503:
            assert found[0].json()["error"]["code"] == "server_shutting_down"
        assert ended(served) == 0


def test_idle_connections_are_closed_and_new_ones_are_not_taken() -> None:
    with before(HELD, 20.0, workers=2) as (fake, served):
        address = ("127.0.0.1", int(served.url.rpartition(":")[2]))
        with socket.create_connection(address, PATIENCE) as idle, socket.create_connection(address, PATIENCE) as silent:
            idle.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
            got = b""
            while b'{"status":"ok"}' not in got:
                got += idle.recv(65536)
            with in_stream(served) as parts:
                served.process.send_signal(signal.SIGTERM)
                assert idle.recv(1) == b""
                assert silent.recv(1) == b""
                until_refused(address)
                fake.open("gate")
                assert "".join(parts).endswith("data: [DONE]\n\n")
        assert ended(served) == 0
