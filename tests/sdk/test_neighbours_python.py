"""openai-python with the endpoints beside chat completions: embeddings, legacy completions and responses."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from sdk.neighbours import relayed as relayed  # a fixture
from sdk.neighbours import upstream as upstream
from support.serving import Served
from support.upstreams import ThreadedUpstream


@pytest.fixture
def client(relayed: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=relayed.base_url, api_key=relayed.key, max_retries=0) as client:
        yield client


@pytest.mark.parametrize("given", ["Hello", ["Hello", "you"], [1, 2, 3], [[1, 2], [3]]])
def test_embeddings_of_texts_and_of_tokens_come_in_order(client: openai.OpenAI, given: Any) -> None:
    answer = client.embeddings.create(model="m", input=given)
    count = len(given) if isinstance(given, list) and not isinstance(given[0], int) else 1
    assert [one.index for one in answer.data] == list(range(count))
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 0
    alone = client.embeddings.create(model="m", input=given[-1] if count > 1 else given)
    assert answer.data[-1].embedding == alone.data[0].embedding


def test_embeddings_are_asked_for_as_base64_and_decoded(client: openai.OpenAI, upstream: ThreadedUpstream) -> None:
    decoded = client.embeddings.create(model="m", input="Hello", dimensions=16)
    assert upstream.seen[-1].json()["encoding_format"] == "base64"
    plain = client.embeddings.create(model="m", input="Hello", dimensions=16, encoding_format="float")
    assert decoded.data[0].embedding == plain.data[0].embedding
    assert len(plain.data[0].embedding) == 16
    raw = client.embeddings.with_raw_response.create(
        model="m", input="Hello", dimensions=16, encoding_format="base64"
    ).http_response.json()
    packed = base64.b64decode(raw["data"][0]["embedding"], validate=True)
    assert list(struct.unpack("<16f", packed)) == plain.data[0].embedding


@pytest.mark.parametrize(
    ("given", "code"), [("", "empty_string"), ([], "empty_array"), (["x"] * 2049, "array_above_max_length")]
)
def test_embeddings_of_nothing_or_of_too_much_are_a_bad_request(client: openai.OpenAI, given: Any, code: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="m", input=given)
    assert (caught.value.param, caught.value.code) == ("input", code)


def test_a_legacy_completion_is_a_text_completion(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="m", prompt=["Once", "Twice"], max_tokens=3)
    assert answer.object == "text_completion"
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert {choice.finish_reason for choice in answer.choices} == {"length"}
    assert answer.choices[0].text
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


@pytest.mark.parametrize("usage_asked", [True, False])
def test_a_legacy_completion_streams(client: openai.OpenAI, usage_asked: bool) -> None:
    extra: dict[str, Any] = {"stream_options": {"include_usage": True}} if usage_asked else {}
    chunks = list(client.completions.create(model="m", prompt="Once", stream=True, **extra))
    if usage_asked:
        last = chunks.pop()
        assert last.choices == []
        assert last.usage is not None
    assert all(chunk.usage is None for chunk in chunks)
    assert {chunk.object for chunk in chunks} == {"text_completion"}
    whole = client.completions.create(model="m", prompt="Once")
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_a_response_is_made(client: openai.OpenAI) -> None:
    answer = client.responses.create(model="m", input=[{"role": "user", "content": "Hello"}], store=False)
    assert (answer.object, answer.status) == ("response", "completed")
    assert answer.output_text
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens


def test_a_response_streams_typed_events(client: openai.OpenAI) -> None:
    found = list(client.responses.create(model="m", input="Hello", stream=True))
    assert [event.sequence_number for event in found] == list(range(len(found)))
    last = found[-1]
    assert last.type == "response.completed"
    text = "".join(event.delta for event in found if event.type == "response.output_text.delta")
    assert last.response.output_text == text != ""


def test_the_responses_helper_assembles_the_answer(client: openai.OpenAI) -> None:
    with client.responses.stream(model="m", input="Hello") as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        assert stream.get_final_response().output_text == "".join(deltas) != ""


def test_a_response_that_breaks_off_ends_in_an_error_event(client: openai.OpenAI) -> None:
    found = list(client.responses.create(model="dies", input="Hello", stream=True))
    last = found[-1]
    assert last.type == "error"
    assert last.code == "upstream_failed"
    assert last.message
    assert last.sequence_number == len(found) - 1


def test_a_legacy_completion_that_breaks_off_raises(client: openai.OpenAI) -> None:
    stream = client.completions.create(model="breaks", prompt="Once", stream=True)
    with pytest.raises(openai.APIError, match="'fake'"):
        list(stream)


def test_errors_are_those_that_the_status_means(client: openai.OpenAI, relayed: Served) -> None:
    for call in (
        lambda model: client.embeddings.create(model=model, input="x"),
        lambda model: client.completions.create(model=model, prompt="x", stream=True),
        lambda model: client.responses.create(model=model, input="x", stream=True),
    ):
        with pytest.raises(openai.RateLimitError):
            call("limited")
        with pytest.raises(openai.NotFoundError):
            call("forbidden")
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model="m", input="x", background=True)
    assert caught.value.param == "background"
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve("resp_1")
    with (
        openai.OpenAI(base_url=relayed.base_url, api_key="sk-wrong-0123456789", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.embeddings.create(model="m", input="x")
