"""A hosted answer that breaks off is finished by a model of ours."""

from __future__ import annotations

import json
from pathlib import Path

from running import running

from penstock.config import Model, Retries, TargetConfig, Upstream
from penstock.engine.spec import EngineSpec
from penstock.fake_upstream import Answer, FakeUpstream
from penstock.fake_upstream.script import Cut
from penstock.providers.llama import BUILTIN_FILE
from support.gateway import gateway, run, upstream

QUESTION = [{"role": "user", "content": "What is Penstock?"}]


def test_a_local_model_finishes_a_hosted_answer(tmp_path: Path) -> None:
    async def main() -> None:
        local = Upstream("local", "llama", settings={"model": "builtin"})
        targets = (TargetConfig("hosted"), TargetConfig("local", continues="continue_final_message"))
        models = {"gpt-5.4": Model(targets, rescue="continue"), "own": Model((TargetConfig("local"),))}
        hosted = Answer(chunks=("Penstock", " is", " open", " never sent"), cut=Cut(after_events=4, how="reset"))
        async with FakeUpstream(hosted) as fake:
            providers = (upstream(fake.base_url, "hosted"), local)
            address = demo.engine.address
            async with gateway(*providers, models=models, engine=address, retries=Retries()) as gate:
                own = await gate.chat(model="own", messages=QUESTION, temperature=0)
                answered = await gate.chat(messages=QUESTION, temperature=0, stream=True)
                record = await gate.record(1)
        *events, done, nothing = answered.body.split(b"\n\n")
        assert (done, nothing) == (b"data: [DONE]", b"")
        chunks = [json.loads(event.removeprefix(b"data: ")) for event in events]
        text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
        assert text == own.json()["choices"][0]["message"]["content"]
        assert len({chunk["id"] for chunk in chunks}) == 1
        assert (record.rescue, record.ended) == ("continued", "ok")
        assert [attempt.outcome for attempt in record.attempts] == ["reset", "ok"]

    with running(EngineSpec(str(BUILTIN_FILE)), tmp_path / "demo") as demo:
        demo.until_ready()
        run(main())
