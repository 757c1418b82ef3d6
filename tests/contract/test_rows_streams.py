"""Rows I: streams of a hosted and of a local model have one form, whatever a provider's own is like."""

from __future__ import annotations

import json
from typing import Any

import pytest

from penstock.fake_upstream import Answer, Chunk
from support.callers import Caller, error_of, text_of
from support.chat_bodies import function_tool
from support.relaying import FIGURES, NAMES, joined_calls, relayed, step, streamed

USAGE: dict[str, Any] = {"stream_options": {"include_usage": True}}
EXACT: dict[str, Any] = {"temperature": 0, "seed": 7}
ROLE = step({"role": "assistant", "content": ""})
STOP = step({}, "stop")


def test_the_head_of_a_stream_says_that_it_is_one(caller: Caller) -> None:
    response = caller.chat(stream=True)
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert "content-length" not in response.headers


@pytest.mark.parametrize("members", [{}, USAGE])
def test_a_stream_is_plain_events_and_ends_in_done(caller: Caller, members: dict[str, Any]) -> None:
    text = caller.chat(stream=True, **members).text
    assert text.endswith("\n\ndata: [DONE]\n\n")
    assert text.count("[DONE]") == 1
    for event in text.removesuffix("\n\n").split("\n\n"):
        assert event.startswith("data: ")
        assert "\n" not in event


@pytest.mark.parametrize("members", [{}, USAGE, {"n": 2}])
def test_every_chunk_is_whole_and_has_the_names_of_the_first(caller: Caller, members: dict[str, Any]) -> None:
    chunks = caller.stream(**members)
    assert all(chunk.keys() >= {"id", "object", "created", "model", "choices"} for chunk in chunks)
    ((identity, kind, created, model),) = {
        (chunk["id"], chunk["object"], chunk["created"], chunk["model"]) for chunk in chunks
    }
    assert identity.startswith("chatcmpl-")
    assert (kind, type(created), type(model)) == ("chat.completion.chunk", int, str)


def test_a_choice_begins_with_its_role_and_ends_with_its_finish(caller: Caller) -> None:
    first, *steps, last = [choice for chunk in caller.stream() for choice in chunk["choices"]]
    assert first["delta"]["role"] == "assistant"
    assert not first["delta"]["content"]
    assert all(type(choice["delta"]) is dict and "role" not in choice["delta"] for choice in (*steps, last))
    assert [choice["finish_reason"] for choice in (first, *steps)] == [None] * (1 + len(steps))
    assert (last["delta"], last["finish_reason"]) == ({}, "stop")


def test_a_stream_says_what_the_whole_answer_says(caller: Caller) -> None:
    whole = text_of(caller.answer(**EXACT))
    assert whole
    assert text_of(caller.stream(**EXACT)) == whole


