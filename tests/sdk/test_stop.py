"""What openai-python makes of stop strings against a model that refuses them: the upstream is strict about gpt-5.4."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from penstock.fake_upstream.shapes import SENTENCE
from support.serving import serving
from support.upstreams import threaded_upstream

QUESTION: Any = [{"role": "user", "content": "What is Penstock?"}]
STOP = "every question"
TEXT = SENTENCE.partition(STOP)[0]


CONFIG = """
[providers.openai]
type = "openai"
base_url = "{base_url}"
api_key = "sk-upstream"

[models."gpt-5.4"]
targets = [{{ provider = "openai" }}]
"""


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    with (
        threaded_upstream(strict_profile="gpt-5.4") as upstream,
        serving(CONFIG.format(base_url=upstream.base_url)) as served,
        openai.OpenAI(base_url=served.base_url, api_key=served.key, max_retries=0) as client,
    ):
        yield client


def test_a_whole_answer_ends_before_the_stop_string(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="gpt-5.4", messages=QUESTION, stop=[STOP, "\n"], n=2)
    assert [(choice.message.content, choice.finish_reason) for choice in answer.choices] == [(TEXT, "stop")] * 2


def test_a_stream_ends_before_the_stop_string_and_has_its_usage(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="gpt-5.4", messages=QUESTION, stop=STOP, stream=True, n=2, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    texts = ["", ""]
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [TEXT, TEXT]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == -(-2 * len(TEXT + "every question") // 4)


def test_the_helper_for_streams_puts_the_cut_answer_together(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="gpt-5.4", messages=QUESTION, stop=STOP, n=2) as stream:
        for _ in stream:
            pass
        answer = stream.get_final_completion()
    assert [(choice.message.content, choice.finish_reason) for choice in answer.choices] == [(TEXT, "stop")] * 2
