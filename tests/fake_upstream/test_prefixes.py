"""Conversations that end in the assistant's own words, as the fake upstream takes them."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from penstock.fake_upstream import Answer, Chunk
from support.upstreams import threaded_upstream


def ask(answer: Answer, *said: Any) -> httpx.Response:
    messages = [{"role": "user", "content": "Say it."}, *({"role": "assistant", "content": one} for one in said)]
    with threaded_upstream(answer) as upstream:
        return httpx.post(f"{upstream.base_url}/chat/completions", json={"model": "m", "messages": messages})


def content(answer: Answer, *said: Any) -> Any:
    return ask(answer, *said).json()["choices"][0]["message"]["content"]


@pytest.mark.parametrize("prefix", ["One ", [{"type": "text", "text": "One "}]])
def test_the_rest_of_the_answer_comes(prefix: Any) -> None:
    assert content(Answer(content="One two three.", prefix="continue"), prefix) == "two three."


@pytest.mark.parametrize(("size", "left"), [(0, "One two"), (2, "e two"), (4, "two"), (7, "")])
def test_chunks_are_shortened_as_well(size: int, left: str) -> None:
    answer = Answer(chunks=("One ", Chunk(text="tw"), "o"), prefix="continue")
    assert content(answer, "One two"[:size]) == left


def test_an_answer_that_does_not_begin_so_is_given_whole() -> None:
    assert content(Answer(content="One two.", prefix="continue"), "Eins ") == "One two."


def test_a_prefix_may_be_refused_and_is_ignored_by_default() -> None:
    refused = ask(Answer(prefix="refuse"), "One ")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "messages")
    assert ask(Answer(prefix="refuse")).status_code == 200
    assert content(Answer(content="One two."), "One ") == "One two."
