"""D: the shape of an answer that is not streamed."""

from __future__ import annotations

from typing import Any

from penstock.check.ask import Ask, Members
from penstock.check.row import Row
from penstock.check.verdict import (
    Failed,
    Skipped,
    Unsupported,
    content_of,
    expect,
    first_choice,
    message_of,
    object_of,
    refused,
    served,
    show,
    summary,
    supported,
)

FINISHES = ("stop", "length", "tool_calls", "content_filter", "function_call")
_YEAR_2020 = 1_577_836_800


async def _top(ask: Ask) -> None:
    body, other = served(await ask.chat()), served(await ask.chat(fresh=True))
    for name, kind in (("id", str), ("object", str), ("created", int), ("model", str), ("choices", list)):
        expect(type(body.get(name)) is kind, f"{name} is {show(body.get(name))}")
    expect(body["object"] == "chat.completion", f"object is {show(body['object'])}")
    expect(body["created"] > _YEAR_2020, f"created is {body['created']}: no Unix seconds")
    expect(body["id"] and body["id"] != other.get("id"), f"the id {show(body['id'])} came twice")
    expect(body["choices"], "choices is empty")


async def _choice(ask: Ask) -> None:
    choice = first_choice(served(await ask.chat()))
    lacking = [name for name in ("index", "message", "finish_reason", "logprobs") if name not in choice]
    expect(not lacking, f"a choice without {', '.join(lacking)}")
    expect(choice["index"] == 0, f"index is {show(choice['index'])}")
    expect(choice["logprobs"] is None, f"logprobs is {show(choice['logprobs'])}")


async def _message(ask: Ask) -> None:
    message = message_of(served(await ask.chat()))
    lacking = [name for name in ("role", "content", "refusal") if name not in message]
    expect(not lacking, f"a message without {', '.join(lacking)}")
    expect(message["role"] == "assistant", f"role is {show(message['role'])}")
    expect(message["refusal"] is None, f"refusal is {show(message['refusal'])}")


async def _no_tool_calls(ask: Ask) -> None:
    message = message_of(served(await ask.chat()))
    expect("tool_calls" not in message, f"tool_calls is {show(message.get('tool_calls'))}")


async def _usage(ask: Ask) -> None:
    check_usage(served(await ask.chat()).get("usage"))


