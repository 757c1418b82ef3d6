"""F: the parameters of a request."""

from __future__ import annotations

from typing import Any

from penstock.check.ask import Ask, Members
from penstock.check.row import Row, accepts, both, label, outcome, refuses, serves, tells, values
from penstock.check.rows.shape import greedy, middle
from penstock.check.verdict import (
    Failed,
    Unsupported,
    content_of,
    error_of,
    expect,
    first_choice,
    lacking,
    message_of,
    refused,
    served,
    show,
    summary,
    supported,
)

_NULLABLE = (
    *("temperature", "top_p", "n", "stop", "seed", "max_tokens", "max_completion_tokens", "logprobs"),
    *("top_logprobs", "logit_bias", "presence_penalty", "frequency_penalty", "stream", "stream_options", "store"),
    *("metadata", "service_tier", "reasoning_effort", "verbosity", "modalities", "audio", "prediction"),
    *("safety_identifier", "prompt_cache_key", "user"),
)
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_INT64 = 2**63

# Every optional parameter that stores nothing, needs no tool and no other kind of output.
_ALL: Members = {
    "temperature": 1,
    "top_p": 1,
    "n": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "logit_bias": {},
    "logprobs": False,
    "seed": 7,
    "stop": None,
    "stream": False,
    "store": False,
    "service_tier": "auto",
    "response_format": {"type": "text"},
    "modalities": ["text"],
    "verbosity": "medium",
    "safety_identifier": "check",
    "prompt_cache_key": "check",
    "user": "check",
}


def _one(name: str, value: Any) -> Members:
    return {name: value}


async def _nulls(ask: Ask) -> None:
    names = [name for name in _NULLABLE if name != ask.limit]
    nulls: Members = dict.fromkeys(names)
    answer = await ask.chat(**nulls)
    if answer.status == 200:
        served(answer)
        return
    for name in names:  # which of them was it
        served(await ask.chat(**_one(name, None)), f"{name}: null")
    served(answer, "each null alone is served, all of them are not")


async def _no_n(ask: Ask) -> None:
    refused(await ask.chat(n=0, stream=True))


async def _limits_below_one(ask: Ask) -> str:
    said = [f"{ask.limit} {value}: {outcome(await ask.glance(**_one(ask.limit, value)))}" for value in (0, -1)]
    return "; ".join(said)


async def _limit_types(ask: Ask) -> None:
    refused(await ask.glance(**_one(ask.limit, "10")), what=f'{ask.limit} "10"')
    served(await ask.chat(**_one(ask.limit, 10.0)), f"{ask.limit} 10.0")


async def _both_limits(ask: Ask) -> str:
    answer = await ask.chat(max_tokens=16, max_completion_tokens=1)
    if answer.status != 200:
        return outcome(answer)
    used = served(answer).get("usage", {}).get("completion_tokens")
    return f"served, {used} tokens: {'max_completion_tokens' if used == 1 else 'max_tokens'} was taken"


async def _nothing_stops(ask: Ask) -> str:
    said = []
    for stop in ([], "", [""]):
        answer = await ask.chat(stop=stop)
        empty = answer.status == 200 and not content_of(served(answer))
        said.append(f"{label({'stop': stop})}: {'an empty answer' if empty else outcome(answer)}")
    return "; ".join(said)


async def _stop_in_stream(ask: Ask) -> str | None:
    text, how = await greedy(ask, tokens=24)
    stop = middle(text)
    stream = await ask.stream(**how, tokens=24, stop=stop)
    said = stream.text()
    expect(stop not in said, f"the stop {show(stop)} is in the stream: {show(said)}")
    before = text[: text.index(stop)]
    if not (said.startswith(before) or before.startswith(said)):
        return "the server answered differently the second time; only the absence of the stop was seen"
    expect(said == before, f"before the stop {show(stop)} came {show(said)} instead of {show(before)}")
    expect(stream.finishes() == ["stop"], f"finish_reason is {show(stream.finishes())}")
    return None


