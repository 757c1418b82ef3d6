"""N: what the GPT-5 family and the o-series refuse, or a gateway before them translates."""

from __future__ import annotations

import re
from collections.abc import Sequence

from penstock.check.ask import Ask, Members
from penstock.check.row import Check, Row, label
from penstock.check.rows.messages import talk
from penstock.check.rows.tools import WEATHER
from penstock.check.verdict import (
    Failed,
    Skipped,
    expect,
    first_choice,
    refused,
    served,
    show,
    supported,
)

_REASONING = re.compile(r"(.*/)?(gpt-5|o[1-9])")
_CODES = ("unsupported_parameter", "unsupported_value", None)


def _of_reasoning_models(check: Check) -> Check:
    async def only(ask: Ask) -> str | None:
        if not _REASONING.match(ask.model):
            raise Skipped(f"{ask.model} is none of the models that this is about")
        return await check(ask)

    return only


def _served_or(param: str | None, *variants: Members, codes: Sequence[str | None] = _CODES) -> Check:
    """Each is served, or refused as the model's owner refuses it: with that param and one of these codes."""

    async def check(ask: Ask) -> str:
        said = []
        for members in variants:
            answer = await ask.chat(**members)
            if answer.status == 200:
                served(answer)
                said.append("served")
            else:
                refused(answer, param=param, codes=codes, what=label(members))
                said.append("refused")
        return ", ".join(said)

    return _of_reasoning_models(check)


async def _without_effort(ask: Ask) -> None:
    for members in ({"temperature": 0.5}, {"top_p": 0.5}, {"logprobs": True}):
        supported(await ask.chat(reasoning_effort="none", **members), label(members))


async def _spent(ask: Ask) -> str | None:
    body = supported(await ask.chat(reasoning_effort="high"))
    details = (body.get("usage") or {}).get("completion_tokens_details") or {}
    if not details.get("reasoning_tokens"):
        raise Skipped("the model did not reason")
    finish = first_choice(body).get("finish_reason")
    if finish != "length":
        return f"finish_reason {show(finish)}: the budget was enough"
    content = first_choice(body)["message"].get("content")
    if not (content is None or isinstance(content, str)):
        raise Failed(f"content is {show(content)}")
    return None


async def _developer(ask: Ask) -> None:
    question = {"role": "user", "content": "Say hello."}
    for role in ("developer", "system"):
        served(await ask.chat(**talk({"role": role, "content": "Be brief."}, question)), role)


async def _minimal(ask: Ask) -> str:
    answer = await ask.chat(reasoning_effort="minimal")
    if answer.status == 200:
        served(answer)
        return "served"
    error = refused(answer, codes=_CODES, param="reasoning_effort")
    expect("none" in error["message"] or "low" in error["message"], f"no effort is named: {show(error['message'])}")
    return "refused"


ROWS = (
    Row(
        "N01",
        "O",
        "max_tokens",
        "served, or 400 with that param as at OpenAI",
        "older clients know no other name",
        "LangChain before max_completion_tokens, most tutorials",
        _served_or("max_tokens", {"max_tokens": 16, "max_completion_tokens": None}),
    ),
    Row(
        "N02",
        "O",
        "temperature 0.5 with an effort of low",
        "served, or 400 with a param as at OpenAI",
        "a temperature that is dropped silently is not what was asked for",
        "clients that always send a temperature",
        _served_or(None, {"temperature": 0.5, "reasoning_effort": "low"}),
    ),
    Row(
        "N03",
        "O",
        "effort none with temperature, top_p and logprobs",
        "200",
        "without reasoning the model samples as others do",
        "clients of gpt-5.1 and later",
        _of_reasoning_models(_without_effort),
    ),
    Row(
        "N04",
        "O",
        "effort minimal",
        "served, or 400 that names the efforts there are",
        "each generation has its own list",
        "openai-agents' defaults",
        _of_reasoning_models(_minimal),
    ),
    Row(
        "N05",
        "O",
        "functions with an effort of low",
        "served, or 400 with a param as at OpenAI",
        "gpt-5.4 takes both together on /v1/responses only",
        "agents on chat completions",
        _served_or(None, {"tools": [WEATHER], "reasoning_effort": "low"}),
    ),
    Row(
        "N06",
        "O",
        "an effort of high and few tokens",
        "200, reasoning_tokens counted, finish_reason length",
        "an empty answer must say why it is empty",
        "chat windows that show nothing",
        _of_reasoning_models(_spent),
    ),
    Row(
        "N07",
        "O",
        "a developer message, a system message",
        "200 each",
        "both names are in use",
        "Vercel's AI SDK (developer), most others (system)",
        _of_reasoning_models(_developer),
    ),
    Row(
        "N08",
        "O",
        "penalties, stop and logit_bias with an effort of low",
        "served, or 400 with a param as at OpenAI",
        "a stop that is dropped silently never stops",
        "LangChain agents on reasoning models",
        _served_or(
            None,
            {"presence_penalty": 1, "reasoning_effort": "low"},
            {"frequency_penalty": 1, "reasoning_effort": "low"},
            {"stop": "|x|", "reasoning_effort": "low"},
            {"logit_bias": {"50256": -100}, "reasoning_effort": "low"},
        ),
    ),
)
