"""A local model run by our own engine process: llama.cpp behind OpenAI's Chat Completions API.

The engine is used as a plain text generator. A request becomes two calls: ``/apply-template``, by which the model's
own chat template turns the messages into one text (in plainer forms if it refuses them, see `llama_messages`), and the
native ``/completion``. The engine's own ``/v1/chat/completions`` is not used: what it accepts and how it fails is not
OpenAI's. All else that OpenAI's layer means is done here and in `llama_answer`.

Always streamed, with progress reported, also when the caller wants one body: only then does the engine notice a
hang-up while it reads the prompt or generates, and stop. The context's limit is the engine's to enforce, which it does
before the first byte, so that no call is spent on counting tokens.

A request with `continue_final_message`, as vLLM's have it, gets the rest of its last message: that is left out of the
template, and its text goes behind what the template gives.

What this model cannot do is refused with `unsupported_parameter` before anything is sent; nothing is silently left
out but what has no meaning here (user, store, service_tier, prediction, caching hints), and metadata, which is echoed
with store.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from penstock.config import Upstream
from penstock.errors import Failure, FailureKind, InvalidRequest, ProviderFault
from penstock.providers.base import AnyRequest, Call, Preparation, Reader
from penstock.providers.llama_answer import LAST_EVENT_FIELDS, Answer, LlamaReader
from penstock.providers.llama_messages import CONTINUING, FORMS, begun, refuse_media
from penstock.providers.llama_sampling import sampling
from penstock.types import EngineAddress, Origin, Target
from penstock.wire.answer import BROKEN
from penstock.wire.chat import ChatRequest
from penstock.wire.envelope import envelope
from penstock.wire.members import split
from penstock.wire.messages import Message
from penstock.wire.params import TextFormat

BUILTIN = "builtin"
BUILTIN_NAME = "penstock-demo"
BUILTIN_FILE = Path(__file__).parents[1] / "engine" / "demo.gguf"

# The engine takes 32 bits, of which all ones mean a random seed; it counts up from ours for further choices.
_SEEDS = 2**32 - 256
_MOST_TOKENS = 2**31 - 1
_FINGERPRINTED = 1 << 20

_encode = msgspec.json.Encoder().encode


class LlamaSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`model`: path of a GGUF file, or ``builtin``. `name`: what answers call the model; by default the file's name.

    `context`, `parallel` and `threads` are those of `engine.spec.EngineSpec`, 0 meaning that the engine chooses.
    """

    model: str = BUILTIN
    name: str | None = None
    context: Annotated[int, Meta(ge=0, le=2**24)] = 0
    parallel: Annotated[int, Meta(ge=1, le=128)] = 4
    threads: Annotated[int, Meta(ge=0, le=512)] = 0


def model_file(settings: LlamaSettings) -> Path:
    """Where the model's file is."""
    return BUILTIN_FILE if settings.model == BUILTIN else Path(settings.model).expanduser()


def model_name(settings: LlamaSettings) -> str:
    """The name that answers carry."""
    return settings.name or (BUILTIN_NAME if settings.model == BUILTIN else model_file(settings).stem)


class _Prompt(msgspec.Struct, frozen=True):
    """The engine's answer to ``/apply-template``."""

    prompt: str


class _Error(msgspec.Struct, frozen=True):
    message: str = ""
    type: str = ""
    n_prompt_tokens: int = 0
    n_ctx: int = 0


class _ErrorBody(msgspec.Struct, frozen=True):
    error: _Error = _Error()


