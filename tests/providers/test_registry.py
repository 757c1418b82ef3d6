"""Every type of provider can be configured and built by its row."""

from __future__ import annotations

import msgspec
import pytest

from penstock.config import Upstream
from penstock.providers.base import Call
from penstock.providers.openai import OpenAI, OpenAISettings
from penstock.providers.registry import ROWS, SETTINGS, build
from penstock.types import Target
from penstock.wire.chat import decode_chat

COMPATIBLE = [row.name for row in ROWS.values() if issubclass(row.settings, OpenAISettings)]


def test_every_type_has_settings_that_refuse_unknown_names() -> None:
    assert SETTINGS.keys() == ROWS.keys()
    for settings in SETTINGS.values():
        with pytest.raises(msgspec.ValidationError, match="unknown field"):
            msgspec.convert({"no_such_setting": 1}, settings)


@pytest.mark.parametrize("name", COMPATIBLE)
def test_every_compatible_service_is_built_from_its_row(name: str) -> None:
    upstream = Upstream(name="mine", type=name, settings={"base_url": "http://127.0.0.1:9/v1", "api_key": "sk-1"})
    provider = build(upstream, None)
    assert isinstance(provider, OpenAI)
    assert provider.name == "mine"
    assert provider.origin.port == 9


def test_a_services_own_address_and_usual_key_are_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROQ_API_KEY", "gsk-1")
    provider = build(Upstream(name="groq", type="groq"), None)
    chat = decode_chat(b'{"model":"m","messages":[{"role":"user","content":"x"}]}')
    call = provider.prepare(chat, Target(route="m", provider="groq", model="m"))
    assert isinstance(call, Call)
    assert b"host: api.groq.com\r\n" in call.head
    assert b"authorization: Bearer gsk-1\r\n" in call.head


@pytest.mark.parametrize("model", ["gpt-5.4", "gpt-5", "gpt-5-mini", "o1", "o3-mini", "o4-mini"])
def test_openais_reasoning_models_are_sent_the_limit_that_they_understand(model: str) -> None:
    provider = build(Upstream(name="openai", type="openai", settings={"base_url": "http://x", "api_key": "k"}), None)
    chat = decode_chat(b'{"model":"%b","messages":[{"role":"user","content":"x"}],"max_tokens":9}' % model.encode())
    call = provider.prepare(chat, Target(route=model, provider="openai", model=model))
    assert isinstance(call, Call)
    assert b'"max_completion_tokens":9' in call.body
    assert b'"max_tokens"' not in call.body


def test_an_unknown_type_is_refused_with_the_types_that_there_are() -> None:
    with pytest.raises(ValueError, match=r"^providers\.x\.type: 'nope' is none of openai, "):
        build(Upstream(name="x", type="nope"), None)


def test_settings_that_cannot_work_are_refused_by_the_upstreams_name() -> None:
    with pytest.raises(ValueError, match=r"^providers\.mine\.base_url: missing"):
        build(Upstream(name="mine", type="vllm"), None)