async def _logprobs(ask: Ask) -> None:
    choice = first_choice(supported(await ask.chat(logprobs=True)))
    logprobs = choice.get("logprobs")
    if not isinstance(logprobs, dict):
        raise Failed(f"logprobs is {show(logprobs)}")
    expect("refusal" in logprobs, "logprobs has no refusal")
    tokens = logprobs.get("content")
    expect(isinstance(tokens, list) and tokens, f"logprobs.content is {show(tokens)}")
    for token in tokens or ():
        _is_token(token)


def _is_token(token: Any) -> None:
    expect(isinstance(token.get("token"), str), f"a token is {show(token)}")
    expect(isinstance(token.get("logprob"), int | float) and token["logprob"] <= 0, f"a logprob: {show(token)}")
    raw = token.get("bytes", "absent")
    fine = raw is None or (isinstance(raw, list) and all(type(byte) is int for byte in raw))
    expect(fine, f"bytes is {show(raw)}")


async def _top_logprobs(ask: Ask) -> None:
    for count in (0, 5, 20):
        body = supported(await ask.chat(logprobs=True, top_logprobs=count), f"top_logprobs {count}")
        tokens = (first_choice(body).get("logprobs") or {}).get("content") or []
        expect(tokens, f"top_logprobs {count}: no log probabilities")
        for token in tokens:
            tops = token.get("top_logprobs")
            expect(isinstance(tops, list) and len(tops) <= count, f"top_logprobs {count}: {show(tops)}")
        joined = "".join(token["token"] for token in tokens)
        expect(joined == content_of(body), f"the tokens are {show(joined)}, the content {show(content_of(body))}")


async def _top_logprobs_refused(ask: Ask) -> None:
    wrong: tuple[Members, ...] = ({"logprobs": True, "top_logprobs": 21}, {"top_logprobs": 5})
    for members in wrong:
        refused(await ask.chat(**members), what=label(members))


async def _efforts(ask: Ask) -> str:
    taken = []
    for effort in _EFFORTS:
        answer = await ask.chat(reasoning_effort=effort)
        if answer.status == 200:
            taken.append(effort)
        elif not lacking(answer):
            raise Failed(f"{effort}: {summary(answer)}")
    refused(await ask.chat(reasoning_effort="x"), what='reasoning_effort "x"')
    if not taken:
        raise Unsupported("no effort is supported")
    return "takes " + ", ".join(taken)


async def _prediction(ask: Ask) -> None:
    for content in ("Hello.", [{"type": "text", "text": "Hello."}]):
        supported(await ask.chat(prediction={"type": "content", "content": content}))


async def _unknown(ask: Ask) -> str:
    said = []
    for members in (*values("foo", 1), *values("top_k", 40)):
        answer = await ask.chat(**members)
        if answer.status >= 500:
            raise Failed(f"{label(members)}: {summary(answer)}")
        said.append(f"{label(members)}: {outcome(answer)}")
    return "; ".join(said)


async def _audio(ask: Ask) -> None:
    refused(await ask.chat(modalities=["audio"]), what='modalities ["audio"] without audio')


async def _stream_types(ask: Ask) -> None:
    for value in ("true", 1):
        refused(await ask.chat(stream=value), param="stream", what=f"stream {show(value)}")


async def _everything(ask: Ask) -> str | None:
    members, without = dict(_ALL), list[str]()
    while lacking(answer := await ask.chat(**members)):
        param = (error_of(answer) or {}).get("param")
        if param not in members or len(without) == len(_ALL) // 2:
            raise Unsupported(summary(answer))
        del members[param]
        without.append(param)
    message_of(served(answer))
    return f"without {', '.join(without)}, which it does not support" if without else None


async def _identifiers(ask: Ask) -> None:
    supported(await ask.chat(safety_identifier="x" * 64, prompt_cache_key="check", user="check"))
    refused(await ask.chat(safety_identifier="x" * 65), param="safety_identifier", what="65 characters")


async def _options_unstreamed(ask: Ask) -> str:
    return outcome(await ask.chat(stream_options={"include_usage": True}))


_METADATA_FINE = {"metadata": {f"key{number}": "x" for number in range(16)}}
_METADATA_WIDE = {"metadata": {"k" * 64: "v" * 512}}
_METADATA_WRONG = values(
    "metadata", {f"key{number}": "x" for number in range(17)}, {"k" * 65: "x"}, {"key": "v" * 513}, {"key": 1}
)

