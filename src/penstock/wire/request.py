"""A chat completion request as a value: what was asked, whatever answers it."""

from __future__ import annotations

import msgspec

from penstock.wire.messages import Message
from penstock.wire.params import (
    AnyTool,
    FunctionDefinition,
    FunctionMode,
    Modality,
    Named,
    ReasoningEffort,
    ResponseFormat,
    ServiceTier,
    ToolChoice,
    Verbosity,
)


class ChatRequest(msgspec.Struct, frozen=True, gc=False):
    """What was asked. A parameter that was null or absent is None; `body` is what the client sent.

    `max_tokens` is the limit in force: `max_completion_tokens` if that was given. `stop` holds no empty string.
    `include_usage` is what the client asked. `fields` are the top-level names whose value is not null, `unknown` those
    that OpenAI does not document; each may be as long as the caller liked.
    """

    body: bytes
    model: str
    messages: tuple[Message, ...]
    fields: frozenset[str]
    unknown: tuple[str, ...]
    stream: bool
    include_usage: bool
    n: int
    max_tokens: int | None
    stop: tuple[str, ...]
    temperature: float | None
    top_p: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    seed: int | None
    logprobs: bool
    top_logprobs: int | None
    logit_bias: dict[str, float] | None
    tools: tuple[AnyTool, ...]
    tool_choice: ToolChoice | None
    parallel_tool_calls: bool | None
    functions: tuple[FunctionDefinition, ...]
    function_call: FunctionMode | Named | None
    response_format: ResponseFormat | None
    reasoning_effort: ReasoningEffort | None
    verbosity: Verbosity | None
    modalities: tuple[Modality, ...]
    service_tier: ServiceTier | None
    metadata: dict[str, str] | None
    user: str | None
    store: bool = False
    safety_identifier: str | None = None
