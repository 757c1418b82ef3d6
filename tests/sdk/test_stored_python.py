"""openai-python on stored completions and repeats: its own types, pages and headers, against real servers."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionStoreMessage

from support.serving import Served

ASKED: dict[str, Any] = {
    "model": "gpt-5.4",
    "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say hello."}],
    "max_tokens": 400,
}


@pytest.fixture
def client(served: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=served.base_url, api_key=served.key, max_retries=0) as client:
        yield client


@pytest.fixture
def mark() -> dict[str, str]:
    """Metadata of one test's completions alone: the servers are shared."""
    return {"mark": uuid.uuid4().hex}


def test_a_stored_completion_is_retrieved_updated_and_deleted(client: openai.OpenAI, mark: dict[str, str]) -> None:
    made = client.chat.completions.create(**ASKED, store=True, metadata=mark)
    assert client.chat.completions.retrieve(made.id).to_dict() == made.to_dict()
    changed = mark | {"reviewed": "yes"}
    updated = client.chat.completions.update(made.id, metadata=changed)
    assert updated.to_dict() == made.to_dict() | {"metadata": changed}
    deleted = client.chat.completions.delete(made.id)
    assert (deleted.id, deleted.deleted, deleted.object) == (made.id, True, "chat.completion.deleted")
    for again in (client.chat.completions.retrieve, client.chat.completions.delete):
        with pytest.raises(openai.NotFoundError):
            again(made.id)


@pytest.mark.parametrize("usage_asked", [False, True])
def test_a_stored_stream_is_retrieved_whole(client: openai.OpenAI, mark: dict[str, str], usage_asked: bool) -> None:
    extra: dict[str, Any] = {"stream_options": {"include_usage": True}} if usage_asked else {}
    with client.chat.completions.stream(**ASKED, store=True, metadata=mark, **extra) as stream:
        made = stream.get_final_completion()
    found = client.chat.completions.retrieve(made.id)
    assert (found.id, found.object, found.model, found.created) == (made.id, made.object, made.model, made.created)
    assert found.choices[0].message.content == made.choices[0].message.content
    assert found.choices[0].finish_reason == made.choices[0].finish_reason
    assert found.usage is not None
    assert found.usage.completion_tokens > 0
    if usage_asked:
        assert made.usage is not None
        assert found.usage.to_dict() == made.usage.to_dict()


def test_completions_are_listed_page_by_page(client: openai.OpenAI, mark: dict[str, str]) -> None:
    made = [client.chat.completions.create(**ASKED, store=True, metadata=mark).id for _ in range(5)]
    page = client.chat.completions.list(metadata=mark, limit=2)
    assert [one.id for one in page.data] == made[:2]
    assert page.has_next_page()
    assert [one.id for one in client.chat.completions.list(metadata=mark, limit=2)] == made
    assert [one.id for one in client.chat.completions.list(metadata=mark, order="desc", after=made[3])] == made[2::-1]
    assert list(client.chat.completions.list(metadata=mark, model="another")) == []


def test_the_messages_of_a_stored_completion_are_listed(client: openai.OpenAI, mark: dict[str, str]) -> None:
    made = client.chat.completions.create(**ASKED, store=True, metadata=mark)
    messages = list(client.chat.completions.messages.list(made.id, limit=1))
    assert all(isinstance(message, ChatCompletionStoreMessage) for message in messages)
    assert [(message.role, message.content) for message in messages] == [
        ("system", "Be brief."),
        ("user", "Say hello."),
    ]
    assert len({message.id for message in messages}) == 2
    assert messages[0].content_parts is None


def test_a_repeat_with_the_same_key_is_the_same_answer(client: openai.OpenAI) -> None:
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    first, second = (client.chat.completions.with_raw_response.create(**ASKED, extra_headers=headers) for _ in range(2))
    assert first.parse().to_dict() == second.parse().to_dict()
    assert (first.headers.get("x-penstock-replayed"), second.headers["x-penstock-replayed"]) == (None, "true")
    with pytest.raises(openai.ConflictError) as raised:
        client.chat.completions.create(**ASKED | {"max_tokens": 399}, extra_headers=headers)
    assert raised.value.code == "idempotency_key_reused"


def test_a_repeated_stream_is_the_same_chunks(client: openai.OpenAI) -> None:
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    first, second = (
        [chunk.to_dict() for chunk in client.chat.completions.create(**ASKED, stream=True, extra_headers=headers)]
        for _ in range(2)
    )
    assert first == second != []
