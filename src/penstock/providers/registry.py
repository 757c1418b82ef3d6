"""The types of provider, one row each: what it is called, what it is configured by, what builds it.

A new OpenAI-compatible service is one row of `_COMPATIBLE`; a provider with its own dialect is one file beside this
one and one row of `ROWS`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import msgspec

from penstock.config import Upstream
from penstock.providers.base import Provider
from penstock.providers.llama import Llama, LlamaSettings
from penstock.providers.openai import Dialect, OpenAI, OpenAISettings
from penstock.types import EngineAddress

Build = Callable[[Upstream, EngineAddress | None], Provider]


class Row(msgspec.Struct, frozen=True):
    """One type of provider. `build` takes the address of the local engine that belongs to it, if one does."""

    name: str
    settings: type[msgspec.Struct]
    build: Build


# OpenAI's reasoning models refuse max_tokens: https://platform.openai.com/docs/guides/reasoning
_REASONING = tuple((prefix, "max_completion_tokens") for prefix in ("gpt-5", "o1", "o3", "o4"))

# Services that refuse or ignore max_completion_tokens.
_MAX_TOKENS = (("", "max_tokens"),)

_COMPATIBLE: Mapping[str, Dialect] = {
    "openai": Dialect("https://api.openai.com/v1", "OPENAI_API_KEY", token_limit=_REASONING),
    "openrouter": Dialect("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
    "groq": Dialect("https://api.groq.com/openai/v1", "GROQ_API_KEY"),
    "mistral": Dialect("https://api.mistral.ai/v1", "MISTRAL_API_KEY", token_limit=_MAX_TOKENS, stream_options=False),
    "deepseek": Dialect("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY", token_limit=_MAX_TOKENS),
    "together": Dialect("https://api.together.xyz/v1", "TOGETHER_API_KEY", token_limit=_MAX_TOKENS),
    "vllm": Dialect(None),  # its default port is ours
    "ollama": Dialect("http://127.0.0.1:11434/v1", token_limit=_MAX_TOKENS),
    "llama-server": Dialect("http://127.0.0.1:8080/v1"),
}


def _compatible(name: str, dialect: Dialect) -> Row:
    def build(upstream: Upstream, address: EngineAddress | None) -> Provider:
        settings = msgspec.convert(upstream.settings, OpenAISettings)
        return OpenAI(upstream.name, settings, dialect, os.environ)

    return Row(name, OpenAISettings, build)


def _llama(upstream: Upstream, address: EngineAddress | None) -> Provider:
    if address is None:
        raise ValueError(f"providers.{upstream.name}: its local engine has no address")
    return Llama(upstream, address)


_OWN = (Row("llama", LlamaSettings, _llama),)

ROWS: Mapping[str, Row] = {row.name: row for row in (*(_compatible(*item) for item in _COMPATIBLE.items()), *_OWN)}

SETTINGS: Mapping[str, type[msgspec.Struct]] = {name: row.settings for name, row in ROWS.items()}


def build(upstream: Upstream, address: EngineAddress | None) -> Provider:
    """The provider that `upstream` configures; raises ValueError where its settings cannot work.

    `address` is where the local engine of this upstream listens; None for a provider that has none.
    """
    row = ROWS.get(upstream.type)
    if row is None:
        raise ValueError(f"providers.{upstream.name}.type: {upstream.type!r} is none of {', '.join(ROWS)}")
    return row.build(upstream, address)
