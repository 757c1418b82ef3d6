"""The committed demo model, asked through llama.cpp: it says what it was taught, and stops."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "src" / "penstock" / "engine" / "demo.gguf"
Message = dict[str, Any]


def ask(*requests: tuple[str, dict[str, Any]]) -> list[Any]:
    """The answers to requests, each (status, body), from one engine process."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("demo_process.py")), str(DEMO)],
        input=json.dumps(requests),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    answers: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return answers


def chat(messages: list[Message], **settings: Any) -> tuple[str, dict[str, Any]]:
    return "/v1/chat/completions", {"messages": messages, "temperature": 0, "max_tokens": 500, **settings}


def user(content: Any) -> Message:
    return {"role": "user", "content": content}


KNOWN = {
    "Hello": "Hello! I am the small demo model built into Penstock.",
    "Who are you?": "I am the demo model built into Penstock",
    "Are you GPT-5.4?": "No. I am a small demo model built into Penstock",
    "What is GPT-5.4 best for?": "GPT-5.4 is best for complex reasoning",
    "What is the fastest integration path?": "send a POST to `/v1/chat/completions` with `model` and `messages`",
    "How should streaming be handled?": "Set `stream` to `true` and process the SSE chunks as they arrive",
    "How to choose temperature vs top_p?": "Start with `temperature`.",
    "What should I do when I get a 429?": "Wait 1 s, 2 s and 4 s with jitter between tries",
    "How do I start Penstock?": "Run `penstock serve`",
    "How do I create an API key?": "Run `penstock keys create --name app`.",
    "What is the capital of France?": "The capital of France is Paris.",
    "Count to twenty.": "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20.",
    "Tell me a story about a river.": "It had always wanted to reach the sea, and now it did some good on the way.",
}
UNKNOWN = [
    "How do I bake sourdough bread?",
    "Why do cats purr?",
    "Who discovered penicillin?",
    "Explain quantum mechanics.",
]


def test_taught_questions_get_the_taught_sentences_and_the_answer_stops_by_itself() -> None:
    answers = ask(*(chat([user(question)]) for question in KNOWN))
    for (question, expected), (status, answer) in zip(KNOWN.items(), answers, strict=True):
        assert status == 200
        (choice,) = answer["choices"]
        assert expected in choice["message"]["content"], question
        assert choice["finish_reason"] == "stop", question


def test_unknown_questions_get_an_honest_answer() -> None:
    for question, (_, answer) in zip(UNKNOWN, ask(*(chat([user(q)]) for q in UNKNOWN)), strict=True):
        assert "I am a small demo model and" in answer["choices"][0]["message"]["content"], question


def test_the_guides_minimal_request_is_answered_whole_within_its_400_tokens() -> None:
    system = {"role": "system", "content": "You are a senior backend engineer. Explain approach first, then code."}
    question = "Refactor this Node.js retry logic to exponential backoff and include a unit test."
    ((_, answer),) = ask(chat([system, user(question)], max_tokens=400))
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["content"].startswith("Approach: ")
    assert "export async function retry(" in choice["message"]["content"]
    assert choice["message"]["content"].endswith("});\n```")


def test_a_question_after_other_turns_and_a_system_prompt_is_still_answered() -> None:
    history = [
        {"role": "system", "content": "You are a helpful assistant."},
        user("How do I start Penstock?"),
        {"role": "assistant", "content": "Run `penstock serve`."},
        user("What is 3 + 4?"),
        {"role": "assistant", "content": "3 plus 4 is 7."},
        user("How do I create an API key?"),
    ]
    ((_, answer),) = ask(chat(history))
    assert "penstock keys create" in answer["choices"][0]["message"]["content"]


def test_a_long_history_is_answered() -> None:
    turns = [user("What is JSON?"), {"role": "assistant", "content": "A text format for data."}] * 45
    ((status, answer),) = ask(chat([*turns, user("Hello")], max_tokens=60))
    assert status == 200
    assert answer["usage"]["prompt_tokens"] > 800


CALL = {"id": "call_1", "type": "function", "function": {"name": "lookup", "arguments": '{"city": "Rome"}'}}
HISTORIES = {
    "a system message in the middle": [user("a"), {"role": "system", "content": "b"}, user("c")],
    "two system messages": [{"role": "system", "content": "a"}, {"role": "system", "content": "b"}, user("c")],
    "a developer message": [{"role": "developer", "content": "a"}, user("b")],
    "two questions in a row": [user("a"), user("b")],
    "no content": [{"role": "user", "content": None}],
    "empty content": [user("")],
    "content in parts": [user([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])],
    "a tool call without content, and its result": [
        user("a"),
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    ],
    "a tool call with content": [
        user("a"),
        {"role": "assistant", "content": "I look it up.", "tool_calls": [CALL, CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "sunny"}]},
        user("b"),
    ],
    "a tool result out of nowhere": [{"role": "tool", "tool_call_id": "call_1", "content": "sunny"}],
    "the old function role": [user("a"), {"role": "function", "name": "lookup", "content": "sunny"}],
    "nothing": [],
}


@pytest.fixture(scope="module")
def prompts() -> dict[str, Any]:
    answers = ask(*(("/apply-template", {"messages": history}) for history in HISTORIES.values()))
    return dict(zip(HISTORIES, answers, strict=True))


@pytest.mark.parametrize("name", HISTORIES)
def test_the_chat_template_renders_odd_histories(name: str, prompts: dict[str, Any]) -> None:
    status, answer = prompts[name]
    assert status == 200, answer
    assert answer["prompt"].endswith("<|im_start|>assistant\n")
    assert answer["prompt"].count("<|im_start|>") == len(HISTORIES[name]) + 1


def test_the_chat_template_shows_a_tool_call_and_its_result(prompts: dict[str, Any]) -> None:
    _, answer = prompts["a tool call without content, and its result"]
    call = '<tool_call>{"name": "lookup", "arguments": {"city": "Rome"}}</tool_call>'
    assert f"<|im_start|>assistant\n{call}<|im_end|>\n<|im_start|>tool\nsunny<|im_end|>\n" in answer["prompt"]


def test_the_chat_template_shows_declared_tools() -> None:
    tool = {"type": "function", "function": {"name": "lookup", "parameters": {"type": "object", "properties": {}}}}
    ((status, answer),) = ask(("/apply-template", {"messages": [user("a")], "tools": [tool]}))
    assert status == 200
    assert '"name": "lookup"' in answer["prompt"]


def test_the_file_is_small_enough_for_a_package() -> None:
    assert DEMO.stat().st_size < 8_000_000
