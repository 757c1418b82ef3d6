"""openai-python in the mending matrix: each case asked through `create` and, where it streams, through `stream()`."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from typing import Any

import openai
from openai.types.chat import ChatCompletion

from sdk.mending import OPENAI_PYTHON

CREATE, HELPER = OPENAI_PYTHON
MESSAGES: Any = [{"role": "user", "content": "What is a penstock?"}]
PARAMETERS = {"type": "object", "properties": {"query": {"type": "string"}}}
TOOLS: Any = [{"type": "function", "function": {"name": "lookup", "parameters": PARAMETERS}}]

Outcome = dict[str, Any]


def outcomes(base_url: str, key: str, cases: list[dict[str, Any]]) -> Iterator[tuple[str, str, Outcome]]:
    """What came of each case: the client, the model and the outcome."""
    with openai.OpenAI(base_url=base_url, api_key=key, max_retries=0, timeout=20) as client:
        for case in cases:
            request = {"model": case["model"], "messages": MESSAGES, "n": case["n"]}
            if case["tools"]:
                request["tools"] = TOOLS
            if case["form"] == "whole":
                yield CREATE, case["model"], tried(lambda request=request: created(client, request))
                continue
            if case["asksUsage"]:
                request["stream_options"] = {"include_usage": True}
            yield CREATE, case["model"], tried(lambda request=request, case=case: joined(client, request, case))
            yield HELPER, case["model"], tried(lambda request=request: helped(client, request))


def tried(ask: Any) -> Outcome:
    """The outcome, or the error that it ended in: any, since how a client fails is what is asked."""
    try:
        with warnings.catch_warnings(action="ignore"):  # what the client remarks on a broken answer stops nobody
            found: Outcome = ask()
    except Exception as error:  # noqa: BLE001
        return {"error": {"kind": type(error).__name__, "message": str(error)}}
    return found


def created(client: openai.OpenAI, request: Any) -> Outcome:
    return read(client.chat.completions.create(**request))


def helped(client: openai.OpenAI, request: Any) -> Outcome:
    with client.chat.completions.stream(**request) as stream:
        for _ in stream:
            pass
        return read(stream.get_final_completion())


def read(answer: ChatCompletion) -> Outcome:
    choices = []
    for choice in answer.choices:
        message: Any = choice.message
        calls = [call(one.id, one.function.name, one.function.arguments) for one in message.tool_calls or ()]
        choices.append(
            {"role": message.role, "content": message.content, "calls": calls, "finish": choice.finish_reason}
        )
    return {"choices": choices, "usage": usage(answer.usage)}


def joined(client: openai.OpenAI, request: Any, case: dict[str, Any]) -> Outcome:
    """A stream as applications read it: with OpenAI's own loop for tool calls, usage from the chunk that has it.

    Those that did not ask for usage take the first choice of every chunk.
    """
    choices: dict[int, Outcome] = {}
    calls: dict[int, dict[int, Any]] = {}
    counted = None
    with client.chat.completions.create(**request, stream=True) as stream:
        for chunk in stream:
            counted = chunk.usage or counted
            for choice in chunk.choices if case["asksUsage"] else [chunk.choices[0]]:
                known = choices.setdefault(choice.index, {"role": None, "content": None, "calls": [], "finish": None})
                delta = choice.delta
                known["role"] = known["role"] or delta.role
                known["finish"] = choice.finish_reason or known["finish"]
                if delta.content:
                    known["content"] = (known["content"] or "") + delta.content
                begun = calls.setdefault(choice.index, {})
                for one in delta.tool_calls or []:
                    if one.index not in begun:
                        begun[one.index] = one
                    else:
                        begun[one.index].function.arguments += one.function.arguments
    for index, found in choices.items():
        found["calls"] = [call(one.id, one.function.name, one.function.arguments) for one in calls[index].values()]
    return {"choices": [choices[index] for index in sorted(choices)], "usage": usage(counted)}


def call(call_id: Any, name: Any, arguments: Any) -> Outcome:
    return {"id": call_id, "name": name, "arguments": json.loads(arguments)}


def usage(found: Any) -> list[int] | None:
    return None if found is None else [found.prompt_tokens, found.completion_tokens, found.total_tokens]