ROWS = (
    Row(
        "F01",
        "M",
        "every nullable parameter as null",
        "200, as if they were absent",
        "typed clients send null for what is not set",
        "typed clients that send members which are not set",
        _nulls,
    ),
    Row(
        "F02",
        "S",
        "temperature 0, 0.0, 1 and 2",
        "200",
        "the range of the document",
        "evaluations (0), brainstorming tools (above 1)",
        accepts(*values("temperature", 0, 0.0, 1, 2)),
    ),
    Row(
        "F03",
        "S",
        'temperature -0.1, 2.1, "1" and true',
        "400, param temperature",
        "a wrong value that is taken changes answers without a word",
        "configuration files with quoted numbers",
        refuses(*values("temperature", -0.1, 2.1, "1", True), param="temperature"),
    ),
    Row(
        "F04",
        "S",
        "top_p 0 and 1; -0.1 and 1.1",
        "200; 400, param top_p",
        "the range of the document",
        "sliders that end at 0",
        both(accepts(*values("top_p", 0, 1)), refuses(*values("top_p", -0.1, 1.1), param="top_p")),
    ),
    Row(
        "F05",
        "S",
        "penalties of -2 and 2; of -2.1 and 2.1",
        "200; 400 with the param",
        "the range of the document",
        "sliders",
        both(
            accepts(*values("presence_penalty", -2, 2), *values("frequency_penalty", -2, 2)),
            refuses(*values("presence_penalty", -2.1, 2.1), param="presence_penalty"),
            refuses(*values("frequency_penalty", -2.1, 2.1), param="frequency_penalty"),
        ),
    ),
    Row(
        "F06",
        "S",
        "n 1 and 2; 0, -1, 129 and 1.5",
        "200; 400, param n",
        "n multiplies the bill",
        "best-of-n samplers",
        both(serves({"n": 1}), refuses(*values("n", 0, -1, 129, 1.5), param="n"), accepts({"n": 2})),
    ),
    Row(
        "F07",
        "M",
        "n 0 with stream: true",
        "400 as JSON, at once",
        "a stream of no choices never ends",
        "all SDKs hang",
        _no_n,
    ),
    Row(
        "F08",
        "P",
        "a limit of 0 and of -1 tokens",
        "400, or none",
        "llama.cpp takes -1 for without limit, OpenAI refuses both",
        "SDKs' own tests send 0",
        _limits_below_one,
    ),
    Row(
        "F09",
        "O",
        'a limit of "10" and of 10.0',
        "400; 200",
        "JavaScript has only one kind of number, and strings are no number",
        "configuration files with quoted numbers",
        _limit_types,
    ),
    Row(
        "F10",
        "P",
        "max_tokens and max_completion_tokens together",
        "one of them wins, or 400",
        "clients send both to be safe",
        "the official SDKs' own tests",
        _both_limits,
    ),
    Row(
        "F11",
        "S",
        "stop as a string and as four",
        "200",
        "ReAct agents need it",
        "LangChain agents",
        accepts(*values("stop", "|x|", ["|a|", "|b|", "|c|", "|d|"])),
    ),
    Row(
        "F12",
        "O",
        "stop of five",
        "400, param stop",
        "a fifth that is dropped silently never stops",
        "code completion with many stops (Continue)",
        refuses({"stop": list("abcde")}, param="stop"),
    ),
    Row(
        "F13",
        "P",
        'stop [], "" and [""]',
        "as if absent, or 400; never an empty answer",
        "an empty string matches everywhere",
        "forms with an empty field",
        _nothing_stops,
    ),
    Row(
        "F14",
        "S",
        "a stop that two chunks of a stream share",
        "nothing of it in the stream, all before it delivered",
        "what was sent cannot be taken back",
        "LangChain agents see the half of a stop",
        _stop_in_stream,
    ),
    Row(
        "F15",
        "S",
        "logprobs: true",
        "tokens with logprob (at most 0), bytes and top_logprobs; a refusal key",
        "classifiers and evaluations count on them",
        "classifiers, evaluations",
        _logprobs,
    ),
    Row(
        "F16",
        "S",
        "top_logprobs 0, 5 and 20",
        "at most so many, and the tokens make up the content",
        "scores belong to the text that was sent",
        "evaluations that score a text",
        _top_logprobs,
    ),
    Row(
        "F17",
        "S",
        "top_logprobs 21; top_logprobs without logprobs",
        "400",
        "the range of the document",
        "evaluations that ask for more than there is",
        _top_logprobs_refused,
    ),
    Row(
        "F18",
        "S",
        "logit_bias of -100; of 101, -101, a key that is no number, a string",
        "200; 400",
        "the range of the document",
        "constrained generation",
        both(
            accepts({"logit_bias": {"50256": -100}}),
            refuses(*values("logit_bias", {"50256": 101}, {"50256": -101}, {"a": 1}, "x"), param=None),
        ),
    ),
    Row(
        "F19",
        "S",
        "the least and the greatest seed; 2^63",
        "200; 400",
        "seeds are drawn from 64 bits",
        "evaluation harnesses",
        both(accepts(*values("seed", -_INT64, _INT64 - 1)), refuses({"seed": _INT64})),
    ),
    Row(
        "F20",
        "S",
        "metadata of 16 pairs, 64 and 512 characters; of 17, 65, 513, a number",
        "200; 400",
        "the limits of the document",
        "applications that mark their requests",
        both(accepts(_METADATA_FINE, _METADATA_WIDE), refuses(*_METADATA_WRONG)),
    ),
    Row(
        "F21",
        "S",
        "store false and null (true is not tried: nothing is to be stored)",
        "200",
        "SDKs send it to be sure that nothing is stored",
        "companies' clients",
        serves(*values("store", False, None)),
    ),
    Row(
        "F22",
        "S",
        "service_tier auto, default, flex, scale, priority and fast; x",
        "200; 400",
        "the names of the document",
        "cost control",
        both(
            accepts(*values("service_tier", "auto", "default", "flex", "scale", "priority", "fast")),
            refuses({"service_tier": "x"}),
        ),
    ),
    Row(
        "F23",
        "S",
        "every reasoning_effort; x",
        "200, or 400 unsupported_value; 400",
        "agents choose an effort by the task",
        "openai-agents and other agents",
        _efforts,
    ),
    Row(
        "F24",
        "S",
        "verbosity low, medium and high; x",
        "200; 400",
        "the names of the document",
        "newer SDKs",
        both(accepts(*values("verbosity", "low", "medium", "high")), refuses({"verbosity": "x"})),
    ),
    Row(
        "F25",
        "S",
        'modalities ["text"]; ["audio"] without audio',
        "200; 400",
        "SDKs send text to be explicit",
        "voice applications",
        both(accepts({"modalities": ["text"]}), _audio),
    ),
    Row(
        "F26",
        "S",
        "a prediction, as a string and as parts",
        "200",
        "editors send the file that is to be changed",
        "code editors' quick apply",
        _prediction,
    ),
    Row(
        "F27",
        "S",
        "safety_identifier of 64 characters, prompt_cache_key, user; safety_identifier of 65",
        "200; 400",
        "the limits of the document",
        "applications with many users",
        _identifiers,
    ),
    Row(
        "F28",
        "P",
        "web_search_options, moderation",
        "400 with the param, or ignored",
        "a search that did not take place looks like one",
        "assistants with search",
        tells({"web_search_options": {}}, {"moderation": {}}),
    ),
    Row(
        "F29",
        "P",
        "parameters that the document does not know: foo, top_k",
        "400 as at OpenAI, or ignored",
        "a misspelt name that is ignored is never found",
        "open-webui, clients of vLLM and llama.cpp",
        _unknown,
    ),
    Row(
        "F30",
        "P",
        "stream_options without stream: true",
        "400 as at OpenAI, or ignored",
        "clients set it once for all requests",
        "LiteLLM",
        _options_unstreamed,
    ),
    Row(
        "F31",
        "S",
        'stream "true" and 1',
        "400, param stream",
        "whether an answer is a stream decides how it is read",
        "configuration files with quoted values",
        _stream_types,
    ),
    Row(
        "F32",
        "M",
        "every optional parameter at once, each with a harmless value",
        "200",
        "SDKs' own tests do so, and typed clients send their defaults",
        "openai-python's and openai-node's test suites",
        _everything,
    ),
)
