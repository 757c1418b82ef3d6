"""Faults by name: each spoils an answer in the form it is for, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from penstock.fake_upstream.directives import DirectiveError, answer
from penstock.fake_upstream.faults import FAULTS
from penstock.fake_upstream.script import Answer, ScriptError, ToolCall, parse
from penstock.fake_upstream.shapes import Asked, Reply, completion, events

REPLY = Reply(id="chatcmpl-1", model="gpt-5.4", created=1_760_000_000)
BASES = (
    Answer(content="Two words."),
    Answer(tool_calls=(ToolCall(arguments='{"query": "gate"}'), ToolCall(arguments='{"query": "weir"}'))),
)


def streamed(base: Answer, *faults: str) -> list[bytes]:
    asked = Asked(stream=True, include_usage=True, n=2)
    return [piece.data for piece in events(msgspec.structs.replace(base, faults=faults), asked, REPLY)]


def whole(base: Answer, *faults: str) -> Any:
    return json.loads(completion(msgspec.structs.replace(base, faults=faults), Asked(n=2), REPLY))


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_spoils_the_forms_that_it_names(name: str) -> None:
    fault = FAULTS[name]
    assert fault.stream or fault.whole
    spoiled = any(streamed(base, name) != streamed(base) for base in BASES)
    assert spoiled == (fault.stream is not None)
    spoiled = any(whole(base, name) != whole(base) for base in BASES)
    assert spoiled == (fault.whole is not None)


def test_faults_combine() -> None:
    first, *_ = streamed(BASES[0], "role_missing", "crlf", "event_ids")
    assert first.startswith(b"id: 0\ndata: {")
    assert first.endswith(b"}\r\n\r\n: note\n\n")
    assert b'"role"' not in first


def test_calls_are_streamed_as_openai_does_it() -> None:
    chunks = [json.loads(data[6:]) for data in streamed(BASES[1])[:-1]]
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"] if choice["index"] == 0]
    assert deltas[0] == {"role": "assistant", "content": None, "refusal": None}
    calls = [call for delta in deltas[1:-1] for call in delta["tool_calls"]]
    assert calls[0] == {
        "index": 0,
        "id": "call_fake_0",
        "type": "function",
        "function": {"name": "lookup", "arguments": ""},
    }
    assert all(set(call) == {"index", "function"} for call in calls if "id" not in call)
    assert "".join(call["function"]["arguments"] for call in calls if call["index"] == 1) == '{"query": "weir"}'
    assert deltas[-1] == {}
    assert chunks[-2]["choices"][0]["finish_reason"] == "tool_calls"


def test_calls_take_the_names_of_the_requests_tools_in_turn() -> None:
    asked = Asked(tools=("weir", "gate"))
    (choice,) = json.loads(completion(Answer(tool_calls=(ToolCall(),) * 3), asked, REPLY))["choices"]
    names = [call["function"]["name"] for call in choice["message"]["tool_calls"]]
    assert names == ["weir", "gate", "weir"]
    assert choice["message"]["content"] is None
    assert choice["finish_reason"] == "tool_calls"


def test_a_fault_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ScriptError, match="there is no fault 'rolemissing'"):
        parse({"models": {"*": [{"faults": ["rolemissing"]}]}})
    with pytest.raises(DirectiveError, match="there is no fault 'x'"):
        answer("fake-fault-crlf+x", Answer())
    told = answer("fake-calls-2-fault-crlf+call_index_missing", Answer())
    assert told == Answer(tool_calls=(ToolCall(), ToolCall()), faults=("crlf", "call_index_missing"))