def test_usage_that_was_asked_for_is_one_last_chunk(caller: Caller) -> None:
    *chunks, last = caller.stream(**USAGE)
    assert last["choices"] == []
    usage = last["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 0
    assert all(chunk["usage"] is None and chunk["choices"] for chunk in chunks)


@pytest.mark.parametrize("members", [{}, {"stream_options": {"include_usage": False}}, {"stream_options": None}])
def test_usage_that_was_not_asked_for_is_nowhere(caller: Caller, members: dict[str, Any]) -> None:
    chunks = caller.stream(**members)
    assert all(chunk["choices"] and chunk.get("usage") is None for chunk in chunks)


def test_several_choices_begin_in_order_and_end_once_each(caller: Caller) -> None:
    chunks = caller.stream(n=3, **USAGE)
    assert [chunk["usage"] for chunk in chunks if chunk["usage"]] == [chunks[-1]["usage"]]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    begun = [choice["index"] for choice in choices if "role" in choice["delta"]]
    assert begun == [0, 1, 2]
    assert list(dict.fromkeys(choice["index"] for choice in choices)) == [0, 1, 2]
    assert sorted(choice["index"] for choice in choices if choice["finish_reason"]) == [0, 1, 2]
    assert all(text_of(chunks, index) for index in range(3))


@pytest.mark.parametrize("members", [{"temperature": 3}, {"n": 0}, {"stop": list("abcde")}, {"messages": []}])
def test_a_refusal_is_json_with_its_status_where_a_stream_was_asked_for(
    caller: Caller, members: dict[str, Any]
) -> None:
    assert error_of(caller.chat(stream=True, **members), 400)["param"] == next(iter(members))


@pytest.mark.parametrize("accept", ["application/json", "*/*", "text/html"])
def test_a_stream_is_a_stream_whatever_the_client_says_that_it_accepts(caller: Caller, accept: str) -> None:
    response = caller.post(json.dumps(caller.body(stream=True)).encode(), accept=accept)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.text.endswith("data: [DONE]\n\n")


def test_obfuscation_is_the_providers(caller: Caller) -> None:
    for wanted in (True, False):
        chunks = caller.stream(stream_options={"include_obfuscation": wanted})
        assert all("obfuscation" not in chunk for chunk in chunks)
    told = streamed(ROLE, step({"content": "a"}), STOP, obfuscation="x7Qp")
    assert [chunk["obfuscation"] for chunk in relayed(told, stream=True).chunks] == ["x7Qp"] * 3
    sent = relayed(told, stream=True, stream_options={"include_obfuscation": False}).sent
    assert sent["stream_options"] == {"include_obfuscation": False, "include_usage": True}


# -- a provider's stream


def test_text_of_many_bytes_comes_through_whole_however_it_was_cut() -> None:
    text = "é🌍漢\u2028 'ñ' \U0001f9d1\u200d\U0001f680"
    told = Answer(chunks=tuple(text), write=(1,), framing="chunked", chunk_sizes=(3, 1, 2))
    assert text_of(relayed(told, stream=True).chunks) == text


def test_an_empty_answer_has_a_role_and_a_finish() -> None:
    for told in (Answer(chunks=()), Answer(content="")):
        role, finish = relayed(told, stream=True).choices
        assert (role["delta"]["role"], role["finish_reason"]) == ("assistant", None)
        assert (finish["delta"], finish["finish_reason"]) == ({}, "stop")


def test_chunks_of_another_name_get_the_first_ones() -> None:
    chunks = [
        {"id": "a", "created": 1.5, "object": "chat.completion.chunk", "model": "m", "choices": [ROLE]},
        {"id": "b", "created": 2, "model": "n", "choices": [step({"content": "x"})]},
        {"object": "chat.completion", "choices": [STOP]},
        {"id": "c", "created": 3, "choices": [], "usage": FIGURES},
    ]
    told = Answer(
        chunks=tuple(Chunk(data=json.dumps(chunk)) for chunk in chunks),
        role=False,
        finish_reason="",
        report_usage="never",
    )
    found = relayed(told, stream=True, **USAGE).chunks
    names = {"id": "a", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    assert [{name: chunk[name] for name in names} for chunk in found] == [names] * 4
    assert [chunk["usage"] for chunk in found] == [None, None, None, FIGURES]


@pytest.mark.parametrize(
    "deltas",
    [
        [{"content": "a"}, {"content": "b"}],
        [{"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}],
        [{"role": "", "content": "a"}, {"role": "", "content": "b"}],
        [{"role": "assistant"}, None, {"content": "ab"}],
    ],
)
def test_roles_and_deltas_are_mended(deltas: list[Any]) -> None:
    first, *others = relayed(streamed(*map(step, deltas), step({}, "stop"), STOP), stream=True).choices
    assert first["delta"]["role"] == "assistant"
    assert all(type(choice["delta"]) is dict and "role" not in choice["delta"] for choice in others)
    assert [choice["finish_reason"] for choice in (first, *others) if choice["finish_reason"]] == ["stop"]
    assert "".join(choice["delta"].get("content", "") for choice in (first, *others)) == "ab"


def test_a_stream_whose_usage_comes_too_early_or_without_choices_ends_in_usage() -> None:
    early = {**NAMES, "object": "chat.completion.chunk", "usage": FIGURES}
    role = {**early, "usage": None, "choices": [ROLE]}
    stop = {**early, "usage": None, "choices": [STOP]}
    told = Answer(
        chunks=tuple(Chunk(data=json.dumps(chunk)) for chunk in (role, early, stop)),
        role=False,
        finish_reason="",
        report_usage="never",
    )
    assert relayed(told, stream=True, **USAGE).chunks == [role, stop, {**early, "choices": []}]
    assert relayed(told, stream=True).chunks == [role, stop]


def delta(*calls: dict[str, Any]) -> dict[str, Any]:
    return step({"tool_calls": list(calls)})


def begun(index: int, identity: str, name: str, **members: Any) -> dict[str, Any]:
    return {"index": index, "id": identity, "type": "function", "function": {"name": name, "arguments": ""}, **members}


def more(index: int, arguments: str) -> dict[str, Any]:
    return {"index": index, "function": {"arguments": arguments}}


CALLED = step({}, "tool_calls")
IN_ORDER = [
    step({"role": "assistant", "content": None}),
    delta(begun(0, "a", "f")),
    delta(more(0, '{"x":')),
    delta(more(0, '"ü"}')),
    delta(begun(1, "b", "g")),
    delta(more(1, "{}")),
    CALLED,
]


def numbered(indexes: dict[int, int]) -> list[dict[str, Any]]:
    """The same calls under other indexes, or none."""
    steps = json.loads(json.dumps(IN_ORDER))
    for call in (call for choice in steps for call in choice["delta"].get("tool_calls", [])):
        index = indexes.get(call.pop("index"))
        call.update({} if index is None else {"index": index})
    assert isinstance(steps, list)
    return steps


def test_calls_in_order_come_through_as_they_are() -> None:
    assert relayed(streamed(*IN_ORDER), stream=True, tools=[function_tool()]).choices == IN_ORDER


@pytest.mark.parametrize(
    "strange",
    [
        pytest.param(
            [
                IN_ORDER[0],
                delta(begun(0, "a", "f")),
                *(delta({**begun(0, "a", "f"), **more(0, part)}) for part in ('{"x":', '"ü"}')),
                delta(begun(1, "b", "g")),
                delta({**begun(1, "b", "g"), "function": {"name": "g", "arguments": "{}"}}),
                CALLED,
            ],
            id="I16-repeated",
        ),
        pytest.param(numbered({0: 1, 1: 2}), id="I17-from-1"),
        pytest.param(numbered({}), id="I17-none"),
        pytest.param(
            [*IN_ORDER[:4], delta({"index": 0}), *IN_ORDER[4:]],
            id="I18-no-function",
        ),
    ],
)
def test_calls_in_any_other_order_are_brought_into_it(strange: list[dict[str, Any]]) -> None:
    found = relayed(streamed(*strange), stream=True, tools=[function_tool()]).choices
    assert joined_calls(found) == [
        {"id": "a", "type": "function", "name": "f", "arguments": '{"x":"ü"}'},
        {"id": "b", "type": "function", "name": "g", "arguments": "{}"},
    ]
    assert [choice["finish_reason"] for choice in found if choice["finish_reason"]] == ["tool_calls"]


def test_log_probabilities_come_with_their_text(local: Caller) -> None:
    chunks = local.stream(logprobs=True, top_logprobs=2, **EXACT)
    tokens = [
        token
        for chunk in chunks
        for choice in chunk["choices"]
        for token in (choice["logprobs"] or {"content": []})["content"]
    ]
    assert "".join(token["token"] for token in tokens) == text_of(chunks)
    assert all(token["logprob"] <= 0 and len(token["top_logprobs"]) <= 2 for token in tokens)
    told = {"content": [{"token": "a", "logprob": -0.25, "bytes": [97], "top_logprobs": []}], "refusal": None}
    steps = [ROLE, {**step({"content": "a"}), "logprobs": told}, STOP]
    assert relayed(streamed(*steps), stream=True, logprobs=True).choices == steps


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_reasoning_is_told_apart_from_the_answer(name: str) -> None:
    told = streamed(ROLE, step({name: "Hm."}), step({"content": "Yes."}), STOP)
    found = relayed(told, stream=True)
    assert [choice["delta"].get("reasoning_content") for choice in found.choices] == [None, "Hm.", None, None]
    assert text_of(found.chunks) == "Yes."
