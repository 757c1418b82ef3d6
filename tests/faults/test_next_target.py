"""A target that fails is replaced by the next one at once, without any wait."""

from __future__ import annotations

from penstock.config import Retries
from penstock.fake_upstream import Answer, FakeUpstream
from support.gateway import gateway, run, to, upstream


def test_the_next_target_is_asked_at_once() -> None:
    async def main() -> None:
        async with FakeUpstream(Answer(status=503)) as one, FakeUpstream() as two:
            providers = (upstream(one.base_url, "first"), upstream(two.base_url, "second"))
            models = {"gpt-5.4": to("first", "second")}
            # A wait would be an hour long.
            patient = Retries(first_wait=3600.0, longest_wait=3600.0)
            async with gateway(*providers, models=models, retries=patient) as running:
                assert (await running.chat()).status == 200
                record = await running.record()
        assert [(attempt.provider, attempt.wait_ms) for attempt in record.attempts] == [("first", 0.0), ("second", 0.0)]

    run(main())
