"""What families of models take where they are hosted: data, one row each, with the page that says so.

A family is all models whose name begins with its `prefix`; the longest prefix decides, and the row with an empty
prefix is what a service's other models take. `registry` names the rows of each service. What no vendor documents was
taken from the refusals that users report; the row then names that thread. `docs/providers.md` shows these rows, and a
test holds it to them.
"""

from __future__ import annotations

from typing import Literal

import msgspec

TokenLimit = Literal["max_tokens", "max_completion_tokens", "both"]


class Family(msgspec.Struct, frozen=True):
    """What a family of models takes.

    `token_limit`: the name of the token limit that is understood. `stop`: whether stop strings are taken (as many as
    OpenAI's four); where not, the gateway cuts. `roles`: the roles that are refused or lost, each with the one that is
    sent instead. `efforts`: the values of reasoning_effort that are taken, () if the parameter is refused, None if
    nobody says; `effort` is the one in force when none is asked for, "" if unknown. `refused`: sampling parameters that
    are refused whatever the effort; `refused_reasoning`: those that are refused unless the effort is none. `names`:
    parameters that go by another name there.
    """

    prefix: str
    source: str
    token_limit: TokenLimit = "both"
    stop: bool = True
    roles: tuple[tuple[str, str], ...] = ()
    efforts: tuple[str, ...] | None = None
    effort: str = ""
    refused: tuple[str, ...] = ()
    refused_reasoning: tuple[str, ...] = ()
    names: tuple[tuple[str, str], ...] = ()


# What a refusing model takes all the same, being what it would do anyway.
NEUTRAL = {"temperature": 1, "top_p": 1, "presence_penalty": 0, "frequency_penalty": 0, "logprobs": False}

AS_SYSTEM = (("developer", "system"),)
_AS_USER = (("developer", "user"), ("system", "user"))

_LOGPROBS = ("logprobs", "top_logprobs")
SAMPLING = ("temperature", "top_p", "presence_penalty", "frequency_penalty", *_LOGPROBS)
ALL_SAMPLING = (*SAMPLING, "logit_bias")

_MODELS = "https://platform.openai.com/docs/models/"
_REASONING = "https://platform.openai.com/docs/guides/reasoning"
_LATEST = "https://platform.openai.com/docs/guides/latest-model"
_CHAT = "https://platform.openai.com/docs/api-reference/chat/create"

_FOUR = ("minimal", "low", "medium", "high")
_THREE = ("low", "medium", "high")


def _always(prefix: str, source: str, efforts: tuple[str, ...], effort: str = "medium", stop: bool = False) -> Family:
    """A model of OpenAI's that always reasons, and so samples as it likes."""
    return Family(prefix, source, "max_completion_tokens", stop, (), efforts, effort, ALL_SAMPLING)


def _optional(prefix: str, source: str, efforts: tuple[str, ...] | None, effort: str) -> Family:
    """A model of OpenAI's that may be told not to reason, and then lets itself be sampled."""
    return Family(
        prefix,
        source,
        "max_completion_tokens",
        False,
        (),
        efforts,
        effort,
        ("logit_bias",),
        refused_reasoning=SAMPLING,
    )


# A server of which nothing is known takes what OpenAI documents.
PLAIN = (Family("", _CHAT),)

