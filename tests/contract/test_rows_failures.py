"""Rows J: what a client is told when the model fails it in the middle, or when it fails the model."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from penstock.fake_upstream import Answer, Chunk
from penstock.fake_upstream.script import Cut
from support.callers import DEMO, PATIENCE, Caller, client
from support.processes import engines
from support.relaying import relayed
from support.serving import Served, serving
from support.upstreams import threaded_upstream

LOCAL = f"""
[providers.local]
type = "llama"

[models."{DEMO}"]
targets = [{{ provider = "local" }}]
"""
# As much as the model's context holds, from every slot, so that there is time to interfere.
LONG: dict[str, Any] = {"ignore_eos": True, "n": 4, "messages": [{"role": "user", "content": "Tell me a story."}]}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """A gateway whose engine may be killed."""
    with serving(LOCAL) as served:
        served.wait_for("/ready")
        yield served


def engine(served: Served, *before: int) -> int:
    """The process of the local model's engine, once it is not one of those before."""
    deadline = time.monotonic() + PATIENCE
    while True:
        found = engines(served.pid)
        if len(found) == 1 and found[0] not in before:
            return found[0]
        assert time.monotonic() < deadline, found
        time.sleep(0.01)  # nothing tells when a process has begun


def last_event(text: str) -> Any:
    """What the last event of a stream says; it is whole."""
    assert text.endswith("\n\n")
    event = text.removesuffix("\n\n").rpartition("\n\n")[2]
    assert event.startswith("data: ")
    return json.loads(event.removeprefix("data: "))


def check_cut(text: str) -> None:
    """A stream that ends in an error in the form that clients raise, and in no forged end."""
    error = last_event(text)
    assert list(error) == ["error"]
    assert list(error["error"]) == ["message", "type", "param", "code"]
    assert error["error"]["type"] == "server_error"
    assert "[DONE]" not in text
    assert '"finish_reason":"' not in text.replace(" ", "")
    assert "event:" not in text


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_provider_that_dies_in_the_middle_is_told_in_the_stream(how: Any) -> None:
    """And no sooner than what came before it was given."""
    with (
        threaded_upstream(Answer(chunks=("one", "two"), cut=Cut(after_events=3, how=how, wait="die"))) as fake,
        serving(
            f'[providers.p]\ntype="openai"\nbase_url="{fake.base_url}"\n[models."*"]\ntargets=[{{provider="p"}}]'
        ) as served,
        client(served) as http,
        http.stream("POST", "/v1/chat/completions", json={**Caller(served, http, "m").body(), "stream": True}) as got,
    ):
        parts = got.iter_text()
        text = ""
        while '"two"' not in text:
            text += next(parts)
        fake.open("die")
        check_cut(text + "".join(parts))


def test_a_local_engine_that_dies_is_told_before_and_after_the_first_event_and_comes_back(served: Served) -> None:
    with client(served) as http:
        caller = Caller(served, http, DEMO)
        body = caller.body(**LONG, stream=True)
        with http.stream("POST", "/v1/chat/completions", json=body) as got:
            assert got.status_code == 200
            parts = got.iter_text()
            text = ""
            while '"content":"' not in text.replace('"content":""', ""):
                text += next(parts)
            first = engine(served)
            os.kill(first, signal.SIGKILL)
            check_cut(text + "".join(parts))
        pid = engine(served, first)
        served.wait_for("/ready")
        os.kill(pid, signal.SIGSTOP)  # it takes the connection and does not answer
        with socket.create_connection(("127.0.0.1", int(served.url.rpartition(":")[2])), PATIENCE) as sock:
            data = json.dumps(caller.body()).encode()
            head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {served.key}\r\n"
            sock.sendall(f"{head}connection: close\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data)
            until_in_flight(served)
            os.kill(pid, signal.SIGKILL)
            answer = b""
            while got_more := sock.recv(65536):
                answer += got_more
        start, _, rest = answer.partition(b"\r\n\r\n")
        if not start.startswith(b"HTTP/1.1 200 "):  # it may have been asked again when it was back
            assert start.startswith((b"HTTP/1.1 502 ", b"HTTP/1.1 503 "))
            assert json.loads(rest)["error"]["type"] == "server_error"
        served.wait_for("/ready")
        assert caller.answer()["choices"]


def until_in_flight(served: Served) -> None:
    """Wait until the gateway counts a request that it has not answered."""
    deadline = time.monotonic() + PATIENCE
    key = (served.data_dir / "admin-key").read_text().strip()
    with httpx.Client(trust_env=False, timeout=5, headers={"authorization": f"Bearer {key}"}) as http:
        while time.monotonic() < deadline:
            if "penstock_requests_in_flight 1" in http.get(f"{served.admin_url}/metrics").text:
                return
            time.sleep(0.02)  # nothing tells when a request has begun
    raise AssertionError("no request in flight")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "told",
    [
        pytest.param(Answer(raw="", end="drop"), id="J03-closed"),
        pytest.param(Answer(raw="", end="reset"), id="J03-reset"),
        pytest.param(Answer(chunks=("a",), cut=Cut(after_bytes=0)), id="J03-head-only"),
        pytest.param(Answer(body="<html>secret</html>", headers={"content-type": "text/html"}), id="J09-html"),
        pytest.param(
            Answer(status=502, body="<html>secret</html>", headers={"content-type": "text/html"}), id="J09-502"
        ),
        pytest.param(Answer(body="secret"), id="J09-text"),
        pytest.param(Answer(body=""), id="J09-empty"),
    ],
)
def test_a_provider_that_fails_before_the_first_byte_is_a_502_in_the_envelope(told: Answer, stream: bool) -> None:
    found = relayed(told, stream=stream).answered
    assert found.status == 502
    assert found.error["type"] == "server_error"
    assert "'fake'" in found.error["message"]
    assert b"secret" not in found.body


def test_a_local_models_client_that_leaves_frees_its_slots(served: Served) -> None:
    with client(served) as http:
        caller = Caller(served, http, DEMO)
        for _ in range(3):
            with http.stream("POST", "/v1/chat/completions", json=caller.body(**LONG, stream=True)) as got:
                next(got.iter_text())
            begun = time.monotonic()
            assert caller.answer(n=4, max_tokens=1)["choices"]
            print(f"all slots are free after {time.monotonic() - begun:.2f} s")
            assert time.monotonic() - begun < 1.0


def test_an_error_in_a_providers_stream_is_told_in_the_form_that_clients_raise() -> None:
    for error in ('{"error":{"message":"lost","type":"server_error"}}', '{"error":"lost"}'):
        found = relayed(Answer(chunks=("one", Chunk(data=error), "two")), stream=True).answered
        check_cut(found.body.decode())
        assert b"lost" not in found.body
    bare = Chunk(raw='event: error\ndata: {"message":"lost","type":"server_error","code":500}\n\n')
    check_cut(relayed(Answer(chunks=("one", bare), finish_reason="", done=False), stream=True).answered.body.decode())
