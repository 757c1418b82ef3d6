"""One request, every backend: what a target does not take is translated, dropped where configured, or its own refusal.

The upstreams enforce the published rules of a model, so that a request that gets an answer was sent in the right form.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from penstock.config import Model, TargetConfig, Upstream
from penstock.fake_upstream import Answer, Chunk, FakeUpstream
from penstock.http.client import DRAIN_SECONDS
from support.gateway import UPSTREAM_KEY, Answered, Running, gateway, run, upstream

GUIDE: dict[str, Any] = {
    "messages": [{"role": "system", "content": "You are terse."}, {"role": "user", "content": "Hello."}],
    "temperature": 0.3,
    "max_tokens": 400,
}


def of(kind: str, base_url: str) -> Upstream:
    return Upstream("fake", kind, settings={"base_url": base_url, "api_key": UPSTREAM_KEY})


def events(answered: Answered) -> list[dict[str, Any]]:
    lines = answered.body.decode().split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


def text(answered: Answered) -> str:
    return "".join(c["delta"].get("content") or "" for one in events(answered) for c in one["choices"])


@pytest.mark.parametrize(("kind", "model"), [("openai", "gpt-5.4"), ("deepseek", "deepseek-chat")])
def test_the_guides_request_works_unchanged(kind: str, model: str) -> None:
    async def main() -> None:
        async with FakeUpstream(strict_profile=model) as fake, gateway(of(kind, fake.base_url)) as running:
            answered = await running.chat(model=model, **GUIDE)
            assert (answered.status, answered.json()["object"]) == (200, "chat.completion")

    run(main())


@pytest.mark.parametrize("stream", [False, True])
def test_stop_works_where_the_model_refuses_it(stream: bool) -> None:
    async def main() -> None:
        script = Answer(chunks=("one EN", "D two"))
        async with FakeUpstream(script, strict_profile="o3") as fake, gateway(of("openai", fake.base_url)) as running:
            answered = await running.chat(model="o3", stop=["END", "\n\n"], stream=stream)
            assert answered.status == 200
            if stream:
                assert text(answered) == "one "
                assert events(answered)[-1]["choices"][0]["finish_reason"] == "stop"
            else:
                assert answered.json()["choices"][0]["message"]["content"] == "one "

    run(main())


def test_the_upstream_of_a_cut_stream_is_hung_up_on_and_its_usage_is_marked_estimated() -> None:
    async def main() -> None:
        script = Answer(chunks=("one END", Chunk(text=" two", wait="forever")))
        async with (
            FakeUpstream(script, strict_profile="gpt-5.4") as fake,
            gateway(of("openai", fake.base_url)) as running,
        ):
            answered = await running.chat(
                model="gpt-5.4", stop="END", stream=True, stream_options={"include_usage": True}
            )
            assert text(answered) == "one "
            last = events(answered)[-1]
            assert last["choices"] == []
            record = await running.record()
            assert (record.ended, record.status) == ("ok", 200)
            assert record.usage is not None
            assert record.usage.source == "estimated"
            assert last["usage"]["completion_tokens"] == record.usage.completion_tokens == 2
            async with asyncio.timeout(DRAIN_SECONDS / 4):  # at once, and not when a drain gives up
                assert (await fake.ended()).hung_up
            assert running.pools["fake"].take() is None

    run(main())


async def ask(running: Running, **members: Any) -> Answered:
    return await running.chat(model="gpt-5.4", reasoning_effort="low", **members)


def model(drops: bool) -> dict[str, Model]:
    return {"gpt-5.4": Model((TargetConfig("fake"),), drop_unsupported=drops)}


@pytest.mark.parametrize("stream", [False, True])
def test_what_has_no_equivalent_is_dropped_and_named_only_where_configured(stream: bool) -> None:
    async def main() -> None:
        async with FakeUpstream(strict_profile="gpt-5.4") as fake:
            async with gateway(of("openai", fake.base_url), models=model(drops=True)) as running:
                answered = await ask(running, temperature=0.3, top_p=1, logit_bias={"1": 2}, stream=stream)
                assert answered.status == 200
                assert answered.headers["x-penstock-dropped"] == "logit_bias, temperature"
                assert "x-penstock-dropped" not in (await ask(running, temperature=1, stream=stream)).headers
            async with gateway(of("openai", fake.base_url), models=model(drops=False)) as running:
                answered = await ask(running, temperature=0.3, stream=stream)
                assert (answered.status, answered.error["code"]) == (400, "unsupported_value")

    run(main())


def test_an_effort_that_the_model_lacks_is_its_own_refusal_or_dropped() -> None:
    async def main() -> None:
        async with FakeUpstream(strict_profile="gpt-5.4") as fake:
            async with gateway(of("openai", fake.base_url), models=model(drops=False)) as running:
                answered = await running.chat(model="gpt-5.4", reasoning_effort="minimal")
                assert (answered.status, answered.error["param"]) == (400, "reasoning_effort")
            async with gateway(of("openai", fake.base_url), models=model(drops=True)) as running:
                answered = await running.chat(model="gpt-5.4", reasoning_effort="minimal", temperature=0.3)
                assert answered.headers["x-penstock-dropped"] == "reasoning_effort"

    run(main())


def test_a_developer_message_reaches_a_server_that_knows_no_such_role() -> None:
    async def main() -> None:
        said = [{"role": "developer", "content": "Be terse."}, {"role": "user", "content": "Hello."}]
        async with (
            FakeUpstream(strict_profile="deepseek-chat") as fake,
            gateway(of("deepseek", fake.base_url)) as running,
        ):
            assert (await running.chat(model="deepseek-chat", messages=said)).status == 200
            assert (await fake.request()).json()["messages"] == [{**said[0], "role": "system"}, said[1]]

    run(main())


def test_a_deployment_takes_what_the_model_that_it_is_like_takes() -> None:
    async def main() -> None:
        async with FakeUpstream() as fake:
            targets = (TargetConfig("fake", "our-deployment", "gpt-5.4"),)
            async with gateway(of("azure", fake.base_url), models={"gpt-5.4": Model(targets)}) as running:
                assert (await running.chat(model="gpt-5.4", max_tokens=5, stop="x")).status == 200
            seen = await fake.request()
            assert (seen.json()["model"], seen.json()["max_completion_tokens"]) == ("our-deployment", 5)
            assert not {"max_tokens", "stop"} & seen.json().keys()
            assert (seen.header("api-key"), seen.header("authorization")) == (UPSTREAM_KEY, None)

    run(main())


@pytest.mark.parametrize("stream", [False, True])
def test_reasoning_comes_under_one_name_whatever_the_server_calls_it(stream: bool) -> None:
    async def main() -> None:
        tagged = Answer(chunks=("<thi", "nk>\nWhy? ", "🌍</th", "ink>\n\nBe", "cause."))
        async with FakeUpstream(tagged) as fake, gateway(of("vllm", fake.base_url)) as running:
            answered = await running.chat(stream=stream)
            if stream:
                reasoning = "".join(
                    c["delta"].get("reasoning_content") or "" for one in events(answered) for c in one["choices"]
                )
                assert (reasoning, text(answered)) == ("Why? 🌍", "Because.")
            else:
                message = answered.json()["choices"][0]["message"]
                assert (message["reasoning_content"], message["content"]) == ("Why? 🌍", "Because.")

    run(main())


def test_a_plain_target_is_sent_the_callers_own_stop() -> None:
    async def main() -> None:
        async with FakeUpstream() as fake, gateway(upstream(fake.base_url)) as running:
            await running.chat(model="gpt-4o", stop=["END"], temperature=0.3)
            assert (await fake.request()).json()["stop"] == ["END"]

    run(main())
