"""The types of provider, one row each: what it is called, what it is configured by, what builds it.

A new OpenAI-compatible service is one row of `COMPATIBLE`, a family of models that takes other parameters one of
`capabilities`; a provider with its own dialect is one file beside this one and one row of `ROWS`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping

import msgspec

from penstock.config import Upstream
from penstock.providers import capabilities
from penstock.providers.base import Provider
from penstock.providers.llama import Llama, LlamaSettings
from penstock.providers.openai import Dialect, Fault, OpenAI, OpenAISettings, problems
from penstock.types import EngineAddress

Build = Callable[[Upstream, EngineAddress | None], Provider]


class Row(msgspec.Struct, frozen=True):
    """One type of provider. `build` takes the address of the local engine that belongs to it, if one does."""

    name: str
    settings: type[msgspec.Struct]
    build: Build


COMPATIBLE: Mapping[str, Dialect] = {
    "openai": Dialect(
        "https://api.openai.com/v1",
        "OPENAI_API_KEY",
        families=capabilities.OPENAI,
        usage="the last chunk, without choices, when asked",
        source="https://platform.openai.com/docs/api-reference/chat",
    ),
    "azure": Dialect(
        None,  # https://RESOURCE.openai.azure.com/openai/v1/
        key_header="api-key",
        families=capabilities.OPENAI,
        usage="the last chunk, without choices, when asked",
        quirks="a first chunk without choices; DeploymentNotFound for a model that is not there",
        source="https://learn.microsoft.com/en-us/azure/ai-foundry/openai/api-version-lifecycle",
    ),
    "openrouter": Dialect(
        "https://openrouter.ai/api/v1",
        "OPENROUTER_API_KEY",
        families=capabilities.OPENROUTER,
        reasoning=("reasoning",),
        usage="the last chunk, unasked",
        quirks="comments while it waits; errors in the stream, with a number for a code",
        source="https://openrouter.ai/docs/use-cases/reasoning-tokens",
    ),
    "groq": Dialect(
        "https://api.groq.com/openai/v1",
        "GROQ_API_KEY",
        families=capabilities.GROQ,
        reasoning=("reasoning", "tags"),
        usage="the chunk with the finish, also in x_groq",
        quirks="refuses n above 1 and names of messages",
        source="https://console.groq.com/docs/reasoning",
    ),
    "mistral": Dialect(
        "https://api.mistral.ai/v1",
        "MISTRAL_API_KEY",
        families=capabilities.MISTRAL,
        stream_options=False,
        reasoning=("parts",),
        usage="the chunk with the finish, unasked",
        quirks="422 for parameters that it does not know, told as FastAPI does",
        source="https://docs.mistral.ai/capabilities/reasoning",
    ),
    "deepseek": Dialect(
        "https://api.deepseek.com/v1",
        "DEEPSEEK_API_KEY",
        families=capabilities.DEEPSEEK,
        reasoning=("reasoning_content",),
        usage="the last chunk, when asked; prompt_cache_hit_tokens",
        quirks="empty lines and comments while it waits; 402 when the balance is spent",
        source="https://api-docs.deepseek.com/guides/kv_cache",
    ),
    "together": Dialect(
        "https://api.together.xyz/v1",
        "TOGETHER_API_KEY",
        families=capabilities.TOGETHER,
        reasoning=("reasoning", "tags"),
        usage="the chunk with the finish",
        quirks="finish_reason eos",
        source="https://docs.together.ai/docs/deepseek-r1",
    ),
    "vllm": Dialect(
        None,  # its default port is ours
        families=capabilities.VLLM,
        reasoning=("reasoning", "reasoning_content", "tags"),
        usage="the last chunk, without choices, when asked; on every chunk if it is so configured",
        quirks="errors without an envelope, with a number for a code; empty tool_calls",
        source="https://docs.vllm.ai/en/stable/features/reasoning_outputs/",
    ),
    "sglang": Dialect(
        "http://127.0.0.1:30000/v1",
        families=capabilities.SGLANG,
        reasoning=("reasoning_content", "tags"),
        usage="the last chunk, without choices, when asked",
        quirks="errors without an envelope",
        source="https://docs.sglang.io/docs/advanced_features/separate_reasoning",
    ),
    "ollama": Dialect(
        "http://127.0.0.1:11434/v1",
        families=capabilities.OLLAMA,
        reasoning=("reasoning", "tags"),
        usage="the last chunk, without choices, when asked",
        quirks="ignores n and logit_bias",
        source="https://docs.ollama.com/api/openai-compatibility",
    ),
    "llama-server": Dialect(
        "http://127.0.0.1:8080/v1",
        families=capabilities.LLAMA_SERVER,
        reasoning=("reasoning_content", "tags"),
        usage="the last chunk, when asked",
        quirks="503 while it loads its model",
        source="https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md",
    ),
}


def _compatible(name: str, dialect: Dialect) -> Row:
    class Settings(OpenAISettings, frozen=True, forbid_unknown_fields=True):
        def problems(self, env: Mapping[str, str]) -> Iterator[Fault]:
            return problems(self, dialect, env)

    def build(upstream: Upstream, address: EngineAddress | None) -> Provider:
        settings = msgspec.convert(upstream.settings, OpenAISettings)
        return OpenAI(upstream.name, settings, dialect, os.environ)

    return Row(name, Settings, build)


def _llama(upstream: Upstream, address: EngineAddress | None) -> Provider:
    if address is None:
        raise ValueError(f"providers.{upstream.name}: its local engine has no address")
    return Llama(upstream, address)


_OWN = (Row("llama", LlamaSettings, _llama),)

ROWS: Mapping[str, Row] = {row.name: row for row in (*(_compatible(*item) for item in COMPATIBLE.items()), *_OWN)}

SETTINGS: Mapping[str, type[msgspec.Struct]] = {name: row.settings for name, row in ROWS.items()}


def build(upstream: Upstream, address: EngineAddress | None) -> Provider:
    """The provider that `upstream` configures; raises ValueError where its settings cannot work.

    `address` is where the local engine of this upstream listens; None for a provider that has none.
    """
    row = ROWS.get(upstream.type)
    if row is None:
        raise ValueError(f"providers.{upstream.name}.type: {upstream.type!r} is none of {', '.join(ROWS)}")
    return row.build(upstream, address)
