"""openai-python against a running Penstock: what an application sees when it changes the base URL and nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from support.guide import GUIDE
from support.serving import Served
from support.upstreams import ThreadedUpstream

QUESTION: Any = [{"role": "user", "content": "What is Penstock?"}]


@pytest.fixture
def client(served: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=served.base_url, api_key=served.key, max_retries=0) as client:
        yield client


def check_completion(answer: ChatCompletion) -> None:
    """An answer that an application can use."""
    choice = answer.choices[0]
    assert (answer.object, choice.index, choice.message.role) == ("chat.completion", 0, "assistant")
    assert choice.message.content
    assert choice.finish_reason in ("stop", "length")
    assert choice.message.tool_calls is None
    assert isinstance(answer.created, int)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 0
    assert answer.usage.completion_tokens > 0
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def check_chunks(chunks: list[ChatCompletionChunk], usage_asked: bool) -> None:
    """A stream that an application can use."""
    assert len({(chunk.id, chunk.created, chunk.model, chunk.object) for chunk in chunks}) == 1
    if usage_asked:
        last = chunks.pop()
        assert last.choices == []
        assert last.usage is not None
        assert last.usage.total_tokens > 0
    assert all(chunk.usage is None for chunk in chunks)
    choices = [chunk.choices[0] for chunk in chunks]
    assert choices[0].delta.role == "assistant"
    assert all(choice.delta.role is None for choice in choices[1:])
    assert "".join(choice.delta.content or "" for choice in choices)
    assert [choice.finish_reason for choice in choices[:-1]] == [None] * (len(choices) - 1)
    assert choices[-1].finish_reason in ("stop", "length")


def test_the_guides_minimal_request_works_unchanged(served: Served) -> None:
    response = httpx.post(
        f"{served.base_url}/chat/completions", json=GUIDE, headers=served.headers, timeout=30, trust_env=False
    )
    assert response.status_code == 200, response.text
    data = response.json()
    assert data.keys() >= {"id", "object", "created", "model", "choices", "usage"}
    assert data["choices"][0]["finish_reason"] in ("stop", "length")
    assert data["usage"].keys() >= {"prompt_tokens", "completion_tokens", "total_tokens"}


def test_create_answers_the_guides_request(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(**GUIDE)
    check_completion(answer)
    assert answer._request_id


@pytest.mark.parametrize("usage_asked", [True, False])
def test_create_streams(client: openai.OpenAI, usage_asked: bool) -> None:
    extra: dict[str, Any] = {"stream_options": {"include_usage": True}} if usage_asked else {}
    with client.chat.completions.create(**(GUIDE | {"stream": True} | extra)) as stream:
        check_chunks(list(stream), usage_asked)


def test_the_stream_helper_assembles_the_answer(client: openai.OpenAI) -> None:
    settings: dict[str, Any] = {"model": "gpt-5.4", "messages": QUESTION, "max_tokens": 400, "temperature": 0}
    with client.chat.completions.stream(**settings) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        completion = stream.get_final_completion()
    assert completion.choices[0].message.content == "".join(deltas) != ""
    assert completion.choices[0].message.role == "assistant"
    assert completion.choices[0].finish_reason == "stop"


def test_the_asynchronous_client_creates_and_streams(served: Served) -> None:
    async def run() -> None:
        async with openai.AsyncOpenAI(base_url=served.base_url, api_key=served.key, max_retries=0) as client:
            check_completion(await client.chat.completions.create(**GUIDE))
            stream = await client.chat.completions.create(**(GUIDE | {"stream": True}))
            check_chunks([chunk async for chunk in stream], usage_asked=False)
            settings = {"model": "gpt-5.4", "messages": QUESTION, "max_tokens": 400, "temperature": 0}
            async with client.chat.completions.stream(**settings) as helper:
                assert (await helper.get_final_completion()).choices[0].message.content

    asyncio.run(run())


def test_a_raw_response_has_the_headers_that_are_promised(client: openai.OpenAI) -> None:
    first, second = (client.chat.completions.with_raw_response.create(**GUIDE) for _ in range(2))
    check_completion(first.parse())
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    assert int(first.headers["openai-processing-ms"]) >= 0
    assert first.headers["openai-version"] == "2020-10-01"
    assert first.headers["x-penstock-target"]
    assert first.headers["content-type"].startswith("application/json")


def test_the_answer_names_the_model_that_answered(strict: Served, demo: Served) -> None:
    models = []
    for served in (strict, demo):
        with openai.OpenAI(base_url=served.base_url, api_key=served.key, max_retries=0) as client:
            models.append(client.chat.completions.create(**GUIDE).model)
    assert models[0] == "gpt-5.4-2026-03-05"
    assert models[1] != "gpt-5.4"


def test_models_are_listed_and_retrieved(client: openai.OpenAI) -> None:
    assert "gpt-5.4" in [model.id for model in client.models.list()]
    assert client.models.retrieve("gpt-5.4").object == "model"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no-such-model")


@pytest.mark.parametrize("stream", [False, True])
def test_a_wrong_key_is_an_authentication_error(served: Served, stream: bool) -> None:
    with (
        openai.OpenAI(base_url=served.base_url, api_key="sk-wrong-0123456789", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        client.chat.completions.create(**(GUIDE | {"stream": stream}))
    error = caught.value
    assert (error.status_code, error.type, error.code) == (401, "authentication_error", "invalid_api_key")
    assert error.request_id
    assert "sk-wrong" not in error.message


def test_an_unknown_model_is_a_not_found_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="does not exist") as caught:
        client.chat.completions.create(**(GUIDE | {"model": "no-such-model"}))
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"temperature": 3}, "temperature"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "banana", "content": "x"}]}, "messages[0].role"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 0}, "n"),
    ],
)
def test_a_wrong_request_is_a_bad_request_error(
    client: openai.OpenAI, change: dict[str, Any], param: str, stream: bool
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**(GUIDE | change | {"stream": stream}))
    assert (caught.value.type, caught.value.param) == ("invalid_request_error", param)


def test_stop_ends_the_built_in_models_answer(demo: Served) -> None:
    with openai.OpenAI(base_url=demo.base_url, api_key=demo.key, max_retries=0) as client:
        whole = client.chat.completions.create(**(GUIDE | {"temperature": 0})).choices[0].message.content or ""
        stop = whole.split()[2]
        cut = client.chat.completions.create(**(GUIDE | {"temperature": 0, "stop": stop})).choices[0]
    assert cut.message.content == whole[: whole.index(stop)]
    assert cut.finish_reason == "stop"


def test_the_upstreams_own_refusal_reaches_the_caller_unchanged(strict: Served) -> None:
    with (
        openai.OpenAI(base_url=strict.base_url, api_key=strict.key, max_retries=0) as client,
        pytest.raises(openai.BadRequestError, match="Only the default") as caught,
    ):
        client.chat.completions.create(**(GUIDE | {"reasoning_effort": "low"}))
    assert (caught.value.param, caught.value.code) == ("temperature", "unsupported_value")


@pytest.fixture
def scripted_client(scripted: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=scripted.base_url, api_key=scripted.key, max_retries=0) as client:
        yield client


@pytest.mark.parametrize("stream", [False, True])
def test_an_upstreams_429_is_a_rate_limit_error(scripted_client: openai.OpenAI, stream: bool) -> None:
    with pytest.raises(openai.RateLimitError) as caught:
        scripted_client.chat.completions.create(model="limited", messages=QUESTION, stream=stream)
    assert (caught.value.type, caught.value.code) == ("rate_limit_error", "rate_limit_exceeded")
    assert caught.value.response.headers["retry-after"] == "3"
    assert "x-should-retry" not in caught.value.response.headers


def test_an_upstreams_500_is_a_502_of_the_gateway(scripted_client: openai.OpenAI) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        scripted_client.chat.completions.create(model="broken", messages=QUESTION)
    assert (caught.value.status_code, caught.value.type) == (502, "server_error")


def test_an_error_in_the_stream_is_raised_while_reading(scripted_client: openai.OpenAI) -> None:
    stream = scripted_client.chat.completions.create(model="dies", messages=QUESTION, stream=True)
    texts = (chunk.choices[0].delta.content for chunk in stream)
    assert "first" in texts  # reads up to it
    with pytest.raises(openai.APIError) as caught:
        next(texts)
    assert not isinstance(caught.value, openai.APIConnectionError)


def test_a_closed_stream_frees_the_upstream(
    scripted_upstream: ThreadedUpstream, scripted_client: openai.OpenAI
) -> None:
    before = len(scripted_upstream.seen)
    stream = scripted_client.chat.completions.create(model="gated", messages=QUESTION, stream=True)
    assert any(chunk.choices[0].delta.content == "first" for chunk in stream if chunk.choices)
    hung_up_at = time.monotonic()
    stream.close()
    seen = scripted_upstream.ended(before)
    assert seen.hung_up
    assert seen.ended_at is not None
    assert seen.ended_at - hung_up_at < 0.25
