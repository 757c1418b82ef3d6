"""Rows G: tools are checked for every backend, reach a provider as they were sent, and their calls reach the client.

The local engine cannot call tools yet and says so.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from penstock.fake_upstream import Answer
from penstock.fake_upstream.script import Fault
from support.callers import Caller
from support.chat_bodies import function_tool
from support.relaying import Relayed, joined_calls, relayed, step, streamed, whole
from support.upstreams import ThreadedUpstream

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "n": {"enum": [1, 1.50]}},
    "required": ["city", "n"],
    "additionalProperties": False,
}
F = function_tool("f", parameters=SCHEMA)
G = function_tool("g", description="Nothing to be given.")
LARK = {"type": "grammar", "grammar": {"definition": "start: /a+/", "syntax": "lark"}}
CUSTOM = {"type": "custom", "custom": {"name": "t", "format": LARK}}
USER = {"role": "user", "content": "What is the weather in Zürich?"}


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def allowed(*names: str, mode: str = "auto") -> dict[str, Any]:
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [named(name) for name in names]}}


def call(arguments: Any = '{"city":"Zürich","n":1}', name: str = "f", **members: Any) -> dict[str, Any]:
    return {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}, **members}


def asked(script: Answer, **members: Any) -> Relayed:
    return relayed(script, strict="gpt-5.4", **{"tools": [F, G], **members})


# -- what is asked


@pytest.mark.parametrize(
    ("members", "param", "code", "words"),
    [
        pytest.param(
            {"tool_choice": "auto"}, "tool_choice", None, "only allowed when 'tools' are specified", id="G05-auto"
        ),
        pytest.param({"tool_choice": named("f")}, "tool_choice", None, "'tools' are specified", id="G05-named"),
        pytest.param({"parallel_tool_calls": True}, "parallel_tool_calls", None, "'tools' are specified", id="G06"),
        pytest.param({"tools": [], "tool_choice": "required"}, "tool_choice", None, "'tools' are", id="G07-required"),
        pytest.param({"tools": [], "tool_choice": named("f")}, "tool_choice", None, "'tools' are", id="G07-named"),
        pytest.param({"tools": [function_tool("")]}, "tools[0].function.name", "empty_string", "", id="G10-empty"),
        pytest.param({"tools": [F, function_tool("a b")]}, "tools[1].function.name", "invalid_value", "", id="G10-b"),
        pytest.param({"tools": [function_tool("a.b")]}, "tools[0].function.name", "invalid_value", "", id="G10-dot"),
        pytest.param(
            {"tools": [function_tool("x" * 65)]},
            "tools[0].function.name",
            "string_above_max_length",
            "maximum length 64",
            id="G10-65",
        ),
        pytest.param(
            {"tools": [function_tool("f", parameters={"type": 123})]},
            "tools[0].function.parameters",
            "invalid_function_parameters",
            "'object'",
            id="G14-number",
        ),
        pytest.param(
            {"tools": [function_tool("f", parameters="hiccup")]},
            "tools[0].function.parameters",
            "invalid_type",
            "",
            id="G14-string",
        ),
        pytest.param({"tools": [F], "tool_choice": allowed("f", "g")}, "tool_choice", None, "'g'", id="G15-undeclared"),
        pytest.param({"tools": [F], "tool_choice": named("g")}, "tool_choice", None, "'g'", id="G16-undeclared"),
        pytest.param({"tools": [F], "tool_choice": "banana"}, "tool_choice", "invalid_value", "banana", id="G16"),
        pytest.param({"tools": [F], "tool_choice": {"type": "x"}}, "tool_choice.type", "invalid_value", "", id="G16-x"),
        pytest.param({"tools": [{"type": "x"}]}, "tools[0].type", "invalid_value", "'custom'", id="G17-type"),
        pytest.param(
            {"tools": [{"type": "custom", "custom": {"name": "a b"}}]},
            "tools[0].custom.name",
            "invalid_value",
            "",
            id="G17-name",
        ),
    ],
)
def test_tools_that_cannot_be_meant_are_refused_for_every_backend_before_it_is_asked(
    caller: Caller,
    strict_upstream: ThreadedUpstream,
    members: dict[str, Any],
    param: str,
    code: str | None,
    words: str,
) -> None:
    before = len(strict_upstream.seen)
    error = caller.refusal(**members)
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
    assert words in error["message"]
    assert len(strict_upstream.seen) == before


@pytest.mark.parametrize(
    "members",
    [
        pytest.param({"tools": [F, G], "tool_choice": "required"}, id="G01"),
        pytest.param({"tools": [F, G], "tool_choice": named("g")}, id="G02"),
        pytest.param({"tools": [F], "tool_choice": "auto"}, id="G03"),
        pytest.param({"tools": [F], "tool_choice": "none"}, id="G04"),
        pytest.param({"tools": [F], "parallel_tool_calls": False}, id="G08"),
        pytest.param({"tools": [function_tool("aZ09_-" + "x" * 58)]}, id="G10-64"),
        pytest.param({"tools": [G, function_tool("h", parameters=None)]}, id="G11"),
        pytest.param({"tools": [function_tool("f", parameters=SCHEMA, strict=True)]}, id="G12"),
        pytest.param({"tools": [function_tool("f", parameters={"properties": {"a": {"type": "hiccup"}}})]}, id="G14"),
        pytest.param({"tools": [F, G], "tool_choice": allowed("g", mode="required")}, id="G15"),
        pytest.param({"tools": [CUSTOM, {"type": "custom", "custom": {"name": "u"}}]}, id="G17"),
        pytest.param({"tools": [CUSTOM], "tool_choice": {"type": "custom", "custom": {"name": "t"}}}, id="G17-choice"),
        pytest.param({"tools": [function_tool(f"f{number}") for number in range(128)]}, id="G21"),
    ],
)
def test_tools_reach_a_provider_as_they_were_sent(
    hosted: Caller, strict_upstream: ThreadedUpstream, members: dict[str, Any]
) -> None:
    hosted.answer(**members)
    sent = strict_upstream.seen[-1].json()
    assert {name: sent[name] for name in sent.keys() - {"model", "messages"}} == members


@pytest.mark.parametrize("members", [{}, {"tool_choice": "auto"}, {"tool_choice": "none", "parallel_tool_calls": True}])
def test_an_empty_list_of_tools_is_none(
    caller: Caller, strict_upstream: ThreadedUpstream, members: dict[str, Any]
) -> None:
    answer = caller.answer(tools=[], **members)
    assert answer["choices"][0]["finish_reason"] == "stop"
    if not caller.is_local:
        assert strict_upstream.seen[-1].json().keys() == {"model", "messages"}


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"tool_choice": None},
        {"tool_choice": "required"},
        {"tool_choice": named("f")},
        {"tool_choice": allowed("f")},
        {"parallel_tool_calls": False},
        {"tools": [CUSTOM]},
        {"tools": [function_tool("f", parameters={"type": "object"}, strict=True)]},
        {"stream": True},
    ],
)
def test_the_local_engine_refuses_tools_by_name(local: Caller, members: dict[str, Any]) -> None:
    error = local.refusal(**{"tools": [F], **members})
    assert (error["param"], error["code"]) == ("tools", "unsupported_parameter")


@pytest.mark.parametrize("stream", [False, True])
def test_where_no_tool_may_be_called_none_is(caller: Caller, stream: bool) -> None:
    members = {"tools": [F], "tool_choice": "none"}
    found = caller.stream(**members) if stream else [caller.answer(**members)]
    choices = [choice for one in found for choice in one["choices"]]
    assert choices[-1]["finish_reason"] == "stop"
    assert all("tool_calls" not in choice.get("delta", choice.get("message")) for choice in choices)


def history(*contents: Any, identity: str = "call_a") -> list[dict[str, Any]]:
    """A turn in which the assistant called a function for each of these results."""
    ids = [f"{identity}{number}" for number in range(len(contents))]
    calls = [call(id=one) for one in ids]
    replies = [
        {"role": "tool", "tool_call_id": one, "content": content} for one, content in zip(ids, contents, strict=True)
    ]
    return [USER, {"role": "assistant", "content": None, "tool_calls": calls}, *replies]


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param(history("21 °C"), id="string"),
        pytest.param(history(""), id="empty"),
        pytest.param(history([{"type": "text", "text": "21"}, {"type": "text", "text": " °C"}]), id="parts"),
        pytest.param(history("21 °C", "sunny"), id="two"),
        pytest.param(history("21 °C", identity="fc:é/1 "), id="G09"),
        pytest.param(
            [
                USER,
                {
                    "role": "assistant",
                    "tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "t", "input": "aaa"}}],
                },
                {"role": "tool", "tool_call_id": "c", "content": "ok"},
            ],
            id="G17",
        ),
    ],
)
def test_results_of_tools_are_taken_with_the_ids_and_arguments_as_they_were_given(
    caller: Caller, strict_upstream: ThreadedUpstream, messages: list[dict[str, Any]]
) -> None:
    caller.answer(messages=messages)
    if not caller.is_local:
        assert strict_upstream.seen[-1].json()["messages"] == messages


def test_a_schema_that_the_provider_refuses_is_told_in_its_own_words() -> None:
    words = "Invalid schema for function 'f': In context=(), 'additionalProperties' is required to be supplied."
    fault = Fault(words, param="tools[0].function.parameters", code="invalid_function_parameters")
    tools = [function_tool("f", parameters={"type": "object"}, strict=True)]
    found = relayed(Answer(status=400, error=fault), tools=tools)
    assert found.sent["tools"] == tools
    assert found.answered.status == 400
    assert found.answered.error["message"] == words
    assert found.answered.error["code"] == "invalid_function_parameters"


# -- what is answered


def test_a_whole_answer_with_calls_comes_through_as_it_is() -> None:
    calls = [call(), call('{"city": "Z\\u00fcrich", "n": 1.50}', id="call_2")]
    told = whole({"tool_calls": calls}, "tool_calls")
    found = asked(told, tool_choice="required")
    assert told.body is not None
    assert found.answered.body == told.body.encode()
    assert found.message["content"] is None
    assert found.answer["choices"][0]["finish_reason"] == "tool_calls"
    assert [json.loads(one["function"]["arguments"]) for one in found.message["tool_calls"]] == [
        {"city": "Zürich", "n": 1},
        {"city": "Zürich", "n": 1.5},
    ]


@pytest.mark.parametrize(
    ("given", "arguments"),
    [
        pytest.param({"city": "Zürich", "n": 1}, {"city": "Zürich", "n": 1}, id="G01"),
        pytest.param({}, {}, id="G11-object"),
        pytest.param("", {}, id="G11-empty"),
        pytest.param(None, {}, id="G11-null"),
    ],
)
def test_arguments_are_a_string_of_json_whatever_the_provider_wrote(given: Any, arguments: Any) -> None:
    (found,) = asked(whole({"tool_calls": [call(given)]}, "tool_calls")).message["tool_calls"]
    assert type(found["function"]["arguments"]) is str
    assert json.loads(found["function"]["arguments"]) == arguments


@pytest.mark.parametrize("lost", [{"id": None}, {"id": ""}, {"id": "same"}])
def test_every_call_of_a_whole_answer_has_an_id_of_its_own(lost: dict[str, Any]) -> None:
    calls = asked(whole({"tool_calls": [call(**lost), call(**lost)]}, "tool_calls")).message["tool_calls"]
    ids = [one["id"] for one in calls]
    assert all(type(one) is str and one for one in ids)
    assert len(set(ids)) == 2


@pytest.mark.parametrize("lost", [{"id": None}, {"id": ""}, {"id": "same"}])
def test_every_streamed_call_has_an_id_of_its_own_and_arguments_that_are_json(lost: dict[str, Any]) -> None:
    first, second = ({"tool_calls": [{"index": index, **call("", **lost)}]} for index in (0, 1))
    arguments = {"tool_calls": [{"index": 0, "function": {"arguments": '{"city":"Zürich"}'}}]}
    steps: list[dict[str, Any]] = [{"role": "assistant", "content": None}, first, arguments, second]
    found = asked(streamed(*map(step, steps), step({}, "tool_calls")), stream=True).choices
    calls = joined_calls(found)
    assert len({one["id"] for one in calls if one["id"]}) == 2
    assert [json.loads(one["arguments"]) for one in calls] == [{"city": "Zürich"}, {}]


@pytest.mark.parametrize("choice", ["required", named("f"), allowed("f", mode="required")])
def test_the_provider_says_how_a_forced_call_ends(choice: Any) -> None:
    found = asked(whole({"tool_calls": [call()]}), tool_choice=choice)
    assert found.answer["choices"][0]["finish_reason"] == "stop"
    told = streamed(step({"role": "assistant", "tool_calls": [{"index": 0, **call()}]}), step({}, "stop"))
    assert asked(told, stream=True, tool_choice=choice).choices[-1]["finish_reason"] == "stop"


@pytest.mark.parametrize("choice", [{}, {"tool_choice": "auto"}, {"tool_choice": allowed("f")}])
def test_calls_of_the_models_own_will_end_in_tool_calls(choice: dict[str, Any]) -> None:
    message = {"tool_calls": [call()]}
    assert asked(whole(message), **choice).answer["choices"][0]["finish_reason"] == "tool_calls"
    told = streamed(step({"role": "assistant", "tool_calls": [{"index": 0, **call()}]}), step({}, "stop"))
    assert asked(told, stream=True, **choice).choices[-1]["finish_reason"] == "tool_calls"


def test_a_call_that_was_cut_ends_in_length() -> None:
    message = {"tool_calls": [call('{"city":"Zü')]}
    assert asked(whole(message, "length")).answer["choices"][0]["finish_reason"] == "length"
    told = streamed(step({"role": "assistant", "tool_calls": [{"index": 0, **call('{"ci')}]}), step({}, "length"))
    found = asked(told, stream=True).choices
    assert found[-1]["finish_reason"] == "length"
    assert found[0]["delta"]["tool_calls"][0]["function"]["arguments"] == '{"ci'


def test_a_custom_tools_call_comes_through_as_it_is() -> None:
    told = whole({"tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "t", "input": "aaa"}}]}, "tool_calls")
    assert told.body is not None
    assert asked(told, tools=[CUSTOM]).answered.body == told.body.encode()
    deltas: list[dict[str, Any]] = [
        {"role": "assistant", "content": None},
        {"tool_calls": [{"index": 0, "id": "c", "type": "custom", "custom": {"name": "t", "input": ""}}]},
        {"tool_calls": [{"index": 0, "custom": {"input": "aaa"}}]},
    ]
    found = asked(streamed(*map(step, deltas), step({}, "tool_calls")), tools=[CUSTOM], stream=True).choices
    assert [choice["delta"] for choice in found] == [*deltas, {}]
