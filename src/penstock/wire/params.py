"""The shape of a request body: every parameter that OpenAI documents, with its JSON types.

Only types are told here; which values they may have is in `rules`. An integer is written ``int | float``, since
``10.0`` is an integer in JSON. What is passed on and never acted upon is `msgspec.Raw`, checked to be JSON but not
decoded.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from penstock.wire.messages import AnyMessage, Text

RawObject = dict[str, msgspec.Raw]
ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Verbosity = Literal["low", "medium", "high"]
ServiceTier = Literal["auto", "default", "flex", "scale", "priority", "fast"]
Modality = Literal["text", "audio"]
CacheRetention = Literal["in_memory", "24h"]
ToolMode = Literal["none", "auto", "required"]
FunctionMode = Literal["none", "auto"]


class StreamOptions(msgspec.Struct, frozen=True, gc=False):
    """How a stream is dressed."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class FunctionDefinition(msgspec.Struct, frozen=True, gc=False):
    """`parameters` is a JSON Schema; without it the function takes none."""

    name: str
    description: str | None = None
    parameters: RawObject | None = None
    strict: bool | None = None


class FunctionTool(msgspec.Struct, frozen=True, gc=False, tag_field="type", tag="function"):
    """A function that the model may call."""

    function: FunctionDefinition


class PlainText(msgspec.Struct, frozen=True, gc=False, tag_field="type", tag="text"):
    """Any text."""


class Grammar(msgspec.Struct, frozen=True, gc=False):
    """What a custom tool's input must match."""

    definition: str
    syntax: Literal["lark", "regex"]


class GrammarText(msgspec.Struct, frozen=True, gc=False, tag_field="type", tag="grammar"):
    """Text of a grammar."""

    grammar: Grammar


class CustomDefinition(msgspec.Struct, frozen=True, gc=False):
    """A custom tool takes text; `format` says which."""

    name: str
    description: str | None = None
    format: PlainText | GrammarText | None = None


class CustomTool(msgspec.Struct, frozen=True, gc=False, tag_field="type", tag="custom"):
    """A custom tool that the model may call."""

    custom: CustomDefinition


AnyTool = FunctionTool | CustomTool


class Named(msgspec.Struct, frozen=True, gc=False):
    """The name of a declared tool."""

    name: str


class FunctionChoice(msgspec.Struct, frozen=True, gc=False, tag_field="type", tag="function"):
    """This function."""

    function: Named


class CustomChoice(msgspec.Struct, frozen=True, gc=False, tag_field="type", tag="custom"):
    """This custom tool."""

    custom: Named


class AllowedTools(msgspec.Struct, frozen=True, gc=False):
    """`required`: one of them must be called; `auto`: may be."""

    mode: Literal["auto", "required"]
    tools: tuple[FunctionChoice | CustomChoice, ...]


class AllowedChoice(msgspec.Struct, frozen=True, gc=False, tag_field="type", tag="allowed_tools"):
    """Only these of the declared tools."""

    allowed_tools: AllowedTools


ToolChoice = ToolMode | FunctionChoice | CustomChoice | AllowedChoice


class TextFormat(msgspec.Struct, frozen=True, gc=False, tag_field="type", tag="text"):
    """The answer is any text."""


class JSONObjectFormat(msgspec.Struct, frozen=True, gc=False, tag_field="type", tag="json_object"):
    """The answer is some JSON object."""


class NamedSchema(msgspec.Struct, frozen=True, gc=False):
    """`schema` is a JSON Schema."""

    name: str
    description: str | None = None
    schema: RawObject | None = None
    strict: bool | None = None


class JSONSchemaFormat(msgspec.Struct, frozen=True, gc=False, tag_field="type", tag="json_schema"):
    """The answer is JSON of a schema."""

    json_schema: NamedSchema


ResponseFormat = TextFormat | JSONObjectFormat | JSONSchemaFormat


class Prediction(msgspec.Struct, frozen=True, gc=False):
    """What the answer will mostly repeat."""

    type: Literal["content"]
    content: str | tuple[Text, ...]


class CacheOptions(msgspec.Struct, frozen=True, gc=False):
    """How the prompt is cached upstream."""

    mode: Literal["implicit", "explicit"] | None = None
    ttl: Literal["30m"] | None = None


class AudioOutput(msgspec.Struct, frozen=True, gc=False):
    """`voice` is a name, or an object with an id."""

    format: Literal["wav", "aac", "mp3", "flac", "opus", "pcm16"]
    voice: str | RawObject


class Params(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The body. Null is the same as absent for all but `model` and `messages`."""

    model: str
    messages: tuple[AnyMessage, ...]
    audio: AudioOutput | None = None
    frequency_penalty: float | None = None
    function_call: FunctionMode | Named | None = None
    functions: tuple[FunctionDefinition, ...] | None = None
    logit_bias: dict[str, float] | None = None
    logprobs: bool | None = None
    max_completion_tokens: int | float | None = None
    max_tokens: int | float | None = None
    metadata: dict[str, str] | None = None
    modalities: tuple[Modality, ...] | None = None
    moderation: RawObject | None = None
    n: int | float | None = None
    parallel_tool_calls: bool | None = None
    prediction: Prediction | None = None
    presence_penalty: float | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: CacheOptions | None = None
    prompt_cache_retention: CacheRetention | None = None
    reasoning_effort: ReasoningEffort | None = None
    response_format: ResponseFormat | None = None
    safety_identifier: str | None = None
    seed: int | float | None = None
    service_tier: ServiceTier | None = None
    stop: str | tuple[str, ...] | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    tool_choice: ToolChoice | None = None
    tools: tuple[AnyTool, ...] | None = None
    top_logprobs: int | float | None = None
    top_p: float | None = None
    user: str | None = None
    verbosity: Verbosity | None = None
    web_search_options: RawObject | None = None


class Edit(msgspec.Struct, frozen=True, gc=False):
    """The body of a change of what is kept."""

    metadata: dict[str, str] | None
