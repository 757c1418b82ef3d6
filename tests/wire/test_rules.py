"""Parameters within their documented ranges are taken, others are refused with OpenAI's param and code."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.wire.chat import decode_chat
from support.chat_bodies import body, function_tool, refusal

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}


def grammar(syntax: str) -> dict[str, Any]:
    format_ = {"type": "grammar", "grammar": {"definition": "start: /a/", "syntax": syntax}}
    return {"type": "custom", "custom": {"name": "t", "format": format_}}


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def allowed(*names: str) -> dict[str, Any]:
    return {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [named(name) for name in names]}}


def json_schema(**members: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": members}


@pytest.mark.parametrize(
    "members",
    [
        *(pytest.param({"temperature": value}, id=f"F02-{value!r}") for value in (0, 1, 2, 0.0, 1.5)),
        *(pytest.param({"top_p": value}, id=f"F04-{value!r}") for value in (0, 1, 0.5)),
        *(pytest.param({"presence_penalty": value}, id=f"F05-presence{value}") for value in (-2, 2)),
        *(pytest.param({"frequency_penalty": value}, id=f"F05-frequency{value}") for value in (-2, 2.0)),
        *(pytest.param({"n": value}, id=f"F06-{value!r}") for value in (1, 128, 2.0)),
        pytest.param({"logprobs": True}, id="F15"),
        *(pytest.param({"logprobs": True, "top_logprobs": value}, id=f"F16-{value}") for value in (0, 5, 20)),
        pytest.param({"logit_bias": {"50256": -100, "7": 100, "8": 0.5}}, id="F18"),
        pytest.param({"seed": -(2**63)}, id="F19-least"),
        pytest.param({"seed": 2**63 - 1}, id="F19-most"),
        pytest.param({"metadata": {f"{number:>064}": "é" * 512 for number in range(16)}}, id="F20"),
        *(pytest.param({"store": value}, id=f"F21-{value}") for value in (True, False, None)),
        *(
            pytest.param({"service_tier": value}, id=f"F22-{value}")
            for value in ("auto", "default", "flex", "scale", "priority", "fast")
        ),
        *(
            pytest.param({"reasoning_effort": value}, id=f"F23-{value}")
            for value in ("none", "minimal", "low", "medium", "high", "xhigh", "max")
        ),
        *(pytest.param({"verbosity": value}, id=f"F24-{value}") for value in ("low", "medium", "high")),
        pytest.param({"modalities": ["text"]}, id="F25"),
        pytest.param(
            {"modalities": ["text", "audio"], "audio": {"format": "wav", "voice": {"id": "v"}}}, id="F25-both"
        ),
        pytest.param({"prediction": {"type": "content", "content": "x"}}, id="F26"),
        pytest.param({"prediction": {"type": "content", "content": [{"type": "text", "text": "x"}]}}, id="F26-parts"),
        pytest.param({"safety_identifier": "x" * 64}, id="F27-safety"),
        pytest.param({"prompt_cache_key": "k", "prompt_cache_retention": "24h", "user": "u"}, id="F27-cache"),
        pytest.param({"prompt_cache_options": {"mode": "explicit", "ttl": "30m"}}, id="F27-options"),
        pytest.param({"web_search_options": {}, "moderation": {"model": "m"}}, id="F28"),
        pytest.param({"stream": True, "stream_options": {"include_usage": True}}, id="F30"),
        pytest.param({"stream": False, "stream_options": None}, id="F30-null"),
        pytest.param({"tools": [function_tool(parameters=SCHEMA)], "tool_choice": "required"}, id="G01"),
        pytest.param({"tools": [function_tool()], "tool_choice": named("f")}, id="G02"),
        pytest.param({"tools": [function_tool()], "tool_choice": "auto"}, id="G03"),
        pytest.param({"tools": [function_tool()], "tool_choice": "none"}, id="G04"),
        pytest.param({"tools": []}, id="G07"),
        pytest.param({"tools": [], "tool_choice": "auto"}, id="G07-auto"),
        pytest.param({"tools": [], "tool_choice": "none", "parallel_tool_calls": False}, id="G07-none"),
        pytest.param({"tools": [function_tool()], "parallel_tool_calls": False}, id="G08"),
        pytest.param({"tools": [function_tool("aZ09_-" + "x" * 58)]}, id="G10"),
        pytest.param({"tools": [function_tool(parameters=None, strict=None, description=None)]}, id="G11"),
        pytest.param({"tools": [function_tool(parameters={})]}, id="G11-any"),
        pytest.param({"tools": [function_tool(parameters=SCHEMA, strict=True)]}, id="G12"),
        pytest.param({"tools": [function_tool(parameters=SCHEMA, strict=True)]}, id="G13"),
        pytest.param({"tools": [function_tool(parameters={"type": ["object", "null"]})]}, id="G14"),
        pytest.param({"tools": [function_tool("f"), function_tool("g")], "tool_choice": allowed("g")}, id="G15"),
        pytest.param({"tools": [{"type": "custom", "custom": {"name": "t"}}]}, id="G17"),
        pytest.param(
            {"tools": [{"type": "custom", "custom": {"name": "t", "format": {"type": "text"}}}]}, id="G17-text"
        ),
        pytest.param({"tools": [grammar("lark")]}, id="G17-lark"),
        pytest.param(
            {"tools": [grammar("regex")], "tool_choice": {"type": "custom", "custom": {"name": "t"}}}, id="G17-choice"
        ),
        pytest.param({"tools": [function_tool(f"f{number}") for number in range(128)]}, id="G21"),
        pytest.param({"functions": [{"name": "f"}], "function_call": {"name": "f"}}, id="E28"),
        pytest.param({"response_format": {"type": "text"}}, id="H01"),
        pytest.param({"response_format": {"type": "json_object"}}, id="H03"),
        pytest.param({"response_format": json_schema(name="n", schema=SCHEMA, strict=True)}, id="H04"),
        pytest.param({"response_format": json_schema(name="x" * 64)}, id="H05"),
        pytest.param({"response_format": json_schema(name="n", schema=SCHEMA, strict=True)}, id="H06"),
        pytest.param({"response_format": json_schema(name="n"), "tools": [function_tool()]}, id="H10"),
    ],
)
def test_documented_values_are_accepted(members: dict[str, Any]) -> None:
    assert decode_chat(body(**members)).unknown == ()


@pytest.mark.parametrize(
    ("members", "param", "code"),
    [
        pytest.param({"temperature": -0.1}, "temperature", "decimal_below_min_value", id="F03-low"),
        pytest.param({"temperature": 2.1}, "temperature", "decimal_above_max_value", id="F03-high"),
        pytest.param({"temperature": "1"}, "temperature", "invalid_type", id="F03-string"),
        pytest.param({"temperature": True}, "temperature", "invalid_type", id="F03-boolean"),
        pytest.param({"temperature": 10**400}, "temperature", "invalid_value", id="F03-no-double"),
        pytest.param({"top_p": -0.1}, "top_p", "decimal_below_min_value", id="F04-low"),
        pytest.param({"top_p": 1.1}, "top_p", "decimal_above_max_value", id="F04-high"),
        pytest.param({"presence_penalty": 2.1}, "presence_penalty", "decimal_above_max_value", id="F05-presence"),
        pytest.param({"frequency_penalty": -2.1}, "frequency_penalty", "decimal_below_min_value", id="F05-frequency"),
        pytest.param({"n": 0}, "n", "integer_below_min_value", id="F06-0"),
        pytest.param({"n": -1}, "n", "integer_below_min_value", id="F06-negative"),
        pytest.param({"n": 129}, "n", "integer_above_max_value", id="F06-129"),
        pytest.param({"n": 1.5}, "n", "invalid_type", id="F06-1.5"),
        pytest.param({"n": 1e300}, "n", "integer_above_max_value", id="F06-1e300"),
        pytest.param({"n": 10**4000}, "n", "integer_above_max_value", id="F06-4000-digits"),
        pytest.param({"n": 0, "stream": True}, "n", "integer_below_min_value", id="F07"),
        pytest.param({"max_tokens": 0}, "max_tokens", "integer_below_min_value", id="F08-0"),
        pytest.param({"max_tokens": -1}, "max_tokens", "integer_below_min_value", id="F08-negative"),
        pytest.param(
            {"max_completion_tokens": 0}, "max_completion_tokens", "integer_below_min_value", id="F08-completion"
        ),
        pytest.param({"max_tokens": "10"}, "max_tokens", "invalid_type", id="F09-string"),
        pytest.param({"max_tokens": 2**31}, "max_tokens", "integer_above_max_value", id="F09-beyond-32-bits"),
        pytest.param(
            {"max_tokens": 0, "max_completion_tokens": 5},
            "max_tokens",
            "integer_below_min_value",
            id="F10-both-checked",
        ),
        pytest.param({"stop": list("abcde")}, "stop", "array_above_max_length", id="F12"),
        pytest.param({"stop": 5}, "stop", "invalid_type", id="F11-number"),
        pytest.param({"stop": ["a", 5]}, "stop[1]", "invalid_type", id="F11-number-inside"),
        pytest.param({"logprobs": 1}, "logprobs", "invalid_type", id="F15"),
        pytest.param({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "integer_above_max_value", id="F17-21"),
        pytest.param({"logprobs": True, "top_logprobs": -1}, "top_logprobs", "integer_below_min_value", id="F17-low"),
        pytest.param({"top_logprobs": 5}, "top_logprobs", None, id="F17-alone"),
        pytest.param({"logprobs": False, "top_logprobs": 5}, "top_logprobs", None, id="F17-off"),
        pytest.param({"logit_bias": {"5": 101}}, "logit_bias.5", "decimal_above_max_value", id="F18-high"),
        pytest.param({"logit_bias": {"5": -101}}, "logit_bias.5", "decimal_below_min_value", id="F18-low"),
        pytest.param({"logit_bias": {"cat": 1}}, "logit_bias", "invalid_value", id="F18-key"),
        pytest.param({"logit_bias": {"5": "x"}}, "logit_bias", "invalid_type", id="F18-string"),
        pytest.param({"logit_bias": "x"}, "logit_bias", "invalid_type", id="F18-no-object"),
        pytest.param({"seed": 2**63}, "seed", "integer_above_max_value", id="F19-high"),
        pytest.param({"seed": -(2**63) - 1}, "seed", "integer_below_min_value", id="F19-low"),
        pytest.param(
            {"metadata": {str(number): "" for number in range(17)}},
            "metadata",
            "object_above_max_properties",
            id="F20-17",
        ),
        pytest.param({"metadata": {"x" * 65: ""}}, "metadata", "property_name_above_max_length", id="F20-65"),
        pytest.param({"metadata": {"k": "x" * 513}}, "metadata.k", "string_above_max_length", id="F20-513"),
        pytest.param({"metadata": {"k": 5}}, "metadata", "invalid_type", id="F20-number"),
        pytest.param({"store": "yes"}, "store", "invalid_type", id="F21"),
        pytest.param({"service_tier": "x"}, "service_tier", "invalid_value", id="F22"),
        pytest.param({"reasoning_effort": "x"}, "reasoning_effort", "invalid_value", id="F23"),
        pytest.param({"reasoning_effort": 3}, "reasoning_effort", "invalid_type", id="F23-number"),
        pytest.param({"verbosity": "x"}, "verbosity", "invalid_value", id="F24"),
        pytest.param({"modalities": ["audio"]}, "audio", "missing_required_parameter", id="F25-no-audio"),
        pytest.param({"modalities": ["video"]}, "modalities[0]", "invalid_value", id="F25-other"),
        pytest.param({"prediction": {"content": "x"}}, "prediction.type", "missing_required_parameter", id="F26"),
        pytest.param({"prediction": {"type": "x", "content": "x"}}, "prediction.type", "invalid_value", id="F26-type"),
        pytest.param({"safety_identifier": "x" * 65}, "safety_identifier", "string_above_max_length", id="F27-safety"),
        pytest.param({"prompt_cache_retention": "1h"}, "prompt_cache_retention", "invalid_value", id="F27-retention"),
        pytest.param(
            {"prompt_cache_options": {"ttl": "1h"}}, "prompt_cache_options.ttl", "invalid_value", id="F27-ttl"
        ),
        pytest.param({"user": 5}, "user", "invalid_type", id="F27-user"),
        pytest.param({"web_search_options": True}, "web_search_options", "invalid_type", id="F28-web"),
        pytest.param({"audio": {"voice": "v"}}, "audio.format", "missing_required_parameter", id="F28-audio"),
        pytest.param({"stream_options": {"include_usage": True}}, "stream_options", None, id="F30"),
        pytest.param({"stream_options": {}, "stream": False}, "stream_options", None, id="F30-false"),
        pytest.param({"stream": "true"}, "stream", "invalid_type", id="F31-string"),
        pytest.param({"stream": 1}, "stream", "invalid_type", id="F31-number"),
        pytest.param(
            {"stream": True, "stream_options": {"include_usage": 1}},
            "stream_options.include_usage",
            "invalid_type",
            id="F31-include-usage",
        ),
    ],
)
def test_other_values_are_refused(members: dict[str, Any], param: str, code: str | None) -> None:
    caught = refusal(body(**members))
    assert (caught.param, caught.code) == (param, code)


@pytest.mark.parametrize(
    ("members", "param", "code"),
    [
        *(
            pytest.param({"tool_choice": choice}, "tool_choice", None, id=f"G05-{choice}")
            for choice in ("auto", "none")
        ),
        pytest.param({"tool_choice": "required", "tools": None}, "tool_choice", None, id="G05-null"),
        pytest.param({"parallel_tool_calls": True}, "parallel_tool_calls", None, id="G06"),
        pytest.param({"tools": [], "tool_choice": "required"}, "tool_choice", None, id="G07-required"),
        pytest.param({"tools": [], "tool_choice": named("f")}, "tool_choice", None, id="G07-named"),
        pytest.param({"tools": [], "tool_choice": allowed("f")}, "tool_choice", None, id="G07-allowed"),
        pytest.param({"tools": [function_tool("")]}, "tools[0].function.name", "empty_string", id="G10-empty"),
        pytest.param({"tools": [function_tool("a b")]}, "tools[0].function.name", "invalid_value", id="G10-space"),
        pytest.param({"tools": [function_tool("a.b")]}, "tools[0].function.name", "invalid_value", id="G10-dot"),
        pytest.param({"tools": [function_tool("a\n")]}, "tools[0].function.name", "invalid_value", id="G10-newline"),
        pytest.param(
            {"tools": [function_tool(), function_tool("x" * 65)]},
            "tools[1].function.name",
            "string_above_max_length",
            id="G10-65",
        ),
        pytest.param(
            {"tools": [function_tool(parameters={"type": 123})]},
            "tools[0].function.parameters",
            "invalid_function_parameters",
            id="G14-number",
        ),
        pytest.param(
            {"tools": [function_tool(parameters={"type": "hiccup"})]},
            "tools[0].function.parameters",
            "invalid_function_parameters",
            id="G14-hiccup",
        ),
        pytest.param(
            {"tools": [function_tool(parameters="hiccup")]},
            "tools[0].function.parameters",
            "invalid_type",
            id="G14-string",
        ),
        pytest.param(
            {"tools": [function_tool()], "tool_choice": allowed("f", "g")}, "tool_choice", None, id="G15-not-declared"
        ),
        pytest.param(
            {"tools": [function_tool()], "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "x"}}},
            "tool_choice.allowed_tools.mode",
            "invalid_value",
            id="G15-mode",
        ),
        pytest.param({"tools": [function_tool()], "tool_choice": named("g")}, "tool_choice", None, id="G16"),
        pytest.param(
            {"tools": [function_tool()], "tool_choice": {"type": "custom", "custom": {"name": "f"}}},
            "tool_choice",
            None,
            id="G16-other-kind",
        ),
        pytest.param(
            {"tools": [function_tool()], "tool_choice": "banana"}, "tool_choice", "invalid_value", id="G16-banana"
        ),
        pytest.param(
            {"tools": [function_tool()], "tool_choice": {"type": "x"}},
            "tool_choice.type",
            "invalid_value",
            id="G16-type",
        ),
        pytest.param({"tools": [{"type": "x"}]}, "tools[0].type", "invalid_value", id="G17-type"),
        pytest.param({"tools": {}}, "tools", "invalid_type", id="G17-object"),
        pytest.param(
            {"tools": [grammar("bnf")]}, "tools[0].custom.format.grammar.syntax", "invalid_value", id="G17-syntax"
        ),
        pytest.param(
            {"tools": [{"type": "custom", "custom": {"name": "a b"}}]},
            "tools[0].custom.name",
            "invalid_value",
            id="G17",
        ),
        pytest.param({"functions": [{"name": "f"}] * 129}, "functions", "array_above_max_length", id="G21-functions"),
        pytest.param({"function_call": "auto"}, "function_call", None, id="E28-alone"),
        pytest.param({"functions": [{"name": "f"}], "function_call": {"name": "g"}}, "function_call", None, id="E28"),
        pytest.param(
            {"response_format": {"type": "json_schema"}},
            "response_format.json_schema",
            "missing_required_parameter",
            id="H05-no-schema",
        ),
        pytest.param(
            {"response_format": json_schema(schema=SCHEMA)},
            "response_format.json_schema.name",
            "missing_required_parameter",
            id="H05-no-name",
        ),
        pytest.param(
            {"response_format": json_schema(name="x" * 65)},
            "response_format.json_schema.name",
            "string_above_max_length",
            id="H05-long",
        ),
        pytest.param(
            {"response_format": json_schema(name="a b")},
            "response_format.json_schema.name",
            "invalid_value",
            id="H05-characters",
        ),
        pytest.param(
            {"response_format": json_schema(name="n", schema={"type": "hiccup"})},
            "response_format.json_schema.schema",
            "invalid_value",
            id="H05-hiccup",
        ),
        *(
            pytest.param({"response_format": {"type": kind}}, "response_format.type", "invalid_value", id=f"H07-{kind}")
            for kind in ("object", "sound")
        ),
        pytest.param({"response_format": "json_object"}, "response_format.type", "invalid_value", id="H07-bare"),
        pytest.param({"response_format": {}}, "response_format.type", "missing_required_parameter", id="H07-empty"),
    ],
)
def test_tools_and_formats_of_another_shape_are_refused(members: dict[str, Any], param: str, code: str | None) -> None:
    caught = refusal(body(**members))
    assert (caught.param, caught.code) == (param, code)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (
            {"temperature": 3},
            "Invalid 'temperature': decimal above maximum value. Expected a value <= 2, but got 3 instead.",
        ),
        (
            {"temperature": "1"},
            "Invalid type for 'temperature': expected a decimal, but got a string instead.",
        ),
        (
            {"max_tokens": 0},
            "Invalid 'max_tokens': integer below minimum value. Expected a value >= 1, but got 0 instead.",
        ),
        (
            {"stop": 5},
            "Invalid type for 'stop': expected one of a string or an array, but got an integer instead.",
        ),
        (
            {"tool_choice": "auto"},
            "Invalid value for 'tool_choice': 'tool_choice' is only allowed when 'tools' are specified.",
        ),
        (
            {"verbosity": "loud"},
            "Invalid value: 'loud'. Supported values are: 'high', 'low', and 'medium'.",
        ),
        (
            {"tools": [function_tool()], "tool_choice": named("g")},
            "Invalid value for 'tool_choice': no function named 'g' was specified in the 'tools' parameter.",
        ),
    ],
)
def test_a_refusal_says_what_was_expected(members: dict[str, Any], message: str) -> None:
    assert refusal(body(**members)).message == message
