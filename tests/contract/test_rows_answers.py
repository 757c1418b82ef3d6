"""Rows C and D: the shape of what is answered, by a hosted and by a local model."""

from __future__ import annotations

import time

from openai.types.chat import ChatCompletion

from support.callers import Caller


def test_an_answer_has_all_that_openais_document_requires(caller: Caller) -> None:
    before = int(time.time())
    answer = caller.answer()
    assert answer["id"].startswith("chatcmpl-")
    assert answer["object"] == "chat.completion"
    assert type(answer["created"]) is int
    assert before <= answer["created"] <= time.time()
    assert type(answer["model"]) is str
    (choice,) = answer["choices"]
    assert {"index", "message", "finish_reason", "logprobs"} <= choice.keys()
    assert (choice["index"], choice["finish_reason"], choice["logprobs"]) == (0, "stop", None)
    message = choice["message"]
    assert {"role", "content", "refusal"} <= message.keys()
    assert (message["role"], message["refusal"]) == ("assistant", None)
    assert message.get("annotations", []) == []
    assert type(message["content"]) is str
    assert "tool_calls" not in message
    assert "error" not in answer
    ChatCompletion.model_validate(answer, strict=True)
