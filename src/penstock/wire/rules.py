"""The values that a body of the right shape may hold: ranges, lengths, and parameters that need each other.

A rule is run for a parameter that the body names, in the order of the body, and raises InvalidRequest with OpenAI's
`param` and `code`. Null satisfies every rule.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Literal, get_args

import msgspec

from penstock.errors import InvalidRequest
from penstock.wire.diagnose import excerpt, listed
from penstock.wire.messages import check_order
from penstock.wire.params import (
    AllowedChoice,
    AnyTool,
    CustomChoice,
    FunctionChoice,
    FunctionDefinition,
    FunctionTool,
    JSONSchemaFormat,
    Named,
    Params,
    RawObject,
)

Rule = Callable[[Params], None]
SchemaType = Literal["string", "number", "integer", "boolean", "object", "array", "null"]

INT32_MAX = 2**31 - 1
MODEL_LENGTH = 256
STOPS = 4
_NAME = re.compile(r"[a-zA-Z0-9_-]+")
_TOKEN_ID = re.compile(r"[0-9]{1,10}")
_SCHEMA_TYPE = msgspec.json.Decoder(SchemaType | list[SchemaType])


def integer(param: str, value: int | float, low: int, high: int) -> int:
    """`value` as an int within [low, high]."""
    if type(value) is float and not value.is_integer():
        raise InvalidRequest(
            f"Invalid type for '{param}': expected an integer, but got a decimal instead.",
            param=param,
            code="invalid_type",
        )
    if value < low or value > high:
        raise _out_of_range("integer", param, value, low, high)
    return int(value)


def _decimal(param: str, low: float, high: float) -> Rule:
    def rule(params: Params) -> None:
        value = getattr(params, param)
        if value is not None and not low <= value <= high:
            raise _out_of_range("decimal", param, value, low, high)

    return rule


def _out_of_range(kind: str, param: str, value: float, low: float, high: float) -> InvalidRequest:
    side, sign, bound = ("below minimum", ">=", low) if value < low else ("above maximum", "<=", high)
    short = "below_min" if value < low else "above_max"
    return InvalidRequest(
        f"Invalid '{param}': {kind} {side} value. Expected a value {sign} {_number(bound)}, "
        f"but got {_number(value)} instead.",
        param=param,
        code=f"{kind}_{short}_value",
    )


def _number(value: float) -> str:
    return excerpt(str(int(value)) if value == int(value) else repr(value))


def _longest(param: str, value: str, most: int) -> None:
    if len(value) > most:
        raise InvalidRequest(
            f"Invalid '{param}': string too long. Expected a string with maximum length {most}, "
            f"but got a string with length {len(value)} instead.",
            param=param,
            code="string_above_max_length",
        )


def not_empty(param: str, value: str) -> None:
    """A string of at least one character."""
    if not value:
        raise InvalidRequest(
            f"Invalid '{param}': empty string. Expected a string with minimum length 1, "
            "but got an empty string instead.",
            param=param,
            code="empty_string",
        )


def _most_items(param: str, length: int, most: int) -> None:
    if length > most:
        raise InvalidRequest(
            f"Invalid '{param}': array too long. Expected an array with maximum length {most}, "
            f"but got an array with length {length} instead.",
            param=param,
            code="array_above_max_length",
        )


def _name(param: str, name: str) -> None:
    """A name of a function, a tool or a schema."""
    not_empty(param, name)
    _longest(param, name, 64)
    if _NAME.fullmatch(name) is None:
        raise InvalidRequest(
            f"Invalid '{param}': string does not match pattern. "
            "Expected a string that matches the pattern '^[a-zA-Z0-9_-]+$'.",
            param=param,
            code="invalid_value",
        )


def _model(params: Params) -> None:
    if not 0 < len(params.model) <= MODEL_LENGTH:
        model_name(params.model)


def model_name(name: str) -> None:
    """A name that a model may have."""
    not_empty("model", name)
    _longest("model", name, MODEL_LENGTH)


def _messages(params: Params) -> None:
    messages = params.messages
    if not messages:
        raise InvalidRequest(
            "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array instead.",
            param="messages",
            code="empty_array",
        )
    for message in messages:
        if message.tool_calls or message.role == "tool":
            check_order(messages)
            return


def _stop(params: Params) -> None:
    if params.stop is not None and not isinstance(params.stop, str):
        _most_items("stop", len(params.stop), STOPS)


def _top_logprobs(params: Params) -> None:
    if params.top_logprobs is not None and not params.logprobs:
        raise InvalidRequest(
            "Invalid value for 'top_logprobs': 'top_logprobs' is only allowed when 'logprobs' is true.",
            param="top_logprobs",
        )


def _logit_bias(params: Params) -> None:
    for token, bias in (params.logit_bias or {}).items():
        if _TOKEN_ID.fullmatch(token) is None:
            raise InvalidRequest(
                f"Invalid key in 'logit_bias': '{excerpt(token)}'. "
                "You should only be submitting non-negative integers.",
                param="logit_bias",
                code="invalid_value",
            )
        if not -100 <= bias <= 100:
            raise _out_of_range("decimal", f"logit_bias.{token}", bias, -100, 100)


def _metadata(params: Params) -> None:
    check_metadata(params.metadata or {})


def check_metadata(pairs: dict[str, str]) -> None:
    """At most 16 pairs, none of them too long."""
    if len(pairs) > 16:
        raise InvalidRequest(
            "Invalid 'metadata': too many properties. Expected an object with at most 16 properties, "
            f"but got an object with {len(pairs)} properties instead.",
            param="metadata",
            code="object_above_max_properties",
        )
    for key, value in pairs.items():
        if len(key) > 64:
            raise InvalidRequest(
                f"Invalid 'metadata': property name '{excerpt(key)}' is too long. "
                f"Expected a name with maximum length 64, but got one with length {len(key)} instead.",
                param="metadata",
                code="property_name_above_max_length",
            )
        _longest(f"metadata.{excerpt(key)}", value, 512)


def _safety_identifier(params: Params) -> None:
    _longest("safety_identifier", params.safety_identifier or "", 64)


def _modalities(params: Params) -> None:
    if params.modalities and "audio" in params.modalities and params.audio is None:
        raise InvalidRequest(
            "Missing required parameter: 'audio'. It is required when 'modalities' includes 'audio'.",
            param="audio",
            code="missing_required_parameter",
        )


def _stream_options(params: Params) -> None:
    if params.stream_options is not None and not params.stream:
        raise InvalidRequest(
            "Invalid value for 'stream_options': 'stream_options' is only allowed when 'stream' is enabled.",
            param="stream_options",
        )


def _schema(param: str, schema: RawObject | None, code: str) -> None:
    """The type of a JSON Schema; what is inside it, the backend that compiles it judges."""
    if schema is None or "type" not in schema:
        return
    try:
        _SCHEMA_TYPE.decode(schema["type"])
    except msgspec.ValidationError as error:
        raise InvalidRequest(
            f"Invalid schema for '{param}': its 'type' must be one of {listed(get_args(SchemaType))}, "
            "or an array of them.",
            param=param,
            code=code,
        ) from error


def _function(param: str, function: FunctionDefinition) -> None:
    _name(f"{param}.name", function.name)
    _schema(f"{param}.parameters", function.parameters, "invalid_function_parameters")


def _tools(params: Params) -> None:
    for index, tool in enumerate(params.tools or ()):
        if isinstance(tool, FunctionTool):
            _function(f"tools[{index}].function", tool.function)
        else:
            _name(f"tools[{index}].custom.name", tool.custom.name)


def _functions(params: Params) -> None:
    functions = params.functions or ()
    _most_items("functions", len(functions), 128)
    for index, function in enumerate(functions):
        _function(f"functions[{index}]", function)


def _function_call(params: Params) -> None:
    choice = params.function_call
    if choice is None:
        return
    if not params.functions:
        raise _only_with("function_call", "functions")
    if isinstance(choice, Named) and all(function.name != choice.name for function in params.functions):
        raise _undeclared("function_call", "function", choice.name, "functions")


def _parallel_tool_calls(params: Params) -> None:
    if params.parallel_tool_calls is not None and params.tools is None:
        raise _only_with("parallel_tool_calls", "tools")


def _tool_choice(params: Params) -> None:
    choice = params.tool_choice
    if choice is None:
        return
    # An empty array is no tools, and choosing among none of them is what frameworks send with it.
    if params.tools is None or (not params.tools and choice not in ("none", "auto")):
        raise _only_with("tool_choice", "tools")
    if isinstance(choice, AllowedChoice):
        _declared(choice.allowed_tools.tools, params.tools)
    elif isinstance(choice, FunctionChoice | CustomChoice):
        _declared((choice,), params.tools)


def _declared(choices: Iterable[FunctionChoice | CustomChoice], tools: tuple[AnyTool, ...]) -> None:
    functions = {tool.function.name for tool in tools if isinstance(tool, FunctionTool)}
    customs = {tool.custom.name for tool in tools if not isinstance(tool, FunctionTool)}
    for choice in choices:
        if isinstance(choice, FunctionChoice):
            if choice.function.name not in functions:
                raise _undeclared("tool_choice", "function", choice.function.name, "tools")
        elif choice.custom.name not in customs:
            raise _undeclared("tool_choice", "custom tool", choice.custom.name, "tools")


def _only_with(param: str, other: str) -> InvalidRequest:
    return InvalidRequest(
        f"Invalid value for '{param}': '{param}' is only allowed when '{other}' are specified.", param=param
    )


def _undeclared(param: str, kind: str, name: str, where: str) -> InvalidRequest:
    return InvalidRequest(
        f"Invalid value for '{param}': no {kind} named '{excerpt(name)}' was specified in the '{where}' parameter.",
        param=param,
    )


def _response_format(params: Params) -> None:
    chosen = params.response_format
    if isinstance(chosen, JSONSchemaFormat):
        _name("response_format.json_schema.name", chosen.json_schema.name)
        _schema("response_format.json_schema.schema", chosen.json_schema.schema, "invalid_value")


RULES: dict[str, Rule] = {
    "model": _model,
    "messages": _messages,
    "temperature": _decimal("temperature", 0, 2),
    "top_p": _decimal("top_p", 0, 1),
    "presence_penalty": _decimal("presence_penalty", -2, 2),
    "frequency_penalty": _decimal("frequency_penalty", -2, 2),
    "stop": _stop,
    "top_logprobs": _top_logprobs,
    "logit_bias": _logit_bias,
    "metadata": _metadata,
    "safety_identifier": _safety_identifier,
    "modalities": _modalities,
    "stream_options": _stream_options,
    "tools": _tools,
    "tool_choice": _tool_choice,
    "parallel_tool_calls": _parallel_tool_calls,
    "functions": _functions,
    "function_call": _function_call,
    "response_format": _response_format,
}
