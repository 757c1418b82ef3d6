"""A request and a target in, the call to make out; settings that cannot work are refused by name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock import __version__
from penstock.errors import FailureKind
from penstock.providers.base import Call, Origin
from penstock.providers.capabilities import AS_SYSTEM, MISTRAL, OPENAI, Family
from penstock.providers.openai import Dialect, OpenAI, OpenAISettings
from penstock.providers.openai_answer import BodyReader, StreamReader
from penstock.providers.registry import COMPATIBLE
from penstock.types import Target
from penstock.wire.chat import ChatRequest, decode_chat

PLAIN = Dialect("https://api.acme.test/v1", "ACME_API_KEY")
REASONING = Dialect("https://api.acme.test/v1", families=OPENAI)
OLD_LIMIT = Dialect("https://api.acme.test/v1", families=(Family("", "", "max_tokens", roles=AS_SYSTEM),))
NO_OPTIONS = Dialect("https://api.acme.test/v1", stream_options=False)


def provider(dialect: Dialect = PLAIN, environ: Mapping[str, str] | None = None, **settings: Any) -> OpenAI:
    if environ is None:
        environ = {"ACME_API_KEY": "sk-env"}
    return OpenAI("acme", msgspec.convert(settings, OpenAISettings), dialect, environ, now=lambda: 1_760_000_000.0)


def chat(members: str = "", model: str = "gpt-5.4") -> ChatRequest:
    extra = f", {members}" if members else ""
    return decode_chat(
        f'{{ "model": "{model}", "messages":[{{"role":"user","content":"\\u00e9 x"}}]{extra} }}'.encode()
    )


def target(model: str = "gpt-5.4") -> Target:
    return Target(route="gpt-5.4", provider="acme", model=model)


def sent(call: Call) -> dict[str, Any]:
    found = msgspec.json.decode(call.body)
    assert isinstance(found, dict)
    return found


def fields(call: Call) -> dict[str, str]:
    """The header fields of the call; the form of the head is checked on the way."""
    assert call.head.endswith(b"\r\n")
    lines = call.head.decode("ascii").split("\r\n")[1:-1]
    found = dict(line.split(": ", 1) for line in lines)
    assert len(found) == len(lines)
    return found


def test_the_call_goes_to_the_services_chat_completions_with_its_own_key() -> None:
    call = provider().prepare(chat(), target())
    assert call.head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
    assert fields(call) == {
        "host": "api.acme.test",
        "authorization": "Bearer sk-env",
        "user-agent": f"penstock/{__version__}",
        "content-type": "application/json",
        "accept": "application/json",
    }
    assert provider().origin == Origin("https", "api.acme.test", 443)


def test_a_stream_is_asked_for_as_a_stream() -> None:
    assert fields(provider().prepare(chat('"stream": true'), target()))["accept"] == "text/event-stream"


def test_a_request_that_needs_nothing_goes_out_as_the_very_bytes_that_came_in() -> None:
    for members in ("", '"stream": true, "stream_options": {"include_usage": true}', '"foo": 1e2, "max_tokens": 5'):
        request = chat(members)
        assert provider().prepare(request, target()).body is request.body


def test_only_the_models_name_changes_under_an_alias() -> None:
    call = provider().prepare(chat('"foo" : [1.50e2, "\\u00e9"]'), target('other "x"'))
    assert sent(call)["model"] == 'other "x"'
    assert b'[1.50e2, "\\u00e9"]' in call.body
    assert b'"\\u00e9 x"' in call.body


@pytest.mark.parametrize(
    ("members", "options"),
    [
        ("", {"include_usage": True}),
        ('"stream_options": null', {"include_usage": True}),
        ('"stream_options": {"include_usage": false}', {"include_usage": True}),
        ('"stream_options": {"include_obfuscation": false}', {"include_obfuscation": False, "include_usage": True}),
    ],
)
def test_usage_of_a_stream_is_always_asked_for_beside_the_callers_options(
    members: str, options: dict[str, bool]
) -> None:
    request = chat('"stream": true' + (f", {members}" if members else ""))
    assert sent(provider().prepare(request, target()))["stream_options"] == options


def test_an_answer_that_is_no_stream_needs_no_options() -> None:
    assert "stream_options" not in sent(provider().prepare(chat(), target("other")))


@pytest.mark.parametrize("include_usage", ["true", "false"])
def test_a_service_that_refuses_stream_options_is_sent_none(include_usage: str) -> None:
    request = chat(f'"stream": true, "stream_options": {{"include_usage": {include_usage}}}')
    assert "stream_options" not in sent(provider(NO_OPTIONS).prepare(request, target()))
    bare = chat('"stream": true')
    assert provider(NO_OPTIONS).prepare(bare, target()).body is bare.body


@pytest.mark.parametrize(
    ("dialect", "model", "members", "limits"),
    [
        (REASONING, "gpt-5.4", '"max_tokens": 5', {"max_completion_tokens": 5}),
        (REASONING, "gpt-5.4", '"max_completion_tokens": 6', {"max_completion_tokens": 6}),
        (REASONING, "gpt-5.4", '"max_tokens": 5, "max_completion_tokens": 6', {"max_completion_tokens": 6}),
        (REASONING, "gpt-4o", '"max_tokens": 5', {"max_tokens": 5}),
        (OLD_LIMIT, "any", '"max_completion_tokens": 6', {"max_tokens": 6}),
        (OLD_LIMIT, "any", '"max_tokens": 5, "max_completion_tokens": 6', {"max_tokens": 6}),
        (OLD_LIMIT, "any", '"max_tokens": 5', {"max_tokens": 5}),
        (PLAIN, "any", '"max_tokens": 5', {"max_tokens": 5}),
        (PLAIN, "any", '"max_completion_tokens": 6', {"max_completion_tokens": 6}),
        (PLAIN, "any", '"max_tokens": 5, "max_completion_tokens": 6', {"max_completion_tokens": 6}),
    ],
)
def test_the_token_limit_goes_out_under_the_name_that_the_target_understands(
    dialect: Dialect, model: str, members: str, limits: dict[str, int]
) -> None:
    found = sent(provider(dialect).prepare(chat(members), target(model)))
    assert {name: value for name, value in found.items() if name.startswith("max_")} == limits


@pytest.mark.parametrize(
    "members",
    [
        '"stop": []',
        '"stop": ""',
        '"tools": []',
        '"tools": [], "tool_choice": "auto", "parallel_tool_calls": false',  # of no use alone, and refused
    ],
)
def test_an_empty_list_is_not_sent_on(members: str) -> None:
    assert set(sent(provider().prepare(chat(members), target()))) == {"model", "messages"}


def test_several_keys_take_turns() -> None:
    acme = provider(api_key=["sk-1", "env:ACME_API_KEY"])
    used = [fields(acme.prepare(chat(), target()))["authorization"] for _ in range(4)]
    assert used[0] != used[1]
    assert used[:2] == used[2:]
    assert set(used) == {"Bearer sk-1", "Bearer sk-env"}


def test_the_services_usual_key_goes_to_the_services_own_address_only() -> None:
    call = provider(base_url="http://127.0.0.1:8080/v1").prepare(chat(), target())
    assert "authorization" not in fields(call)


def test_a_missing_usual_key_is_named() -> None:
    with pytest.raises(ValueError, match=r"^providers\.acme\.api_key: .* ACME_API_KEY is not set; "):
        provider(environ={})


def test_headers_and_query_parameters_are_added() -> None:
    acme = provider(
        base_url="https://acme.test/openai/",
        headers={"api-key": "env:ACME_API_KEY", "OpenAI-Organization": "org 1", "User-Agent": "mine"},
        query={"api-version": "2026-01-01", "q": "a b&c"},
    )
    call = acme.prepare(chat(), target())
    assert call.head.startswith(b"POST /openai/chat/completions?api-version=2026-01-01&q=a+b%26c HTTP/1.1\r\n")
    found = fields(call)
    assert found["api-key"] == "sk-env"
    assert found["openai-organization"] == "org 1"
    assert found["user-agent"] == "mine"


def test_a_key_file_that_changes_changes_the_key_and_one_that_vanishes_does_not(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    first.write_text("sk-a\n")
    second.write_text("v1")
    acme = provider(api_key=f"file:{first}", headers={"x-tenant": f"file:{second}"})
    for path, text in ((first, "sk-b"), (second, "v2")):
        new = tmp_path / "new"
        new.write_text(text)
        os.replace(new, path)
    acme.refresh()
    found = fields(acme.prepare(chat(), target()))
    assert (found["authorization"], found["x-tenant"]) == ("Bearer sk-b", "v2")
    first.unlink()
    acme.refresh()
    assert fields(acme.prepare(chat(), target()))["authorization"] == "Bearer sk-b"


@pytest.mark.parametrize(
    ("base_url", "origin", "host", "path"),
    [
        ("http://127.0.0.1:8080/v1", Origin("http", "127.0.0.1", 8080), "127.0.0.1:8080", "/v1"),
        ("http://[::1]:8080", Origin("http", "::1", 8080), "[::1]:8080", ""),
        ("https://ACME.test:443/a/b/", Origin("https", "acme.test", 443), "acme.test", "/a/b"),
        ("http://acme.test:443", Origin("http", "acme.test", 443), "acme.test:443", ""),
    ],
)
def test_the_base_url_gives_origin_host_and_path(base_url: str, origin: Origin, host: str, path: str) -> None:
    acme = provider(base_url=base_url)
    call = acme.prepare(chat(), target())
    assert acme.origin == origin
    assert fields(call)["host"] == host
    assert call.head.startswith(b"POST %b/chat/completions HTTP" % path.encode())


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"base_url": ""}, "base_url: "),
        ({"base_url": "api.acme.test/v1"}, "base_url: must look like"),
        ({"base_url": "ftp://acme.test"}, "base_url: must look like"),
        ({"base_url": "https:///v1"}, "base_url: must look like"),
        ({"base_url": "http://a<b/v1"}, "base_url: must look like"),
        ({"base_url": "https://acme.test/v1\r\nx: y"}, "base_url: holds"),
        ({"base_url": "https://äcme.test"}, "base_url: holds"),
        ({"base_url": "https://u:hidden@acme.test"}, "base_url: must not hold a user"),
        ({"base_url": "https://acme.test?a=b"}, "base_url: must not hold a query"),
        ({"base_url": "https://acme.test:99999"}, "base_url: not a URL"),
        ({"base_url": "https://[::1"}, "base_url: not a URL"),
        ({"base_url": "https://acme.test:0"}, "base_url: port 0"),
        ({"api_key": "hidden\r\nx: y"}, "api_key: "),
        ({"api_key": ["sk-1", ""]}, "api_key: "),
        ({"headers": {"x-a": "hidden\nx"}}, "headers.x-a: "),
        ({"headers": {"x a": "1"}}, "headers.x a: not a header"),
        ({"headers": {"x:": "1"}}, "headers.x:: not a header"),
        ({"headers": {"Host": "1"}}, "headers.Host: cannot be set"),
        ({"headers": {"Content-Length": "1"}}, "headers.Content-Length: cannot be set"),
        (
            {"headers": {"Authorization": "Basic x"}, "api_key": "sk"},
            "headers.Authorization: cannot be set beside api_key",
        ),
        ({"headers": {"X-A": "1", "x-a": "2"}}, "headers.x-a: cannot be set beside X-A"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=r"^providers\.acme\.") as refusal:
        provider(**settings)
    assert complaint in str(refusal.value)
    assert "hidden" not in str(refusal.value)


def test_a_service_without_an_address_of_its_own_needs_one() -> None:
    with pytest.raises(ValueError, match=r"^providers\.acme\.base_url: missing"):
        provider(Dialect(None))


def test_the_reader_fits_the_request() -> None:
    assert isinstance(provider().reader(chat('"stream": true'), target()), StreamReader)
    assert isinstance(provider().reader(chat(), target()), BodyReader)


def test_an_error_answer_is_classified_with_the_providers_name_and_clock() -> None:
    found = provider().failure(429, [(b"retry-after", b"Thu, 09 Oct 2025 08:53:50 GMT")], b"")
    assert found.kind is FailureKind.RATE_LIMITED
    assert found.retry_after == 30.0
    assert "'acme'" in found.message


DROPPING = Target(route="*", provider="acme", model="gpt-5.4", drop_unsupported=True)


def dropped(members: str, at: Target = DROPPING) -> tuple[set[str], bytes]:
    """The parameters that are left out of the request, and what the response says of it."""
    acme, request = provider(REASONING), chat(members)
    return set(request.fields - sent(acme.prepare(request, at)).keys()), acme.reader(request, at).head


@pytest.mark.parametrize(
    ("members", "names"),
    [
        ('"temperature": 0.3', ""),
        ('"temperature": 0.3, "reasoning_effort": "low"', "temperature"),
        ('"temperature": 1.0, "top_p": 1, "presence_penalty": 0, "reasoning_effort": "low"', ""),
        ('"logprobs": true, "top_logprobs": 2, "reasoning_effort": "low"', "logprobs, top_logprobs"),
        ('"logit_bias": {"1": 2}', "logit_bias"),
        ('"reasoning_effort": "minimal"', "reasoning_effort"),
        ('"reasoning_effort": "xhigh"', ""),
        ('"reasoning_effort": "max", "temperature": 0.3', "reasoning_effort"),
        ('"foo": 1, "seed": 7', ""),
    ],
)
def test_what_a_model_is_known_to_refuse_is_left_out_and_named(members: str, names: str) -> None:
    expected = set(names.split(", ")) if names else set()
    head = f"x-penstock-dropped: {names}\r\n".encode() if names else b""
    assert dropped(members) == (expected, head)


def test_nothing_is_left_out_unless_the_model_is_so_configured() -> None:
    assert dropped('"temperature": 0.3, "reasoning_effort": "minimal"', target()) == (set(), b"")


def test_only_what_is_known_of_an_unknown_model_is_left_out() -> None:
    later = Target(route="*", provider="acme", model="gpt-5.9", drop_unsupported=True)
    assert dropped('"reasoning_effort": "minimal", "temperature": 0.3', later)[0] == {"temperature"}
    other = Target(route="*", provider="acme", model="qwen3", drop_unsupported=True)
    assert dropped('"reasoning_effort": "minimal", "temperature": 0.3', other)[0] == set()


def test_stop_is_taken_out_where_it_is_refused_and_left_where_it_is_not() -> None:
    request = chat('"stop": ["a", "b"]')
    assert "stop" not in sent(provider(REASONING).prepare(request, target()))
    assert provider(PLAIN).prepare(request, target()).body is request.body


def test_a_name_that_does_not_tell_has_the_capabilities_of_the_one_it_is_like() -> None:
    request = chat('"max_tokens": 5, "stop": "x"')
    deployment = Target(route="*", provider="acme", model="prod", like="gpt-5.4")
    assert sent(provider(REASONING).prepare(request, deployment))["max_completion_tokens"] == 5
    assert sent(provider(REASONING).prepare(request, target("prod")))["max_tokens"] == 5


def test_a_role_that_the_target_does_not_take_goes_out_as_another() -> None:
    body = b'{"model":"any","messages":[{"role":"developer","content":"a"},{ "role":"user","content":"b"}]}'
    found = provider(OLD_LIMIT).prepare(decode_chat(body), target("any")).body
    assert found == body.replace(b"developer", b"system")
    plain = body.replace(b"developer", b"system")
    asked = decode_chat(plain)
    assert provider(OLD_LIMIT).prepare(asked, target("any")).body is plain
    assert provider(REASONING).prepare(decode_chat(body), target("gpt-5.4")).body.count(b"developer") == 1


def test_a_parameter_goes_out_under_the_name_that_it_has_there() -> None:
    mistral = provider(Dialect("https://api.acme.test/v1", families=MISTRAL))
    found = sent(mistral.prepare(chat('"seed": 7, "max_completion_tokens": 5', "any"), target("any")))
    assert (found["random_seed"], found["max_tokens"]) == (7, 5)
    assert not {"seed", "max_completion_tokens"} & found.keys()


def test_a_key_goes_where_its_service_wants_it() -> None:
    azure = provider(Dialect(None, key_header="api-key"), base_url="https://acme.test/openai/v1/", api_key="k")
    call = azure.prepare(chat(), target())
    assert call.head.startswith(b"POST /openai/v1/chat/completions HTTP/1.1\r\n")
    assert (fields(call)["api-key"], "authorization" in fields(call)) == ("k", False)
    with pytest.raises(ValueError, match="API-Key: cannot be set beside api_key"):
        provider(
            Dialect(None, key_header="api-key"), base_url="https://acme.test", api_key="k", headers={"API-Key": "x"}
        )


def test_names_of_models_are_remembered_within_bounds() -> None:
    acme, request = provider(REASONING), chat('"max_tokens": 5')
    for number in range(10_000):
        acme.prepare(request, target(f"gpt-5.4-{number}"))
    acme.prepare(request, target("gpt-5.4-" + "x" * 1_000_000))
    remembered = acme._rules[False]
    assert len(remembered) <= 4096
    assert max(map(len, remembered)) <= 128


MEMBERS = (
    '"stream": true',
    '"stream": true, "stream_options": {"include_usage": true}',
    '"stop": []',
    '"stop": ["x"]',
    '"tools": []',
    '"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "auto", "parallel_tool_calls": false',
    '"store": true, "metadata": {"a": "b"}',
    '"store": false',
    '"max_tokens": 5',
    '"max_completion_tokens": 5',
    '"max_tokens": 5, "max_completion_tokens": 5',
    '"temperature": 0.5, "top_p": 0.5, "presence_penalty": 0.5, "frequency_penalty": 0.5',
    '"n": 2, "seed": 7, "user": "u", "safety_identifier": "s"',
    '"logprobs": true, "top_logprobs": 2',
    '"logit_bias": {"5": 1}',
    '"reasoning_effort": "low"',
    '"verbosity": "low"',
    '"response_format": {"type": "json_object"}',
    '"modalities": ["text"], "service_tier": "auto"',
    '"something_else": [1]',
    "",
)


@pytest.mark.parametrize("dialect", [PLAIN, REASONING, OLD_LIMIT, NO_OPTIONS, *COMPATIBLE.values()])
@pytest.mark.parametrize("drops", [False, True])
def test_a_body_goes_out_as_it_came_only_where_nothing_in_it_is_to_be_changed(dialect: Dialect, drops: bool) -> None:
    made = provider(msgspec.structs.replace(dialect, base_url=PLAIN.base_url), {}, api_key="k")
    for model in {"gpt-5.4", *(family.prefix for family in dialect.families)}:
        at = msgspec.structs.replace(target(model or "m"), drop_unsupported=drops)
        for members in MEMBERS:
            asked = chat(members, model or "m")
            assert sent(made.prepare(asked, at)) == msgspec.json.decode(made._adapted(asked, at, made._find_rules(at)))
