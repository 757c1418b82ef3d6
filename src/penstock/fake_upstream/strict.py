"""Strict profiles: a hosted model's published rules as data, so that a gateway can be tested against them offline.

Sources: OpenAI's OpenAPI document (2.3.0), and the texts of its refusals as users of the hosted model report them.
Parameters and messages that are unknown, or of the wrong type or range, are found by the gateway's own decoder of the
wire, which knows the same document; what is here is what one model refuses beyond it. Tokens are estimated, never
counted: four bytes each.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

from penstock.errors import InvalidRequest
from penstock.fake_upstream import strict_parts
from penstock.fake_upstream.script import Fault
from penstock.fake_upstream.shapes import texts
from penstock.wire.chat import decode_chat

BYTES_PER_TOKEN = 4


class Parameter(msgspec.Struct, frozen=True):
    """One parameter that a model refuses: always, or only while it reasons (any effort but none).

    `neutral`: a value that is let pass all the same. `message` may name `{param}` and `{value}`.
    """

    name: str
    message: str
    code: str
    while_reasoning: bool
    neutral: Any = None


class Profile(msgspec.Struct, frozen=True):
    """One model. `snapshot` is the dated name that its answers carry.

    `efforts`: none of them, if the parameter is unknown. `roles`: the only ones that its server knows; all, if none are
    named. `reasons_with_tools`: whether it takes function tools while it reasons.
    """

    name: str
    snapshot: str
    context_tokens: int
    output_tokens: int
    efforts: tuple[str, ...]
    default_effort: str
    refused: tuple[Parameter, ...]
    roles: tuple[str, ...] = ()
    reasons_with_tools: bool = True


_UNSUPPORTED = "Unsupported parameter: '{param}' is not supported with this model."
_ONLY_DEFAULT = (
    "Unsupported value: '{param}' does not support {value} with this model. Only the default (1) value is supported."
)


def _never(name: str, hint: str = "") -> Parameter:
    return Parameter(name, _UNSUPPORTED + hint, "unsupported_parameter", while_reasoning=False)


def _not_reasoning(
    name: str, neutral: Any, message: str = _UNSUPPORTED, code: str = "unsupported_parameter"
) -> Parameter:
    return Parameter(name, message, code, while_reasoning=True, neutral=neutral)


_SAMPLING = (
    _not_reasoning("temperature", 1, _ONLY_DEFAULT, "unsupported_value"),
    _not_reasoning("top_p", 1),
    _not_reasoning("presence_penalty", 0),
    _not_reasoning("frequency_penalty", 0),
    _not_reasoning("logprobs", False),
    _not_reasoning("top_logprobs", None),
)
_NO_LIMIT = _never("max_tokens", " Use 'max_completion_tokens' instead.")

PROFILES = {
    "gpt-5.4": Profile(
        name="gpt-5.4",
        snapshot="gpt-5.4-2026-03-05",
        context_tokens=1_050_000,
        output_tokens=128_000,
        efforts=("none", "low", "medium", "high", "xhigh"),
        default_effort="none",
        refused=(_NO_LIMIT, _never("stop"), _never("logit_bias"), *_SAMPLING),
        reasons_with_tools=False,
    ),
    "o3": Profile(
        name="o3",
        snapshot="o3-2025-04-16",
        context_tokens=200_000,
        output_tokens=100_000,
        efforts=("low", "medium", "high"),
        default_effort="medium",
        refused=(_NO_LIMIT, _never("stop"), _never("logit_bias"), *_SAMPLING),
    ),
    # https://api-docs.deepseek.com/api/create-chat-completion: a server that never heard of developer messages. The
    # hosted one takes the new name of the token limit for nothing, and answers at any length.
    "deepseek-chat": Profile(
        name="deepseek-chat",
        snapshot="deepseek-chat",
        context_tokens=128_000,
        output_tokens=8_000,
        efforts=(),
        default_effort="none",
        refused=(_never("max_completion_tokens"),),
        roles=("system", "user", "assistant", "tool"),
    ),
}

HEADERS = {
    "openai-organization": "org-fake",
    "openai-processing-ms": "7",
    "openai-version": "2020-10-01",
    "x-ratelimit-limit-requests": "10000",
    "x-ratelimit-limit-tokens": "30000000",
    "x-ratelimit-remaining-requests": "9999",
    "x-ratelimit-remaining-tokens": "29999980",
    "x-ratelimit-reset-requests": "6ms",
    "x-ratelimit-reset-tokens": "0s",
}

_NO_KEY = Fault(
    "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth "
    "(i.e. Authorization: Bearer YOUR_KEY)."
)


class Refused(Exception):
    """The request breaks a rule: `status` and OpenAI's own words."""

    def __init__(self, status: int, fault: Fault) -> None:
        super().__init__(fault.message)
        self.status = status
        self.fault = fault


def mask(secret: str) -> str:
    """A secret as it may be shown: its last four characters, and none of a short one."""
    return f"***{secret[-4:]}" if len(secret) >= 12 else "***"