class Llama:
    """One local model; see `providers.base.Provider`."""

    # Kept in step with `_refuse_unsupported` and `_refuse_neighbours`, by a test.
    probe = None  # its process is watched
    lacks = ("audio", "completions", "embeddings", "files", "images", "json", "responses", "schema", "tools")

    def __init__(
        self,
        upstream: Upstream,
        address: EngineAddress,
        now: Callable[[], float] = time.time,
        new_id: Callable[[], str] = lambda: secrets.token_hex(16),
    ) -> None:
        self._now = now
        self._new_id = new_id
        settings = msgspec.convert(upstream.settings, LlamaSettings)
        self.name = upstream.name
        self.origin = Origin("http", "engine", 80, address.uds)
        self._model = model_name(settings)
        self._parallel = settings.parallel
        self._fingerprint = _fingerprint(model_file(settings))
        fields = f"Host: engine\r\nAuthorization: Bearer {address.token}\r\nContent-Type: application/json\r\n"
        self._template_head = f"POST /apply-template HTTP/1.1\r\n{fields}".encode()
        # The engine closes after a streamed answer whatever its headers say; so nobody picks a dying connection.
        self._completion_head = f"POST /completion HTTP/1.1\r\n{fields}Connection: close\r\n".encode()

    def prepare(self, asked: AnyRequest, target: Target) -> Preparation:
        """The calls that answer `asked`; raises InvalidRequest for what this model cannot do."""
        chat = _chat_alone(asked)
        _refuse_unsupported(chat)
        if chat.n > self._parallel:
            raise InvalidRequest(
                f"Invalid 'n': this model gives at most {self._parallel} choices at once.",
                param="n",
                code="integer_above_max_value",
            )
        messages = chat.messages()
        refuse_media(messages)
        return self._calls(chat, messages, self._generation(chat))

    def reader(self, asked: AnyRequest, target: Target) -> Reader:
        """A reader for the answer."""
        chat = _chat_alone(asked)
        extra: dict[str, Any] = {}
        if chat.service_tier is not None:
            extra["service_tier"] = "default"
        if chat.metadata and bytes(split(chat.body).get("store", b"")) == b"true":
            extra["metadata"] = chat.metadata
        return LlamaReader(
            Answer(
                id=f"chatcmpl-{self._new_id()}",
                created=int(self._now()),
                model=self._model,
                fingerprint=self._fingerprint,
                n=chat.n,
                stops=chat.stop,
                stream=chat.stream,
                usage_asked=chat.include_usage,
                logprobs=(chat.top_logprobs or 0) if chat.logprobs else None,
                extra=extra,
            )
        )

    def failure(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> Failure:
        """Classify an error answer of the engine."""
        try:
            error = msgspec.json.decode(body, type=_ErrorBody).error
        except BROKEN:
            error = _Error()
        if error.type == "exceed_context_size_error":
            return _invalid(
                f"This model's maximum context length is {error.n_ctx} tokens. However, your messages resulted in "
                f"{error.n_prompt_tokens} tokens. Please reduce the length of the messages.",
                param="messages",
                code="context_length_exceeded",
            )
        said = f": {error.message[:300]}" if error.message else "."
        if status == 400:
            return _invalid(f"The local model cannot answer this request{said}")
        if error.type == "unavailable_error":
            return Failure(FailureKind.UNAVAILABLE, "The local model is being loaded.", status, retry_after=1.0)
        return Failure(FailureKind.UNAVAILABLE, f"The local model's engine failed (status {status}){said}", status)

    def refresh(self) -> None:
        """Nothing here changes while we run."""

    def _calls(self, chat: ChatRequest, messages: Sequence[Message], generation: dict[str, Any]) -> Preparation:
        said, beginning = "", begun(chat)
        if beginning is not None:
            messages = messages[:-1]
        for form in FORMS:
            body = {"messages": form(messages), "chat_template_kwargs": {"enable_thinking": False}}
            reply = yield Call(self._template_head, _encode(body))
            if reply.status == 200:
                prompt = msgspec.json.decode(reply.body, type=_Prompt).prompt
                generation["prompt"] = prompt + (beginning or "")
                return Call(self._completion_head, _encode(generation))
            failure = self.failure(reply.status, reply.headers, reply.body)
            # A template that raises is told as 400, and as 500 where the engine could not read the messages.
            if reply.status not in (400, 500):
                raise ProviderFault(failure)
            said = failure.message
        raise InvalidRequest(f"The model's chat template refuses these messages. {said}", param="messages")

    def _generation(self, chat: ChatRequest) -> dict[str, Any]:
        """The engine's parameters but for the prompt. Stop strings are not among them: see `llama_answer`."""
        body: dict[str, Any] = {
            "stream": True,
            "return_progress": True,
            "response_fields": LAST_EVENT_FIELDS,
            "n_predict": -1 if chat.max_tokens is None else min(chat.max_tokens, _MOST_TOKENS),
            # OpenAI's defaults. top_k and min_p keep the engine's, which cut off what small models go astray on.
            "temperature": 1.0 if chat.temperature is None else chat.temperature,
            "top_p": 1.0 if chat.top_p is None else chat.top_p,
            "cache_prompt": True,
        }
        if chat.logprobs:
            body["n_probs"] = max(chat.top_logprobs or 0, 1)  # none would leave out the token itself
        if chat.n > 1:
            body["n_cmpl"] = chat.n
        if chat.seed is not None:
            body["seed"] = chat.seed % _SEEDS
        if chat.presence_penalty:
            body["presence_penalty"] = chat.presence_penalty
        if chat.frequency_penalty:
            body["frequency_penalty"] = chat.frequency_penalty
        if chat.logit_bias:
            body["logit_bias"] = chat.logit_bias
        if chat.unknown:
            members = split(chat.body)
            body |= sampling({name: members[name] for name in chat.unknown if name not in CONTINUING})
        return body


def _chat_alone(asked: AnyRequest) -> ChatRequest:
    """The request, which must be for a chat completion."""
    if not isinstance(asked, ChatRequest):
        raise InvalidRequest(
            f"This model runs on the local engine, which answers /v1/chat/completions alone. For /v1/{asked.endpoint}, "
            "name a model of an OpenAI-compatible provider that serves it, such as OpenAI, vLLM or llama-server.",
            param="model",
            code="unsupported_endpoint",
        )
    return asked


def _refuse_unsupported(chat: ChatRequest) -> None:
    """Raise InvalidRequest for the first parameter that asks for what this engine cannot do yet."""
    asked = {
        "tools": bool(chat.tools) and chat.tool_choice != "none",
        "functions": bool(chat.functions) and chat.function_call != "none",
        "response_format": chat.response_format is not None and not isinstance(chat.response_format, TextFormat),
        "modalities": "audio" in chat.modalities,
    }
    asked |= {name: name in chat.fields for name in ("audio", "web_search_options", "moderation")}
    for name, is_asked in asked.items():
        if is_asked:
            raise InvalidRequest(
                f"Unsupported parameter: '{name}' is not supported with this model.",
                param=name,
                code="unsupported_parameter",
            )
    if chat.reasoning_effort not in (None, "none"):
        raise InvalidRequest(
            f"Unsupported value: 'reasoning_effort' does not support '{chat.reasoning_effort}' with this model. "
            "Supported values are: 'none'.",
            param="reasoning_effort",
            code="unsupported_value",
        )


def _invalid(message: str, *, param: str | None = None, code: str | None = None) -> Failure:
    body = envelope(InvalidRequest(message, param=param, code=code))
    return Failure(FailureKind.INVALID, message, 400, body, too_long=code == "context_length_exceeded")


def _fingerprint(path: Path) -> str:
    """The same for the same file, over restarts: its size and beginning, which holds its facts and vocabulary."""
    try:
        with path.open("rb") as file:
            digest = hashlib.sha256(file.read(_FINGERPRINTED))
            digest.update(str(path.stat().st_size).encode())
    except OSError:  # the engine says what is wrong with the file
        digest = hashlib.sha256(str(path).encode())
    return f"fp_{digest.hexdigest()[:12]}"
