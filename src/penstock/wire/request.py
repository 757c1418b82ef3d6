"""A chat completion request as a value: what was asked, whatever answers it."""

from __future__ import annotations

import msgspec

from penstock.wire.members import nested_too_deeply
from penstock.wire.messages import AnyMessage, Message
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


class _Conversation(msgspec.Struct, frozen=True, gc=False):
    messages: tuple[AnyMessage, ...]


_decode_conversation = msgspec.json.Decoder(_Conversation).decode


class ChatRequest(msgspec.Struct, frozen=True, gc=False):
    """What was asked. A parameter that was null or absent is None; `body` is what the client sent.

    `max_tokens` is the limit in force: `max_completion_tokens` if that was given. `stop` holds no empty string.
    `include_usage` is what the client asked. `fields` are the top-level names whose value is not null, `unknown` those
    that OpenAI does not document; each may be as long as the caller liked.
    """

    body: bytes
    model: str
    fields: frozenset[str]
    unknown: tuple[str, ...]
    stream: bool
    include_usage: bool
    n: int
    max_tokens: int | None
    stop: tuple[str, ...]
    temperature: float | None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    logprobs: bool = False
    top_logprobs: int | None = None
    logit_bias: dict[str, float] | None = None
    tools: tuple[AnyTool, ...] = ()
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    functions: tuple[FunctionDefinition, ...] = ()
    function_call: FunctionMode | Named | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: ReasoningEffort | None = None
    verbosity: Verbosity | None = None
    modalities: tuple[Modality, ...] = ()
    service_tier: ServiceTier | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None
    store: bool = False
    safety_identifier: str | None = None

    def messages(self) -> tuple[Message, ...]:
        """The conversation, decoded anew: most requests are passed on without a look at it, and hold its text once.

        Raises InvalidRequest where it is nested so deeply that it could only just be judged from higher up.
        """
        try:
            return _decode_conversation(self.body).messages
        except RecursionError as error:
            raise nested_too_deeply() from error
