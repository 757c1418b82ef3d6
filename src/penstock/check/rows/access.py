"""B and C: keys and models, and K08: the header that says how often a request was repeated."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from penstock.check.ask import Ask, Headers
from penstock.check.client import Answer
from penstock.check.row import Row
from penstock.check.verdict import (
    Failed,
    Skipped,
    expect,
    object_of,
    refused,
    served,
    show,
    summary,
)

_WRONG = "sk-penstock-check-wrong-0123456789"
_TYPES = ("authentication_error", "invalid_request_error")
_NO_SUCH = "penstock-check-no-such-model"


async def _with(ask: Ask, authorization: str | None, **members: Any) -> Answer:
    headers: Headers = {"authorization": authorization}
    return await ask.post(ask.body(**members), headers)


def _needs_key(ask: Ask) -> str:
    if ask.settings.key is None:
        raise Skipped("the check has no key: a server that wants none refuses none")
    return ask.settings.key


async def _no_key(ask: Ask) -> None:
    _needs_key(ask)
    error = refused(await _with(ask, None), (401,), codes=(None, "invalid_api_key"))
    expect(error.get("type") in _TYPES, f"type is {show(error.get('type'))}")


async def _wrong_key(ask: Ask) -> None:
    _needs_key(ask)
    error = refused(await _with(ask, f"Bearer {_WRONG}"), (401,), codes=("invalid_api_key",))
    expect(error.get("type") in _TYPES, f"type is {show(error.get('type'))}")
    expect(_WRONG not in error["message"], "the message repeats the whole key")


async def _schemes(ask: Ask) -> str:
    key = _needs_key(ask)
    served(await _with(ask, f"bearer {key}"), "the scheme in lower case")
    refused(await _with(ask, "Basic eDp4"), (401,), what="Basic")
    spaced = await _with(ask, f"Bearer  {key}")
    if spaced.status != 200:
        refused(spaced, (401,), what="two spaces")
    return f"two spaces: {spaced.status}"


async def _no_key_streaming(ask: Ask) -> None:
    _needs_key(ask)
    refused(await _with(ask, f"Bearer {_WRONG}", stream=True), (401,))


async def _list(ask: Ask) -> None:
    answer = await ask.get("/models")
    body = object_of(answer)
    if answer.status != 200 or body is None:
        raise Failed(summary(answer))
    expect(body.get("object") == "list", f"object is {show(body.get('object'))}")
    data = body.get("data")
    expect(isinstance(data, list) and data, f"data is {show(data)}")
    for model in data or ():
        _is_model(model)


def _is_model(model: Any) -> None:
    expect(isinstance(model, dict), f"a model is {show(model)}")
    for name, kind in (("id", str), ("object", str), ("created", int), ("owned_by", str)):
        expect(type(model.get(name)) is kind, f"{name} of a model is {show(model.get(name))}")
    expect(model["object"] == "model", f"object of a model is {show(model['object'])}")


async def _one(ask: Ask) -> None:
    answer = await ask.get(f"/models/{quote(ask.model, safe='')}")
    body = object_of(answer)
    if answer.status != 200 or body is None:
        raise Failed(summary(answer))
    _is_model(body)


async def _slashes(ask: Ask) -> None:
    model = next((one for one in [ask.model, *ask.models] if "/" in one or ":" in one), None)
    if model is None:
        raise Skipped("no model of this server has / or : in its name")
    for path in (quote(model, safe="/:"), quote(model, safe="")):
        answer = await ask.get(f"/models/{path}")
        expect(answer.status == 200, f"/models/{path}: {summary(answer)}")


async def _no_such(ask: Ask) -> None:
    refused(await ask.get(f"/models/{_NO_SUCH}"), (404,), param="model", codes=("model_not_found",))


async def _unknown_model(ask: Ask) -> None:
    answer = await ask.chat(model=_NO_SUCH)
    if answer.status == 200:
        raise Failed(f"served by {show((object_of(answer) or {}).get('model'))}, whatever was asked for")
    error = refused(answer, (404,), codes=("model_not_found",))
    expect("does not exist" in error["message"], f"the message is {show(error['message'])}")


async def _retry_count(ask: Ask) -> None:
    served(await ask.post(ask.body(), {"x-stainless-retry-count": "1"}))


async def _limit_headers(ask: Ask) -> str:
    answer = await ask.chat()
    names = [name for name, _ in answer.headers if name.startswith("x-ratelimit-")]
    return ", ".join(sorted(names)) or "no x-ratelimit headers"


ROWS = (
    Row(
        "B01",
        "O",
        "no key",
        "401 in the envelope, code null or invalid_api_key",
        "the first thing that a new user sees",
        "all SDKs: AuthenticationError is raised by the 401",
        _no_key,
    ),
    Row(
        "B02",
        "O",
        "a wrong key",
        "401, code invalid_api_key, the key not repeated in the message",
        "messages end in logs, and so would keys",
        "tools that tell a wrong key from other errors by its code",
        _wrong_key,
    ),
    Row(
        "B03",
        "S",
        "bearer in lower case, Basic, two spaces before the key",
        "served; 401; served or 401",
        "RFC 9110 makes the scheme's case no matter",
        "clients that write it in lower case",
        _schemes,
    ),
    Row(
        "B05",
        "M",
        "a wrong key with stream: true",
        "401 as JSON, no stream",
        "SDKs look at the status before they read a stream",
        "openai-python, openai-node: an empty stream instead of an error",
        _no_key_streaming,
    ),
    Row(
        "C01",
        "S",
        "GET /models",
        'object "list", data with id, object, created (an integer) and owned_by',
        "model pickers fill from it",
        "typed SDKs, chat windows and IDE copilots: an empty list of models",
        _list,
    ),
    Row(
        "C02",
        "S",
        "GET /models/{the model}",
        "the model's object",
        "SDKs have models.retrieve",
        "tools that look whether a model exists before they use it",
        _one,
    ),
    Row(
        "C03",
        "M",
        "GET /models/org/name and /models/org%2Fname",
        "both find the model",
        "SDKs encode the slash, people do not",
        "openai-python and openai-node models.retrieve",
        _slashes,
    ),
    Row(
        "C04",
        "O",
        "GET /models/{one that does not exist}",
        '404, param "model", code model_not_found',
        "it tells a wrong name from a wrong path",
        "tools that look for a model by its code",
        _no_such,
    ),
    Row(
        "C05",
        "O",
        "a completion by a model that does not exist",
        "404, code model_not_found, a message with `does not exist`",
        "another model than the one asked for is a silent change of quality and price",
        "fallbacks that look for `does not exist`, as Vercel's AI SDK does in its tests",
        _unknown_model,
    ),
    Row(
        "K03",
        "P",
        "the plainest request",
        "x-ratelimit-limit, -remaining and -reset for requests and tokens, where there are limits",
        "clients slow down by them before they are refused",
        "batch tools that pace themselves",
        _limit_headers,
    ),
    Row(
        "K08",
        "M",
        "x-stainless-retry-count: 1",
        "200",
        "SDKs send it with every repeat",
        "all official SDKs: no repeat ever succeeds",
        _retry_count,
    ),
)
