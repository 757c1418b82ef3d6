"""Rows D: the shape of a whole answer, by a hosted and by a local model, and by servers that leave half of it out."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from openai.types.chat import ChatCompletion

from penstock.fake_upstream import Answer, FakeUpstream
from penstock.types import Record
from support.callers import DEMO, Caller, text_of
from support.gateway import Answered, gateway, run, to

COUNT = [{"role": "user", "content": "Count to five."}]
DOCUMENTED = {"stop", "length", "tool_calls", "content_filter", "function_call"}


def given(body: Any, **members: Any) -> tuple[Answered, Record]:
    """What the caller gets of a provider that answers with this body, and the record of it."""
    found: list[tuple[Answered, Record]] = []

    async def main() -> None:
        said = Answer(body=body if isinstance(body, str) else json.dumps(body))
        async with FakeUpstream(said) as upstream, gateway(upstream.base_url, models={"*": to("fake")}) as running:
            answer = await running.chat(**members)
            found.append((answer, await running.record()))

    run(main())
    return found[0]


def completion(**members: Any) -> dict[str, Any]:
    """A whole answer as OpenAI gives it."""
    message: dict[str, Any] = {"role": "assistant", "content": "Hello there.", "refusal": None, "annotations": []}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    usage = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
    whole = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1_760_000_000, "model": "gpt-5.4-2026-03-05"}
    return {**whole, "choices": [choice], "usage": usage, "service_tier": "default", **members}


def message_of(answer: Any) -> Any:
    return answer["choices"][0]["message"]


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


def test_two_answers_have_two_ids(caller: Caller) -> None:
    assert caller.answer()["id"] != caller.answer()["id"]


def test_a_server_that_leaves_half_of_it_out_is_made_whole() -> None:
    poor = {
        "created": 1_760_000_000.25,
        "choices": [{"message": {"content": "Hello there.", "tool_calls": []}, "finish_reason": "eos"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 3},
        "error": None,
    }
    answer, record = given(poor)
    found = answer.json()
    assert answer.status == 200
    assert found.pop("id").startswith("chatcmpl-")
    whole = completion(model="gpt-5.4")
    del whole["id"], whole["service_tier"], message_of(whole)["annotations"]
    assert found == whole
    assert {type(found[name]) for name in ("created",)} == {int}
    assert record.usage is not None
    assert (record.usage.prompt_tokens, record.usage.completion_tokens) == (9, 3)


def test_a_whole_answer_of_a_provider_comes_through_byte_for_byte() -> None:
    logprobs = {"content": [{"token": "H", "logprob": -0.10, "bytes": [72], "top_logprobs": []}], "refusal": None}
    whole = completion(metadata={"purpose": "test"}, service_tier="priority", system_fingerprint="fp_1", x={"y": 1.50})
    whole["choices"][0]["logprobs"] = logprobs
    body = json.dumps(whole, indent=1)
    answer, _ = given(body, store=True, metadata={"purpose": "test"}, service_tier="fast", logprobs=True)
    assert answer.body == body.encode()


def test_usage_is_whole_numbers_that_add_up(caller: Caller) -> None:
    usage = caller.answer(messages=COUNT)["usage"]
    counts = [usage[name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")]
    assert [type(count) for count in counts] == [int, int, int]
    assert counts[0] > 0 < counts[1]
    assert counts[0] + counts[1] == counts[2]
    for details in ("prompt_tokens_details", "completion_tokens_details"):
        assert {type(count) for count in usage[details].values()} == {int}


def test_an_answer_names_the_model_that_gave_it(hosted: Caller, local: Caller) -> None:
    for caller, model, target in (
        (hosted, "gpt-5.4-2026-03-05", "openai/gpt-5.4"),
        (local, "penstock-demo", f"local/{DEMO}"),
    ):
        response = caller.chat()
        assert response.json()["model"] == model
        assert response.headers["x-penstock-target"] == target
        assert {chunk["model"] for chunk in caller.stream()} == {model}


@pytest.mark.parametrize(
    "content", ["Hello there.", [{"type": "text", "text": "Hello"}, {"type": "text", "text": " there."}]]
)
def test_content_is_a_string_whatever_the_server_makes_of_it(content: Any) -> None:
    whole = completion()
    message_of(whole)["content"] = content
    answer, _ = given(whole)
    assert message_of(answer.json())["content"] == "Hello there."


def test_each_of_several_choices_is_numbered(caller: Caller) -> None:
    answer = caller.answer(n=3, max_completion_tokens=5)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert all(choice["message"]["content"] for choice in answer["choices"])
    streamed = caller.stream(n=3, max_completion_tokens=5)
    assert {choice["index"] for chunk in streamed for choice in chunk["choices"]} == {0, 1, 2}


def test_choices_that_a_server_numbers_alike_are_numbered_by_their_place() -> None:
    whole = completion()
    whole["choices"] *= 3
    answer, _ = given(whole, n=3)
    assert [choice["index"] for choice in answer.json()["choices"]] == [0, 1, 2]


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("limit", [1, 3])
def test_a_limit_is_kept_and_told(caller: Caller, name: str, limit: int) -> None:
    answer = caller.answer(messages=COUNT, **{name: limit})
    assert answer["choices"][0]["finish_reason"] == "length"
    assert 1 <= answer["usage"]["completion_tokens"] <= limit
    finishes = [
        c["finish_reason"] for chunk in caller.stream(messages=COUNT, **{name: limit}) for c in chunk["choices"]
    ]
    assert [finish for finish in finishes if finish] == ["length"]


def test_a_stop_ends_the_answer_before_it(caller: Caller) -> None:
    whole = text_of(caller.answer(messages=COUNT, temperature=0))
    stop = whole[3:5]
    for answer in (
        caller.answer(messages=COUNT, temperature=0, stop=stop),
        caller.stream(messages=COUNT, temperature=0, stop=[stop, "never"]),
    ):
        assert text_of(answer) == whole.partition(stop)[0]
        assert finishes(answer) == ["stop"]


def finishes(answer: Any) -> list[str]:
    choices = answer["choices"] if isinstance(answer, dict) else [c for chunk in answer for c in chunk["choices"]]
    return [choice["finish_reason"] for choice in choices if choice["finish_reason"]]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("stop", "stop"),
        ("eos", "stop"),
        ("max_tokens", "length"),
        ("tool_use", "tool_calls"),
        ("SAFETY", "content_filter"),
    ],
)
def test_an_end_is_told_in_one_of_the_five_documented_words(said: str, told: str, stream: bool) -> None:
    async def main() -> None:
        async with FakeUpstream(Answer(finish_reason=said)) as upstream, gateway(upstream.base_url) as running:
            answer = await running.chat(stream=stream)
            assert answer.status == 200
            if stream:
                *events, done = answer.body.decode().removesuffix("\n\n").split("\n\n")
                assert done == "data: [DONE]"
                found = finishes([json.loads(event.removeprefix("data: ")) for event in events])
            else:
                found = finishes(answer.json())
            assert found == [told]
            assert told in DOCUMENTED

    run(main())


@pytest.mark.parametrize("said", ["abort", "error"])
def test_an_answer_that_its_server_gave_up_is_no_success(said: str) -> None:
    whole = completion()
    whole["choices"][0]["finish_reason"] = said
    answer, record = given(whole)
    assert (answer.status, answer.error["type"]) == (502, "server_error")
    assert record.attempts[0].outcome == "incomplete"


def test_the_tier_that_was_used_is_told(caller: Caller) -> None:
    assert caller.answer(service_tier="auto")["service_tier"] == "default"


def test_metadata_comes_back_with_what_is_stored(local: Caller) -> None:
    metadata = {"purpose": "test"}
    assert local.answer(store=True, metadata=metadata)["metadata"] == metadata
    assert "metadata" not in local.answer()


@pytest.mark.parametrize("settings", [{"temperature": 0, "seed": 7}, {"temperature": 1, "seed": 7}])
def test_a_seed_repeats_the_answer(caller: Caller, settings: dict[str, Any]) -> None:
    first, second = (caller.answer(messages=COUNT, max_completion_tokens=12, **settings) for _ in range(2))
    assert text_of(first) == text_of(second)
    assert first["system_fingerprint"] == second["system_fingerprint"]


@pytest.mark.parametrize("stream", [False, True])
def test_an_error_with_status_200_is_no_success(stream: bool) -> None:
    answer, record = given({"error": {"message": "lost", "type": "server_error"}}, stream=stream)
    assert (answer.status, answer.error["type"]) == (502, "server_error")
    assert record.status == 502


def test_a_refusal_in_an_answer_is_passed_on() -> None:
    whole = completion()
    message_of(whole).update(content=None, refusal="I will not.")
    answer, _ = given(whole)
    assert message_of(answer.json()) == message_of(whole)
