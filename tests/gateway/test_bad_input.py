"""Whatever a caller with a key puts into a body, the answer is a success or names the caller's fault: never a 5xx."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest
import uvloop
from hypothesis import example, given, settings
from hypothesis import strategies as st

from penstock.config import Model, TargetConfig, Upstream
from penstock.fake_upstream import FakeUpstream
from support.gateway import Answered, gateway, request, to

Ask = Callable[[bytes], Answered]

VALID: dict[str, Any] = {
    "model": "gpt-5.4",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Ünï \U0001f30d"}]},
        {
            "role": "assistant",
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "c", "content": "7"},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    "tool_choice": "auto",
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
    "stream": True,
    "stream_options": {"include_usage": True},
    "temperature": 0.5,
    "top_p": 1,
    "n": 2,
    "stop": ["a", "b"],
    "max_tokens": 10,
    "max_completion_tokens": 20,
    "seed": 7,
    "logit_bias": {"50256": -100},
    "logprobs": True,
    "top_logprobs": 3,
    "presence_penalty": -2,
    "frequency_penalty": 2,
    "metadata": {"a": "b"},
    "user": "someone",
    "reasoning_effort": "low",
    "parallel_tool_calls": False,
    "foo": {"bar": [None]},
}

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, 1, -1, 2**31, 2**53, 2**63, 2**64, -(2**63) - 1, 10**40, 0.1, -0.0, 1e308, 5e-324]),
    st.integers(),
    st.floats(allow_nan=True, allow_infinity=True),
    st.text(max_size=20),
    st.sampled_from(["", "auto", "none", "required", "function", "text", "system", "user", "a" * 70_000, "\0", "\x7f"]),
)
ANY = st.recursive(
    ODD,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """A valid body, some of whose members, at any depth, are replaced, removed or joined by others."""
    names = draw(st.sets(st.sampled_from(sorted(VALID))))
    body = json.loads(json.dumps({name: VALID[name] for name in VALID if name in names | {"model", "messages"}}))
    for _ in range(draw(st.integers(0, 3))):
        at: Any = body
        while True:
            inner = list(at) if isinstance(at, dict) else list(range(len(at)))
            if not inner:
                break
            key = draw(st.sampled_from(inner))
            if isinstance(at[key], dict | list) and draw(st.booleans()):
                at = at[key]
                continue
            if draw(st.booleans()):
                at[key] = draw(ANY)
            else:
                del at[key]
            break
    return json.dumps(body, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """The bytes of a body with some of them changed."""
    data = bytearray(draw(bodies()))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 3))] = draw(
            st.sampled_from(
                [b"", b'"', b"\\", b"\\ud800", b"\xff", b"\xc3", b"{", b"]", b",", b"1", b"\0", b"NaN", b"\xef\xbb\xbf"]
            )
        )
    return bytes(data)


@pytest.fixture(scope="module")
def ask() -> Iterator[Ask]:
    """A gateway before a plain upstream, for all examples; at the end nothing is in flight."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        stack = AsyncExitStack()
        faults: list[Any] = []

        async def start() -> Any:
            asyncio.get_running_loop().set_exception_handler(lambda loop, context: faults.append(context))
            upstream = await stack.enter_async_context(FakeUpstream(remember=False))
            return await stack.enter_async_context(gateway(upstream.base_url, models={"gpt-5.4": to("fake")}))

        running = runner.run(start())
        yield lambda body: runner.run(running.ask(request("POST", "/v1/chat/completions", body=body)))
        assert running.telemetry.metrics.in_flight == 0
        assert running.server.edge.buffered == 0
        runner.run(stack.aclose())
        assert faults == []


def check(answer: Answered) -> None:
    """A success that is whole, or an error that is the caller's."""
    if answer.status == 200:
        whole = answer.body
        streamed = answer.headers["content-type"].startswith("text/event-stream")
        assert whole.endswith(b"data: [DONE]\n\n") and b'"error"' not in whole if streamed else answer.json()["choices"]
        return
    assert 400 <= answer.status < 500, answer.body
    assert answer.error["type"] == "invalid_request_error"
    assert answer.error["message"]


def test_the_body_that_is_varied_is_itself_good(ask: Ask) -> None:
    answer = ask(json.dumps(VALID).encode())
    assert answer.status == 200
    check(answer)


@given(bodies())
@settings(max_examples=300, deadline=None)
def test_a_strange_body_is_never_our_fault(ask: Ask, body: bytes) -> None:
    check(ask(body))


@given(damaged())
@settings(max_examples=300, deadline=None)
@example(b"")
@example(b"[" * 100_000)
@example(b'{"messages":' * 20_000)
@example(b'{"model": "gpt-5.4", "messages": [{"role": "user", "content": ' + b"[" * 50_000 + b"]" * 50_000 + b"}]}")
@example(
    b'{"model": "gpt-5.4", "foo": '
    + b"[" * 50_000
    + b"]" * 50_000
    + b', "messages": [{"role": "user", "content": "x"}]}'
)
@example(
    b'{"model": "gpt-5.4", "max_tokens": 1' + b"0" * 100_000 + b', "messages": [{"role": "user", "content": "x"}]}'
)
@example(b'{"model": "\\ud800", "messages": [{"role": "user", "content": "x"}]}')
@example(b'{"model": "gpt-5.4", "messages": [{"role": "user", "content": "\\udfff"}], "stop": "\\ud83d"}')
@example("{}".encode("utf-16"))
def test_a_damaged_body_is_never_our_fault(ask: Ask, body: bytes) -> None:
    check(ask(body))


@pytest.mark.parametrize("where", ["message", "member"])
def test_a_body_that_is_nested_almost_too_deeply_is_never_our_fault(where: str) -> None:
    """What can just be judged may be nested too deeply for who decodes it again, further down."""

    async def main() -> None:
        async with FakeUpstream() as fake:
            served = [
                Upstream(name, kind, settings={"base_url": fake.base_url})
                for name, kind in (("a", "openai"), ("b", "vllm"))
            ]
            lacking = Model((TargetConfig("a", lacks=("images",)), TargetConfig("b")))
            affine = msgspec.structs.replace(to("a", "b"), policy="prefix_affinity")
            models = {"plain": to("a"), "roles": to("b"), "lacking": lacking, "affine": affine}
            async with gateway(*served, models=models) as running:
                for depth, model in itertools.product(range(930, 1010), models):
                    deep = b"[" * depth + b"]" * depth
                    inner, outer = (b',"x":' + deep, b"") if where == "message" else (b"", b',"x":' + deep)
                    body = (
                        b'{"model":"%s","messages":[{"role":"developer","content":"x"%s}],"stream":true,'
                        b'"stream_options":{"include_obfuscation":false}%s}' % (model.encode(), inner, outer)
                    )
                    answer = await running.ask(request("POST", "/v1/chat/completions", body=body))
                    assert answer.status in (200, 400), (depth, model, answer.body)

    uvloop.run(main())


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_noise_is_never_our_fault(ask: Ask, body: bytes) -> None:
    assert ask(body).status == 400