# OpenAI's models, at OpenAI and at Azure.
OPENAI: tuple[Family, ...] = (
    *PLAIN,
    Family("gpt-3.5", _MODELS + "gpt-3.5-turbo", efforts=()),
    Family("gpt-4", _MODELS + "gpt-4", efforts=()),
    Family("gpt-4o", _MODELS + "gpt-4o", efforts=()),
    Family("gpt-4.1", _MODELS + "gpt-4.1", efforts=()),
    Family("gpt-4.5", _MODELS + "gpt-4.5-preview", efforts=()),
    Family("chatgpt-4o", _MODELS + "chatgpt-4o-latest", efforts=()),
    # The o-series. Only stop's row in the reference tells o3 and o4-mini from their elders.
    _always("o1", _REASONING, _THREE, stop=True),
    Family("o1-mini", _MODELS + "o1-mini", "max_completion_tokens", roles=_AS_USER, efforts=(), refused=ALL_SAMPLING),
    Family(
        "o1-preview", _MODELS + "o1-preview", "max_completion_tokens", roles=_AS_USER, efforts=(), refused=ALL_SAMPLING
    ),
    _always("o3", _CHAT, _THREE),
    _always("o3-mini", _REASONING, _THREE, stop=True),
    _always("o4-mini", _CHAT, _THREE),
    # GPT-5, with -mini, -nano and dated snapshots.
    _always("gpt-5", _MODELS + "gpt-5", _FOUR),
    _always("gpt-5-codex", _MODELS + "gpt-5-codex", _THREE),
    _always("gpt-5-pro", _MODELS + "gpt-5-pro", ("high",), "high"),
    # It does not reason: https://github.com/BerriAI/litellm/issues/13781
    Family("gpt-5-chat", _MODELS + "gpt-5-chat-latest", "max_completion_tokens", efforts=()),
    _optional("gpt-5.1", _MODELS + "gpt-5.1", ("none", *_THREE), "none"),
    _always("gpt-5.1-chat", "https://github.com/anomalyco/opencode/pull/26268", ("medium",)),
    _always("gpt-5.1-codex", "https://github.com/openai/codex/issues/6647", _THREE),
    _always("gpt-5.1-codex-max", _MODELS + "gpt-5.1-codex-max", (*_THREE, "xhigh")),
    _optional("gpt-5.2", _LATEST, ("none", *_THREE, "xhigh"), "none"),
    _always("gpt-5.2-chat", "https://github.com/anomalyco/opencode/pull/26268", ("medium",)),
    _always("gpt-5.2-codex", _MODELS + "gpt-5.2-codex", (*_THREE, "xhigh")),
    _always("gpt-5.2-pro", _MODELS + "gpt-5.2-pro", ("medium", "high", "xhigh")),
    _always("gpt-5.3-chat", "https://github.com/anomalyco/opencode/pull/26268", ("medium",)),
    _always("gpt-5.3-codex", _MODELS + "gpt-5.3-codex", (*_THREE, "xhigh")),
    _optional("gpt-5.4", _MODELS + "gpt-5.4", ("none", *_THREE, "xhigh"), "none"),
    _always("gpt-5.4-pro", _MODELS + "gpt-5.4-pro", ("medium", "high", "xhigh")),
    _optional("gpt-5.5", "https://github.com/anomalyco/opencode/pull/26268", ("none", *_THREE, "xhigh"), "medium"),
    # Later ones of the family, until they have a row of their own.
    _optional("gpt-5.", _LATEST, None, ""),
)

# Hosted services. Roles as their references list them: none has developer.
OPENROUTER = (Family("", "https://openrouter.ai/docs/api-reference/parameters", roles=AS_SYSTEM),)
GROQ = (Family("", "https://console.groq.com/docs/openai", roles=AS_SYSTEM, refused=(*_LOGPROBS, "logit_bias")),)
MISTRAL = (
    Family(
        "",
        "https://docs.mistral.ai/api/endpoint/chat",
        "max_tokens",
        roles=AS_SYSTEM,
        refused=(*_LOGPROBS, "logit_bias"),
        names=(("seed", "random_seed"),),
    ),
)
DEEPSEEK = (
    Family("", "https://api-docs.deepseek.com/api/create-chat-completion", "max_tokens", roles=AS_SYSTEM),
    Family(
        "deepseek-reasoner",
        "https://api-docs.deepseek.com/guides/reasoning_model",
        "max_tokens",
        roles=AS_SYSTEM,
        refused=_LOGPROBS,  # the others have no effect there, and are taken
    ),
)
TOGETHER = (Family("", "https://docs.together.ai/reference/chat-completions-1", "max_tokens", roles=AS_SYSTEM),)

# Servers of one's own: most chat templates do not know developer, and lose its text or fail.
VLLM = (Family("", "https://github.com/vllm-project/vllm/issues/42407", roles=AS_SYSTEM),)
SGLANG = (Family("", "https://github.com/sgl-project/sglang/issues/40082", roles=AS_SYSTEM),)
LLAMA_SERVER = (Family("", "https://github.com/ggml-org/llama.cpp/pull/20215", roles=AS_SYSTEM),)
OLLAMA = (Family("", "https://docs.ollama.com/api/openai-compatibility", "max_tokens", roles=AS_SYSTEM),)


def find(families: tuple[Family, ...], model: str) -> Family:
    """The row of `families` that a model belongs to; `families` has one with an empty prefix."""
    name = model.removeprefix("ft:")  # a fine-tuned model takes what its base does
    return max((row for row in families if name.startswith(row.prefix)), key=lambda row: len(row.prefix))
