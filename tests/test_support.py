"""The tests' own tools fail loudly, with what the server said."""

from __future__ import annotations

import httpx
import pytest

from penstock.fake_upstream import Answer
from support.serving import serving
from support.upstreams import ThreadedUpstream, threaded_upstream


def test_a_server_that_cannot_start_is_reported_with_its_output() -> None:
    with (
        pytest.raises(AssertionError, match=r"penstock serve ended: \d+\n(?s:.*)frobnicate"),
        serving("frobnicate = 1"),
    ):
        pytest.fail("it serves")


def test_a_server_that_ended_by_itself_is_reported_when_it_is_stopped(upstream: ThreadedUpstream) -> None:
    config = f'[providers.a]\ntype = "openai"\nbase_url = "{upstream.base_url}"\napi_key = "env:K"\n'
    config += '[models."*"]\ntargets = [{ provider = "a" }]\n'

    def die_while_serving() -> None:
        with serving(config, environment={"K": "sk-x"}) as served:
            served.process.kill()
            served.process.wait()

    with pytest.raises(AssertionError, match="penstock serve ended with -9"):
        die_while_serving()


def test_an_upstream_in_a_thread_is_driven_from_outside() -> None:
    with threaded_upstream(Answer(wait="gate")) as upstream:
        with httpx.Client(trust_env=False, timeout=0.2) as client, pytest.raises(httpx.ReadTimeout):
            client.post(f"{upstream.base_url}/chat/completions", json={"model": "a", "messages": []})
        assert upstream.ended().hung_up
        upstream.wait_for(lambda: not upstream.open_connections)
        upstream.open("gate")
        with httpx.Client(trust_env=False) as client:
            assert client.post(f"{upstream.base_url}/chat/completions", json={"model": "a"}).status_code == 200
            upstream.close_idle()
        assert upstream.request(1).ended == "complete"
        assert [seen.number for seen in upstream.seen] == [0, 1]
