"""What each service's streams look like, by its own pages, and the one form that comes out of all of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from penstock.config import Upstream
from penstock.providers import registry
from penstock.types import Target, Usage
from penstock.wire.chat import decode_chat

FIGURES = {"prompt_tokens": 7, "completion_tokens": 9, "total_tokens": 16}
BASE = {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}


def step(delta: dict[str, Any] | None = None, finish: str | None = None, **members: Any) -> str:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
    return f"data: {json.dumps({**BASE, 'choices': choices, **members})}\n\n"


ROLE = step({"role": "assistant", "content": ""})
WAITING = ": keep-alive\n\n"

STREAMS = {
    "azure": (
        step(prompt_filter_results=[{}], id=""),
        ROLE,
        step({"content": "Yes."}),
        step({}, "stop"),
        step(usage=FIGURES),
    ),
    "openrouter": (
        ": OPENROUTER PROCESSING\n\n",
        step({"role": "assistant", "content": "", "reasoning": "Hm."}),
        step({"role": "assistant", "content": "Yes."}),
        step({"role": "assistant", "content": ""}, "stop"),
        step({"role": "assistant", "content": ""}, usage=FIGURES),
    ),
    "groq": (
        step({"role": "assistant", "content": None, "reasoning": "Hm."}, x_groq={"id": "r"}),
        step({"content": "Yes."}),
        step({}, "stop", x_groq={"id": "r", "usage": FIGURES}),
    ),
    "mistral": (
        ROLE,
        step({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}]}),
        step({"content": [{"type": "text", "text": "Yes."}]}),
        step({"content": ""}, "stop", usage=FIGURES),
    ),
    "deepseek": (
        WAITING,
        step({"role": "assistant", "content": None, "reasoning_content": "Hm."}),
        WAITING,
        step({"content": "Yes.", "reasoning_content": None}),
        step({"content": "", "reasoning_content": None}, "stop", usage={**FIGURES, "prompt_cache_hit_tokens": 4}),
    ),
    "together": (
        step({"role": "assistant", "content": "<think>\n"}),
        step({"content": "Hm."}),
        step({"content": "</think>\n\n"}),
        step({"content": "Yes."}),
        step({"content": ""}, "eos", usage=FIGURES),
    ),
    "vllm": (
        ROLE,
        step({"reasoning": "Hm."}),
        step({"content": "Yes."}),
        step({"content": "", "tool_calls": []}, "stop"),
        step(usage=FIGURES),
    ),
    "sglang": (
        step({"role": "assistant", "content": "", "reasoning_content": None, "tool_calls": None}),
        step({"role": None, "content": None, "reasoning_content": "Hm.", "tool_calls": None}),
        step({"role": None, "content": "Yes.", "reasoning_content": None, "tool_calls": None}),
        step({"content": None}, "stop"),
        step(usage=FIGURES),
    ),
    "ollama": (
        step({"role": "assistant", "content": "", "reasoning": "Hm."}),
        step({"role": "assistant", "content": "Yes."}),
        step({"role": "assistant", "content": ""}, "stop"),
        step(usage=FIGURES),
    ),
    "llama-server": (
        step({"role": "assistant", "content": None}),
        step({"reasoning_content": "Hm."}),
        step({"content": "Yes."}),
        step({}, "stop"),
        step(usage=FIGURES, timings={"prompt_n": 7}),
    ),
}


def joined(kind: str, usage_asked: bool) -> tuple[dict[str, str], Usage | None]:
    """What a client that joins deltas has at the end, and the usage on record."""
    upstream = Upstream("acme", kind, settings={"base_url": "http://127.0.0.1:9/v1"})
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": True}
    if usage_asked:
        body["stream_options"] = {"include_usage": True}
    reader = registry.build(upstream, None).reader(decode_chat(json.dumps(body).encode()), Target("*", "acme", "m"))
    out = "".join(reader.feed(piece.encode()).decode() for piece in STREAMS[kind])
    out += (reader.feed(b"data: [DONE]\n\n") + reader.close()).decode()
    *lines, last, rest = out.split("\n\n")
    assert (last, rest) == ("data: [DONE]", "")
    found: dict[str, str] = {}
    for line in lines:
        for choice in json.loads(line.removeprefix("data: "))["choices"]:
            for name in ("role", "content", "reasoning_content"):
                found[name] = found.get(name, "") + (choice["delta"].get(name) or "")
            found["finish"] = found.get("finish", "") + (choice["finish_reason"] or "")
    return found, reader.usage


@pytest.mark.parametrize("usage_asked", [False, True])
@pytest.mark.parametrize("kind", STREAMS)
def test_every_services_stream_comes_out_in_one_form(kind: str, usage_asked: bool) -> None:
    found, usage = joined(kind, usage_asked)
    reasoning = "" if kind == "azure" else "Hm."
    assert found == {"role": "assistant", "content": "Yes.", "reasoning_content": reasoning, "finish": "stop"}
    assert usage == Usage(7, 9, 4 if kind == "deepseek" else 0)


def test_every_service_has_a_stream_here() -> None:
    assert {"openai", *STREAMS} == set(registry.COMPATIBLE)
