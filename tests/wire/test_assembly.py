"""A whole completion from the chunks of its stream."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from penstock.types import Usage
from penstock.wire.assembly import Assembly

BASE = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 7, "model": "m"}
USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}


def chunk(*choices: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {**BASE, "choices": list(choices), **members}


def choice(delta: dict[str, Any], index: int = 0, finish: str | None = None, **members: Any) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish, **members}


def events(*chunks: dict[str, Any]) -> bytes:
    return b"".join(b"data: %b\n\n" % json.dumps(one).encode() for one in chunks)


def assembled(*chunks: dict[str, Any], usage: Usage | None = None, most: int = 10_000) -> Any:
    assembly = Assembly(most)
    for one in chunks:
        assembly.note(events(one))
    assembly.note(b"data: [DONE]\n\n")
    assert not assembly.failed
    return json.loads(assembly.body(usage))


def call(index: int, arguments: str, **members: Any) -> dict[str, Any]:
    function = {"arguments": arguments} | ({"name": members.pop("name")} if "name" in members else {})
    return {"index": index, "function": function, **members}


TEXT = (
    chunk(choice({"role": "assistant", "content": "", "refusal": None}), system_fingerprint="fp"),
    chunk(choice({"content": "Hel"}), usage=None),
    chunk(choice({"content": "lo"}), service_tier="default", obfuscation="xyz"),
    chunk(choice({}, finish="stop")),
    chunk(usage=USAGE),
)


def test_text_is_joined_and_the_members_of_an_answer_are_all_there() -> None:
    assert assembled(*TEXT) == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 7,
        "model": "m",
        "system_fingerprint": "fp",
        "service_tier": "default",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": USAGE,
    }


def test_usage_that_did_not_go_out_is_what_the_upstream_reported() -> None:
    usage = Usage(1, 2, 0, 1)
    assert assembled(*TEXT[:-1])["choices"] == assembled(*TEXT)["choices"]
    assert "usage" not in assembled(*TEXT[:-1])
    found = assembled(*TEXT[:-1], usage=usage)["usage"]
    assert (found["total_tokens"], found["completion_tokens_details"]["reasoning_tokens"]) == (3, 1)
    assert assembled(*TEXT, usage=Usage(9, 9))["usage"] == USAGE


def test_tool_calls_are_joined_by_their_index() -> None:
    message = assembled(
        chunk(choice({"role": "assistant", "content": None})),
        chunk(choice({"tool_calls": [call(0, "", id="call_1", type="function", name="f")]})),
        chunk(choice({"tool_calls": [call(0, '{"a"')]})),
        chunk(choice({"tool_calls": [call(1, "{}", id="call_2", type="function", name="g"), call(0, ":1}")]})),
        chunk(choice({}, finish="tool_calls")),
    )["choices"][0]["message"]
    assert message == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "tool_calls": [
            {"function": {"arguments": '{"a":1}', "name": "f"}, "id": "call_1", "type": "function"},
            {"function": {"arguments": "{}", "name": "g"}, "id": "call_2", "type": "function"},
        ],
    }


def test_choices_stand_in_order_with_refusals_reasoning_and_log_probabilities() -> None:
    token = {"token": "a", "logprob": -1.0, "bytes": [97], "top_logprobs": []}
    whole = assembled(
        chunk(choice({"role": "assistant", "content": ""}, 1), choice({"role": "assistant", "content": ""}, 0)),
        chunk(choice({"content": "a"}, 0, logprobs={"content": [token], "refusal": None})),
        chunk(choice({"refusal": "I "}, 1), choice({"content": "a"}, 0, logprobs={"content": [token]})),
        chunk(choice({"refusal": "won't."}, 1), choice({"reasoning_content": "hm"}, 0)),
        chunk(choice({}, 1, "stop"), choice({}, 0, "length", content_filter_results={"hate": False})),
    )
    first, second = whole["choices"]
    assert (first["index"], first["message"]["content"], first["finish_reason"]) == (0, "aa", "length")
    assert first["message"]["reasoning_content"] == "hm"
    assert first["logprobs"]["content"] == [token, token]
    assert first["content_filter_results"] == {"hate": False}
    assert (second["message"]["refusal"], second["finish_reason"], second["logprobs"]) == ("I won't.", "stop", None)


def test_the_official_sdk_makes_the_same_of_a_stream() -> None:
    state = ChatCompletionStreamState()
    for one in TEXT:
        state.handle_chunk(ChatCompletionChunk.model_validate(one))
    theirs, ours = state.get_final_completion().to_dict(), ChatCompletion.model_validate(assembled(*TEXT)).to_dict()
    for name in ("id", "object", "created", "model", "usage"):
        assert theirs[name] == ours[name]
    for whole in (theirs, ours):
        found: Any = whole["choices"]
        assert (found[0]["message"]["content"], found[0]["finish_reason"]) == ("Hello", "stop")


@pytest.mark.parametrize(
    "data",
    [
        b"data: {\n\n",
        b'data: {"choices":[{"delta":{}}]}\n\n',
        b'data: {"choices":[1]}\n\n',
        b'data: {"choices":[{"index":0,"delta":[]}]}\n\n',
        b'data: {"choices":[{"index":[],"delta":{}}]}\n\n',
        events(chunk(choice({"content": "x" * 10_001}))),
        events(chunk(choice({"annotations": ["x" * 10_001]}))),
        events(*(chunk(choice({f"member-{number}": "x"})) for number in range(200))),
    ],
)
def test_what_cannot_be_read_or_is_too_much_is_given_up(data: bytes) -> None:
    assembly = Assembly(10_000)
    assembly.note(events(TEXT[0]))
    assembly.note(data)
    assert assembly.failed
    assembly.note(events(TEXT[1]))
    assert assembly.failed


def test_many_small_pieces_of_text_are_within_the_bound_of_the_whole() -> None:
    pieces = [chunk(choice({"content": "x"}, finish=None)) for _ in range(9000)]
    assert assembled(TEXT[0], *pieces)["choices"][0]["message"]["content"] == "x" * 9000
