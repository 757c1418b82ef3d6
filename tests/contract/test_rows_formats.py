"""Rows H: formats are checked for every backend and reach a provider byte for byte; the local engine has none yet."""

from __future__ import annotations

import json
from typing import Any

import pytest

from penstock.fake_upstream import Answer
from penstock.fake_upstream.script import Fault
from support.callers import Caller, text_of
from support.chat_bodies import function_tool
from support.relaying import relayed, step, streamed, whole
from support.upstreams import ThreadedUpstream

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "kind": {"enum": ["moon", "planet"]},
        "parent": {"anyOf": [{"$ref": "#/$defs/body"}, {"type": "null"}]},
        "radii": {"type": "array", "items": {"type": "number"}},
    },
    "required": ["name", "kind", "parent", "radii"],
    "additionalProperties": False,
    "$defs": {"body": {"type": "object", "properties": {}, "required": [], "additionalProperties": False}},
}
TITAN = {"name": "Titan", "kind": "moon", "parent": {}, "radii": [2574.7]}
JSON_OBJECT = {"type": "json_object"}


def json_schema(**members: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": members}


STRICT = json_schema(name="moon", schema=SCHEMA, strict=True)
OPEN = json_schema(name="moon", schema={"type": "object", "properties": {"a": {"type": "string"}}}, strict=True)


@pytest.mark.parametrize("members", [{}, {"response_format": None}, {"response_format": {"type": "text"}}])
def test_text_is_what_is_answered_where_nothing_else_is_asked_for(caller: Caller, members: dict[str, Any]) -> None:
    assert text_of(caller.answer(**members))


@pytest.mark.parametrize(
    ("chosen", "param", "code"),
    [
        pytest.param({"type": "json_schema"}, "json_schema", "missing_required_parameter", id="H05-none"),
        pytest.param(json_schema(schema=SCHEMA), "json_schema.name", "missing_required_parameter", id="H05-no-name"),
        pytest.param(json_schema(name=""), "json_schema.name", "empty_string", id="H05-empty"),
        pytest.param(json_schema(name="x" * 65), "json_schema.name", "string_above_max_length", id="H05-65"),
        pytest.param(json_schema(name="a b"), "json_schema.name", "invalid_value", id="H05-space"),
        pytest.param(json_schema(name="n", schema=[]), "json_schema.schema", "invalid_type", id="H05-array"),
        pytest.param(
            json_schema(name="n", schema={"type": "hiccup"}), "json_schema.schema", "invalid_value", id="H05-hiccup"
        ),
        pytest.param({"type": "object"}, "type", "invalid_value", id="H07-object"),
        pytest.param({"type": "sound"}, "type", "invalid_value", id="H07-sound"),
        pytest.param("json_object", "type", "invalid_value", id="H07-bare"),
        pytest.param({}, "type", "missing_required_parameter", id="H07-none"),
    ],
)
def test_a_format_that_is_none_is_refused_for_every_backend_before_it_is_asked(
    caller: Caller, strict_upstream: ThreadedUpstream, chosen: Any, param: str, code: str
) -> None:
    before = len(strict_upstream.seen)
    for stream in (False, True):
        error = caller.refusal(response_format=chosen, stream=stream)
        assert (error["param"], error["code"]) == (f"response_format.{param}", code)
    assert len(strict_upstream.seen) == before


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("chosen", [JSON_OBJECT, STRICT, OPEN, json_schema(name="x" * 64)])
def test_the_local_engine_refuses_formats_by_name(local: Caller, chosen: Any, stream: bool) -> None:
    error = local.refusal(response_format=chosen, stream=stream)
    assert (error["param"], error["code"]) == ("response_format", "unsupported_parameter")


@pytest.mark.parametrize(
    ("chosen", "status"),
    [
        pytest.param(JSON_OBJECT, 400, id="H03"),  # the word is not in the messages, which is the provider's to say
        pytest.param(STRICT, 200, id="H04"),
        pytest.param(json_schema(name="x" * 64), 200, id="H05"),
        pytest.param(OPEN, 400, id="H06"),
    ],
)
@pytest.mark.parametrize("more", [{}, {"tools": [function_tool()], "tool_choice": "auto"}])
def test_a_format_reaches_a_provider_byte_for_byte(
    hosted: Caller, strict_upstream: ThreadedUpstream, chosen: Any, status: int, more: dict[str, Any]
) -> None:
    assert hosted.chat(response_format=chosen, **more).status_code == status
    sent = strict_upstream.seen[-1]
    assert json.dumps(chosen).encode() in sent.body
    assert sent.json() == hosted.body(response_format=chosen, **more)


@pytest.mark.parametrize(
    ("chosen", "words", "param"),
    [
        (JSON_OBJECT, "'messages' must contain the word 'json' in some form, to use 'response_format'.", "messages"),
        (OPEN, "In context=(), 'additionalProperties' is required to be supplied and to be false.", "response_format"),
    ],
)
def test_what_a_provider_asks_of_a_format_beyond_its_form_is_told_in_its_own_words(
    chosen: Any, words: str, param: str
) -> None:
    found = relayed(Answer(status=400, error=Fault(words, param=param)), response_format=chosen)
    assert found.answered.status == 400
    assert (found.answered.error["message"], found.answered.error["param"]) == (words, param)


@pytest.mark.parametrize("chosen", [JSON_OBJECT, STRICT])
def test_an_answer_in_the_format_comes_through_whole_and_streamed(chosen: Any) -> None:
    text = json.dumps(TITAN, ensure_ascii=False)
    asked = {"response_format": chosen, "messages": [{"role": "user", "content": "Describe Titan, in JSON."}]}
    found = relayed(whole({"content": text}), "gpt-5.4", **asked)
    assert json.loads(text_of(found.answer)) == TITAN
    deltas = [{"role": "assistant", "content": ""}, *({"content": char} for char in text)]
    in_pieces = relayed(streamed(*map(step, deltas), step({}, "stop")), "gpt-5.4", stream=True, **asked)
    assert json.loads(text_of(in_pieces.chunks)) == TITAN
    assert in_pieces.choices[-1]["finish_reason"] == "stop"


def test_an_answer_that_was_cut_says_so() -> None:
    cut = '{"name": "Ti'
    found = relayed(whole({"content": cut}, "length"), response_format=STRICT)
    assert (text_of(found.answer), found.answer["choices"][0]["finish_reason"]) == (cut, "length")
    told = streamed(step({"role": "assistant", "content": cut}), step({}, "length"))
    in_pieces = relayed(told, response_format=STRICT, stream=True)
    assert (text_of(in_pieces.chunks), in_pieces.choices[-1]["finish_reason"]) == (cut, "length")
