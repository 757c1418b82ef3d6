"""How a request would be routed, told without sending it."""

from __future__ import annotations

import json
from typing import Any

from penstock.config import Breaker, Model, TargetConfig
from penstock.errors import Failure, FailureKind
from penstock.fake_upstream import FakeUpstream
from support.gateway import KEY, Answered, Running, gateway, request, run, to, upstream

TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]


async def explained(running: Running, key: str | None = KEY, **members: Any) -> Answered:
    body = {"model": "gpt-5.4", "messages": [{"role": "user", "content": "Say hello."}], **members}
    return await running.ask(request("POST", "/v1/penstock/explain", key, json.dumps(body).encode()))


def test_it_names_the_targets_in_order_and_those_left_out_and_calls_nobody() -> None:
    async def main() -> None:
        async with FakeUpstream() as fake:
            model = Model((TargetConfig("one", lacks=("tools",)), TargetConfig("two", "other")))
            providers = [upstream(fake.base_url, "one"), upstream(fake.base_url, "two")]
            async with gateway(*providers, models={"gpt-*": model}) as running:
                found = (await explained(running, tools=TOOLS)).json()
                assert (found["model"], found["route"], found["policy"]) == ("gpt-5.4", "gpt-*", "ordered")
                assert [(one["provider"], one["model"], one["breaker"]) for one in found["targets"]] == [
                    ("two", "other", "closed")
                ]
                assert found["skipped"] == [{"provider": "one", "model": "gpt-5.4", "reason": "it lacks tools"}]
            assert fake.seen == []

    run(main())


def test_an_open_breaker_is_told_and_the_reason_why_a_provider_is_down_is_not() -> None:
    async def main() -> None:
        async with FakeUpstream() as fake:
            providers = [upstream(fake.base_url, name) for name in ("one", "two", "three")]
            models = {"gpt-5.4": to("one", "two", "three")}
            async with gateway(*providers, models=models, breaker=Breaker(failures=1, probe_interval=60)) as running:
                lanes = running.api.gateway.upstreams.lanes
                target = running.api.gateway.routes.find("gpt-5.4", running.keys.principals[KEY])
                assert target is not None
                now = lanes.clock()
                health = lanes.of(target).health
                health.failed(health.admit(now), Failure(FailureKind.CONNECT, ""), now)
                running.api.gateway.down = {"two": "/srv/weights.gguf is missing"}
                found = (await explained(running)).json()
                assert [one["provider"] for one in found["targets"]] == ["three"]
                reasons = {one["provider"]: one["reason"] for one in found["skipped"]}
                assert reasons["two"] == "it is down"
                assert reasons["one"].startswith("its breaker is open for another 6")

    run(main())


def test_where_no_target_can_be_called_it_says_of_each_why_and_so_does_the_record_of_a_request() -> None:
    async def main() -> None:
        async with FakeUpstream() as fake:
            providers = [upstream(fake.base_url, name) for name in ("one", "two")]
            async with gateway(*providers, models={"gpt-*": to("one", "two")}) as running:
                running.api.gateway.down = {"one": "/srv/weights.gguf is missing", "two": "it is loading"}
                found = (await explained(running)).json()
                assert (found["route"], found["targets"]) == ("gpt-*", [])
                assert [(one["provider"], one["reason"]) for one in found["skipped"]] == [
                    ("one", "it is down"),
                    ("two", "it is down"),
                ]
                answered = await running.chat()
                assert (answered.status, answered.error["code"]) == (503, "overloaded")
                record = next(one for one in await running.recorder.wait(2) if one.status == 503)
                assert (record.route, record.provider, record.attempts) == ("gpt-*", "", ())
                assert [(one.provider, one.reason) for one in record.skipped] == [
                    ("one", "/srv/weights.gguf is missing"),
                    ("two", "it is loading"),
                ]

    run(main())


def test_it_refuses_what_the_request_itself_would_be_refused_for() -> None:
    async def main() -> None:
        async with FakeUpstream() as fake, gateway(upstream(fake.base_url), models={"m": to("fake")}) as running:
            assert (await explained(running)).error["code"] == "model_not_found"
            assert (await explained(running, model="m", temperature=9)).status == 400
            assert (await explained(running, key=None)).status == 401

    run(main())
