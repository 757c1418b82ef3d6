"""One request through a gateway to a scripted provider: what the client got, and what the provider was sent."""

from __future__ import annotations

import json
from typing import Any

from penstock.fake_upstream import Answer, Chunk, FakeUpstream
from penstock.fake_upstream.server import Scripted
from penstock.types import Record
from support.gateway import Answered, gateway, run

NAMES = {"id": "chatcmpl-1", "created": 1_760_000_000, "model": "gpt-5.4"}
FIGURES = {"prompt_tokens": 7, "completion_tokens": 9, "total_tokens": 16}


class Relayed:
    """An answer as the client got it. `sent`: the body that the provider was sent, None if it was not called."""

    def __init__(self, answered: Answered, sent: Any, record: Record) -> None:
        self.answered = answered
        self.sent = sent
        self.record = record

    @property
    def answer(self) -> Any:
        """The whole answer, which must be one."""
        assert self.answered.status == 200, self.answered.body
        return self.answered.json()

    @property
    def message(self) -> Any:
        """The message of the first choice of a whole answer."""
        return self.answer["choices"][0]["message"]

    @property
    def chunks(self) -> list[Any]:
        """The chunks of a stream, which must consist of whole events and end as it should."""
        assert self.answered.status == 200, self.answered.body
        *events, nothing = self.answered.body.split(b"\n\n")
        assert nothing == b""
        assert events.pop() == b"data: [DONE]"
        assert all(event.startswith(b"data: ") for event in events)
        return [json.loads(event.removeprefix(b"data: ")) for event in events]

    @property
    def choices(self) -> list[Any]:
        """The choices of all chunks, one after the other."""
        return [choice for chunk in self.chunks for choice in chunk["choices"]]


def relayed(script: Scripted | None = None, strict: str | None = None, **members: Any) -> Relayed:
    """Ask for a chat completion of these members. `strict`: the profile that the provider enforces."""
    found: list[Relayed] = []

    async def main() -> None:
        async with FakeUpstream(script, strict_profile=strict) as fake, gateway(fake.base_url) as running:
            answered = await running.chat(**members)
            sent = fake.seen[-1].json() if fake.seen else None
            found.append(Relayed(answered, sent, await running.record()))

    run(main())
    return found[0]


def whole(message: dict[str, Any], finish: str = "stop", **more: Any) -> Answer:
    """An answer of this message."""
    said = {"role": "assistant", "content": None, "refusal": None, **message}
    choice = {"index": 0, "message": said, "logprobs": None, "finish_reason": finish}
    body = {**NAMES, "object": "chat.completion", "choices": [choice], "usage": FIGURES, **more}
    return Answer(body=json.dumps(body, ensure_ascii=False))


def streamed(*choices: dict[str, Any], **more: Any) -> Answer:
    """A stream of a chunk for each of these choices, and nothing beside them but its end."""
    chunks = [{**NAMES, "object": "chat.completion.chunk", "choices": [choice], **more} for choice in choices]
    told = tuple(Chunk(data=json.dumps(chunk, ensure_ascii=False)) for chunk in chunks)
    return Answer(chunks=told, role=False, finish_reason="", report_usage="never")


def step(delta: dict[str, Any], finish: str | None = None, index: int = 0) -> dict[str, Any]:
    """One step of a choice."""
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}


def joined_calls(choices: list[dict[str, Any]]) -> list[dict[str, str]]:
    """The calls that the steps of one choice make, which must be in the form that clients can put together."""
    calls: list[dict[str, str]] = []
    for one in (call for choice in choices for call in choice["delta"].get("tool_calls", [])):
        function = one["function"]
        if one["index"] == len(calls):
            calls.append({"id": one["id"], "type": one["type"], "name": function["name"], "arguments": ""})
        else:
            assert not one.keys() & {"id", "type"}
            assert "name" not in function
        calls[one["index"]]["arguments"] += function.get("arguments", "")
    return calls
