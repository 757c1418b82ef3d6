"""LangChain's ChatOpenAI in the mending matrix: run by the frameworks' own Python, it prints a JSON line per case.

It reads one JSON object from standard input: the base URLs by name, the key, and the cases.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from langchain_openai import ChatOpenAI

PARAMETERS = {"type": "object", "properties": {"query": {"type": "string"}}}
TOOL = {"type": "function", "function": {"name": "lookup", "description": "Look up.", "parameters": PARAMETERS}}


def ask(base_url: str, key: str, case: dict[str, Any]) -> dict[str, Any]:
    model: Any = ChatOpenAI(
        model=case["model"],
        base_url=base_url,
        api_key=key,
        max_retries=0,
        timeout=20,
        stream_usage=case["asksUsage"],
    )
    if case["tools"]:
        model = model.bind_tools([TOOL])
    if case["form"] == "whole":
        message = model.invoke("What is a penstock?")
    else:
        message = None
        for chunk in model.stream("What is a penstock?"):
            message = chunk if message is None else message + chunk
    calls = [{"id": call["id"], "name": call["name"], "arguments": call["args"]} for call in message.tool_calls]
    if message.invalid_tool_calls:
        raise ValueError(f"invalid tool calls: {message.invalid_tool_calls}")
    choice = {
        "role": message.type.removesuffix("MessageChunk"),
        "content": message.content,
        "calls": calls,
        "finish": message.response_metadata.get("finish_reason"),
    }
    counted = message.usage_metadata
    usage = [counted[f"{name}_tokens"] for name in ("input", "output", "total")] if counted else None
    return {"choices": [choice], "usage": usage}


def main() -> None:
    told = json.load(sys.stdin)
    for way, base_url in told["ways"].items():
        for case in told["cases"]:
            if case["n"] > 1:
                continue
            try:
                outcome = ask(base_url, told["key"], case)
            except Exception as error:  # noqa: BLE001 - how a client fails is what is asked
                outcome = {"error": {"kind": type(error).__name__, "message": str(error)}}
            print(json.dumps([way, "LangChain", case["model"], outcome]), flush=True)


main()