def check_usage(usage: Any) -> None:
    """Fail unless it is a usage object that adds up."""
    if not isinstance(usage, dict):
        raise Failed(f"usage is {show(usage)}")
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        expect(type(usage.get(name)) is int, f"{name} is {show(usage.get(name))}")
    expect(usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"], f"the sum is wrong: {usage}")
    expect(usage["prompt_tokens"] > 0 and usage["completion_tokens"] >= 0, f"usage is {show(usage)}")
    for name in ("prompt_tokens_details", "completion_tokens_details"):
        details = usage.get(name)
        expect(details is None or isinstance(details, dict), f"{name} is {show(details)}")
        for part, count in (details or {}).items():
            expect(count is None or type(count) is int, f"{name}.{part} is {show(count)}")


async def _model(ask: Ask) -> str:
    return f"asked for {ask.model}, answered by {show(served(await ask.chat()).get('model'))}"


async def _string(ask: Ask) -> None:
    content = message_of(served(await ask.chat())).get("content")
    expect(content is None or isinstance(content, str), f"content is {show(content)}")


async def _three(ask: Ask) -> None:
    for n in (3, 2):
        answer = await ask.chat(n=n)
        if answer.status == 200:
            break
    else:  # the server's limit for n is its own
        refused(answer)
        raise Unsupported(summary(answer))
    body = served(answer)
    indexes = [choice.get("index") for choice in body["choices"]]
    expect(sorted(indexes) == list(range(n)), f"the indexes are {indexes}")
    for choice in body["choices"]:
        expect(choice["message"]["role"] == "assistant", f"a choice is {show(choice)}")


async def _one_token(ask: Ask) -> None:
    body = served(await ask.chat(tokens=1))
    finish = first_choice(body).get("finish_reason")
    usage = body.get("usage") or {}
    details = usage.get("completion_tokens_details") or {}
    said = usage.get("completion_tokens", 0) - (details.get("reasoning_tokens") or 0)
    expect(finish == "length", f"finish_reason is {show(finish)}")
    expect(said <= 1, f"{said} tokens of output")


async def greedy(ask: Ask, **members: Any) -> tuple[str, Members]:
    """The plain answer's text, as repeatable as the server makes it, and the members that made it so."""
    tries: tuple[Members, ...] = ({"temperature": 0, "seed": 7}, {"temperature": 0}, {})
    for how in tries:
        answer = await ask.chat(**how, **members)
        if answer.status == 200:
            return content_of(served(answer)), how
    raise Failed("the plain request is not served any more")


def middle(text: str) -> str:
    """The second half of a word in the middle of a text and the first half of the next: a stop that tokens straddle."""
    words = text.split(" ")
    at = max(1, len(words) // 2)
    if len(words) < 3 or not words[at] or not words[at - 1]:
        raise Skipped(f"the answer is too short to stop inside: {show(text)}")
    before, after = words[at - 1], words[at]
    return before[len(before) // 2 :] + " " + after[: (len(after) + 1) // 2]


async def _stop(ask: Ask) -> str | None:
    text, how = await greedy(ask, tokens=24)
    stop = middle(text)
    body = supported(await ask.chat(**how, tokens=24, stop=stop))
    said, finish = content_of(body), first_choice(body).get("finish_reason")
    expect(stop not in said, f"the stop {show(stop)} is in the content {show(said)}")
    if said != text[: text.index(stop)]:
        return "the server answered differently the second time; only the absence of the stop was seen"
    expect(finish == "stop", f"finish_reason is {show(finish)}")
    return None


async def _finish(ask: Ask) -> None:
    for tokens in (1, 16):
        finish = first_choice(served(await ask.chat(tokens=tokens))).get("finish_reason")
        expect(finish in FINISHES, f"finish_reason is {show(finish)}")


async def _tier(ask: Ask) -> str:
    tier = supported(await ask.chat(service_tier="auto")).get("service_tier")
    expect(isinstance(tier, str) and tier != "auto", f"service_tier is {show(tier)}")
    return str(tier)


async def _seed(ask: Ask) -> None:
    first = supported(await ask.chat(temperature=0, seed=7))
    again = supported(await ask.chat(temperature=0, seed=7, fresh=True))
    one, two = content_of(first), content_of(again)
    expect(one == two, f"first {show(one)}, then {show(two)}")
    prints = {body.get("system_fingerprint") for body in (first, again)}
    expect(len(prints) == 1, f"system_fingerprint changed: {show(sorted(map(str, prints)))}")


async def _no_error(ask: Ask) -> None:
    answer = await ask.chat()
    body = object_of(answer) or {}
    expect(answer.status == 200 and "error" not in body, f"{answer.status}, error is {show(body.get('error'))}")
    first_choice(body)


ROWS = (
    Row(
        "D01",
        "M",
        "the plainest request",
        "id (never twice), object chat.completion, created (an integer), model, choices",
        "clients decode these before anything else",
        "Rust and Go clients fail on a created that is no integer",
        _top,
    ),
    Row(
        "D02",
        "S",
        "the plainest request",
        "a choice has index 0, message, finish_reason and logprobs null",
        "the document lists all four as required",
        "typed SDKs, strict decoders",
        _choice,
    ),
    Row(
        "D03",
        "S",
        "the plainest request",
        "the message has role assistant, content and refusal null",
        "the document lists all three as required",
        "typed SDKs, strict decoders",
        _message,
    ),
    Row(
        "D04",
        "M",
        "the plainest request",
        "no tool_calls where no tool was called: neither [] nor null",
        "applications send the message back, and an empty tool_calls is a 400 at OpenAI",
        "openai-node runTools, agents that test for the key",
        _no_tool_calls,
    ),
    Row(
        "D05",
        "S",
        "the plainest request",
        "usage with prompt_tokens, completion_tokens and total_tokens, integers that add up",
        "bills are made of it",
        "LangChain's and every gateway's accounting",
        _usage,
    ),
    Row(
        "D06",
        "P",
        "the model's name in the answer",
        "the model that answered",
        "an alias should say what stands behind it",
        "logs and evaluations that compare models",
        _model,
    ),
    Row(
        "D07",
        "M",
        "the plainest request",
        "content is a string or null, never a list of parts",
        "parts exist in requests only",
        "Vercel's AI SDK and LangChain reject the answer",
        _string,
    ),
    Row(
        "D08",
        "S",
        "n: 3, or 2 where 3 is too much",
        "so many choices with the indexes 0, 1 and 2",
        "candidates are chosen by index",
        "self-consistency and best-of-n samplers",
        _three,
    ),
    Row(
        "D09",
        "S",
        "one token of output",
        "finish_reason length, at most one token beside reasoning",
        "a cut answer must be known as one, and a limit must limit",
        "agents that continue on length",
        _one_token,
    ),
    Row(
        "D10",
        "S",
        "a stop that is in the middle of the answer",
        "finish_reason stop, the stop itself absent",
        "ReAct agents end their turn by it",
        "LangChain agents, code completion",
        _stop,
    ),
    Row(
        "D11",
        "M",
        "answers that end by themselves and by the limit",
        "finish_reason is one of stop, length, tool_calls, content_filter and function_call",
        'an engine\'s own word ("eos", "abort") says nothing to a client',
        "Vercel's AI SDK maps it to `other`, typed SDKs fail",
        _finish,
    ),
    Row(
        "D12",
        "S",
        "service_tier: auto",
        "the answer names the tier that served it",
        "tiers differ in price",
        "cost accounting",
        _tier,
    ),
    Row(
        "D14",
        "S",
        "the same request twice, temperature 0 and a seed",
        "the same content, the same system_fingerprint",
        "tests and evaluations are repeated",
        "evaluation harnesses, caches",
        _seed,
    ),
    Row(
        "D15",
        "M",
        "the plainest request",
        "a 200 holds no `error`, and at least one choice",
        "status and body must agree",
        "openai-python hands out choices None, and the caller's code breaks later",
        _no_error,
    ),
)