def check_key(authorization: str | None, keys: tuple[str, ...]) -> None:
    """Raise Refused (401) unless the header is a bearer token out of `keys`, or any token where there are none."""
    scheme, _, token = (authorization or "").partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise Refused(401, _NO_KEY)
    if keys and token not in keys:
        raise Refused(401, Fault(f"Incorrect API key provided: {mask(token)}.", code="invalid_api_key"))


def check(profile: Profile, body: bytes) -> None:
    """Raise Refused for the first rule that a chat request breaks."""
    try:
        chat = decode_chat(body)
    except InvalidRequest as error:
        raise Refused(error.status, Fault(error.message, error.type, error.param, error.code)) from error
    data: dict[str, Any] = msgspec.json.decode(body)
    present = {name: value for name, value in data.items() if value is not None}
    if not re.fullmatch(re.escape(profile.name) + r"(-\d{4}-\d{2}-\d{2})?", chat.model):
        message = f"The model `{chat.model}` does not exist or you do not have access to it."
        raise Refused(404, Fault(message, code="model_not_found"))
    if chat.unknown:
        message = f"Unrecognized request argument{'s' * (len(chat.unknown) > 1)} supplied: {', '.join(chat.unknown)}"
        raise Refused(400, Fault(message))
    for rule in RULES:
        fault = rule(profile, present)
        if fault is not None:
            raise Refused(400, fault)


def _effort(profile: Profile, data: dict[str, Any]) -> Fault | None:
    effort = data.get("reasoning_effort")
    if effort is None or effort in profile.efforts:
        return None
    if not profile.efforts:
        return Fault("Unrecognized request argument supplied: reasoning_effort")
    listed = ", ".join(f"'{name}'" for name in profile.efforts[:-1])
    message = (
        f"Unsupported value: 'reasoning_effort' does not support '{effort}' with this model. "
        f"Supported values are: {listed}, and '{profile.efforts[-1]}'."
    )
    return Fault(message, param="reasoning_effort", code="unsupported_value")


def _roles(profile: Profile, data: dict[str, Any]) -> Fault | None:
    for place, message in enumerate(data["messages"]):
        role = message["role"]
        if profile.roles and role not in profile.roles:
            listed = ", ".join(f"`{known}`" for known in profile.roles)
            return Fault(f"messages[{place}].role: unknown variant `{role}`, expected one of {listed}")
    return None


def _parameters(profile: Profile, data: dict[str, Any]) -> Fault | None:
    reasons = data.get("reasoning_effort", profile.default_effort) != "none"
    for row in profile.refused:
        value = data.get(row.name)
        if value is None or (row.while_reasoning and not reasons) or value == row.neutral:
            continue
        return Fault(row.message.format(param=row.name, value=value), param=row.name, code=row.code)
    return None


def _tools(profile: Profile, data: dict[str, Any]) -> Fault | None:
    if data.get("tools") == []:
        message = (
            "Invalid 'tools': empty array. Expected an array with minimum length 1, but got an empty array instead."
        )
        return Fault(message, param="tools", code="empty_array")
    reasons = data.get("reasoning_effort", profile.default_effort) != "none"
    if "tools" not in data or not reasons or profile.reasons_with_tools:
        return None
    message = (
        f"Function tools with reasoning_effort are not supported for {profile.name} in /v1/chat/completions. "
        "Please use /v1/responses instead."
    )
    return Fault(message, param="reasoning_effort")


def _stream_options(profile: Profile, data: dict[str, Any]) -> Fault | None:
    if "stream_options" not in data or data.get("stream") is True:
        return None
    message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
    return Fault(message, param="stream_options")


def _output(profile: Profile, data: dict[str, Any]) -> Fault | None:
    limit = data.get("max_completion_tokens", 0)
    if limit <= profile.output_tokens:
        return None
    message = (
        f"max_tokens is too large: {limit}. This model supports at most {profile.output_tokens} completion tokens, "
        f"whereas you provided {limit}."
    )
    return Fault(message, param="max_completion_tokens", code="invalid_value")


def _context(profile: Profile, data: dict[str, Any]) -> Fault | None:
    tokens = sum(len(text.encode("utf-8", "replace")) for text in texts(data["messages"])) // BYTES_PER_TOKEN
    if tokens <= profile.context_tokens:
        return None
    message = (
        f"This model's maximum context length is {profile.context_tokens} tokens. However, your messages resulted in "
        f"{tokens} tokens. Please reduce the length of the messages."
    )
    return Fault(message, param="messages", code="context_length_exceeded")


# In this order: what OpenAI reports first when several are broken is not published.
RULES: tuple[Callable[[Profile, dict[str, Any]], Fault | None], ...] = (
    _effort,
    _roles,
    _parameters,
    _tools,
    _stream_options,
    _output,
    _context,
    strict_parts.audio,
    strict_parts.images,
    strict_parts.json_mode,
    strict_parts.strict_format,
    strict_parts.strict_functions,
)
