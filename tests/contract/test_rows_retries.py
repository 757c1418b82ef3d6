"""Rows K04 and K05: what openai-python repeats by itself behind the gateway, and what not."""

from __future__ import annotations

import openai
import pytest

from penstock.fake_upstream import Answer, FakeUpstream
from penstock.fake_upstream.script import Fault
from support.gateway import KEY, Running, gateway, run, to

QUOTA = Fault("You exceeded your current quota.", type="insufficient_quota", code="insufficient_quota")


async def tries(running: Running, upstream: FakeUpstream, stream: bool) -> int:
    """How often the upstream is called for one request of an SDK with its own defaults."""
    base_url = f"http://{running.address[0]}:{running.address[1]}/v1"
    async with openai.AsyncOpenAI(base_url=base_url, api_key=KEY) as client:
        with pytest.raises(openai.APIStatusError):
            await client.chat.completions.create(
                model="gpt-5.4", messages=[{"role": "user", "content": "Hello!"}], stream=stream
            )
    return len(upstream.seen)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("told", "count"),
    [
        pytest.param(Answer(status=429, retry_after=0.01), 3, id="429"),
        pytest.param(Answer(status=503, retry_after=0.01), 3, id="503"),
        pytest.param(Answer(status=429, retry_after=61), 1, id="429-longer-than-sdks-wait"),
        pytest.param(Answer(status=503, retry_after=3600), 1, id="503-longer-than-sdks-wait"),
        pytest.param(Answer(status=429, error=QUOTA), 1, id="quota"),
        *(pytest.param(Answer(status=status), 1, id=f"{status}") for status in (400, 401, 403, 404, 413, 422)),
    ],
)
def test_an_sdk_repeats_what_may_pass_and_nothing_else(told: Answer, count: int, stream: bool) -> None:
    async def main() -> None:
        models = {"gpt-5.4": to("fake")}
        async with FakeUpstream(told) as upstream, gateway(upstream.base_url, models=models) as running:
            assert await tries(running, upstream, stream) == count

    run(main())
