"""The [providers.NAME] tables: types, secrets, URLs, headers, certificates, weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from config_cases import CERT, ENV, GOOD, KEY, TYPES, only, problems, provider, written

from penstock.config import ConfigError, Problem, load


def test_a_provider_needs_a_type_that_exists(tmp_path: Path) -> None:
    missing = only(problems(tmp_path, GOOD.replace('type = "openai"\n', "")))
    assert (missing.where, missing.line) == ("providers.openai.type", 1)
    assert missing.fix == "set type to one of: anything, llama, openai"
    assert only(problems(tmp_path, GOOD.replace('"openai"\napi', '"opneai"\napi'))).fix == "did you mean openai?"
    assert only(problems(tmp_path, GOOD.replace('type = "openai"', "type = 7"))).where == "providers.openai.type"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("api.openai.com/v1", "not an http or https URL"),
        ("ftp://h/v1", "not an http or https URL"),
        ("https:///v1", "no host"),
        ("https://user:pass@h/v1", "holds credentials"),
        ("https://user@h/v1", "holds credentials"),
        ("https://h/v1?api-version=1", "holds a query or a fragment"),
        ("https://h/v1?", "holds a query or a fragment"),
        ("https://h/v1#x", "holds a query or a fragment"),
        ("https://h:0/v1", "port 0 cannot be called"),
        ("https://h:99999/v1", "not a URL"),
        ("https://[::1/v1", "not a URL"),
        ("https://h/v 1", "not a URL: it holds a space, a control byte or a letter outside ASCII"),
    ],
)
def test_a_base_url_is_http_and_holds_no_credentials_and_no_query(tmp_path: Path, url: str, message: str) -> None:
    problem = only(problems(tmp_path, provider(f'base_url = "{url}"')))
    assert (problem.where, problem.line, problem.message) == ("providers.openai.base_url", 4, message)


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ('"X-A" = "a\\u0007"', "the value holds a control byte or a letter outside ASCII"),
        ('"X-A" = "a\\r\\nb: c"', "the value holds a control byte or a letter outside ASCII"),
        ('"X A" = "a"', "not the name of a header"),
        ('"X-A\\n" = "a"', "not the name of a header"),
        ('"" = "a"', "not the name of a header"),
        ('Host = "a"', "a header that Penstock sets itself"),
        ('Transfer-Encoding = "chunked"', "a header that Penstock sets itself"),
        ("X-A = 1", "expected a string; got 1"),
        ('X-A = "env:UNSET"', "the environment variable UNSET is not set"),
    ],
)
def test_a_header_cannot_break_the_request(tmp_path: Path, headers: str, message: str) -> None:
    assert only(problems(tmp_path, provider(f"headers = {{ {headers} }}"))).message == message


def test_a_secret_kept_elsewhere_must_be_there(tmp_path: Path) -> None:
    for name, content in (("empty", " \n"), ("two", "a\nb"), ("good", "sk-1\n")):
        (tmp_path / name).write_text(content)

    def found(reference: str) -> str:
        text = GOOD.replace("env:KEY", reference.replace("@", str(tmp_path)))
        return only(problems(tmp_path, text, {**ENV, "EMPTY": "", "TWO": "a\nb"})).message

    assert found("env:NOPE") == "the environment variable NOPE is not set"
    assert found("env:EMPTY") == "the environment variable EMPTY is empty"
    assert "holds no secret" in found("env:TWO")
    assert found("env:sk-12345") == "env: is followed by no name of a variable"
    assert found("file:@/none") == f"{tmp_path}/none cannot be read: no such file or directory"
    assert found("file:@") == f"{tmp_path} is not a file"
    assert found("file:@/empty") == f"{tmp_path}/empty is empty"
    assert "holds no secret" in found("file:@/two")
    load(written(tmp_path, GOOD.replace("env:KEY", f"file:{tmp_path}/good")), ENV, TYPES)


def test_no_problem_repeats_a_secret(tmp_path: Path) -> None:
    text = """\
        [server]
        store = "postgresql://u:sk-secret@h:x"
        [providers.openai]
        type = "openai"
        base_url = "https://u:sk-secret@h/v1"
        api_key = "sk-secret\\n"
        api_keys = "sk-secret"
        headers = { authorization = "Bearer sk-secret\\u0007" }
        max_connections = "sk-secret"
        deadlines = "sk-secret"
        """
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load(path, ENV, TYPES)
    assert len(caught.value.problems) == 8
    assert "sk-secret" not in str(caught.value)


def test_weights_must_be_a_readable_gguf_file(tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("hello")

    def found(model: str) -> str:
        text = f'[providers.l]\ntype = "llama"\nmodel = "{model}"\n[models.m]\ntargets = [{{ provider = "l" }}]\n'
        return only(problems(tmp_path, text)).message

    assert found("/none.gguf") == "/none.gguf cannot be read: no such file or directory"
    assert found(f"{tmp_path}/text.gguf") == f"{tmp_path}/text.gguf is not a GGUF file"


def test_a_type_checks_its_own_settings(tmp_path: Path) -> None:
    text = """\
        [providers.l]
        type = "llama"
        model = "builtin"
        context = 3
        [models.m]
        targets = [{ provider = "l" }]
        """
    assert only(problems(tmp_path, text, {**ENV, "WHOM": "ann"})) == Problem("providers.l.context", 4, "odd", "ask ann")


def test_trust_and_certificates_of_a_client_need_a_provider_over_https(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text(CERT)
    (tmp_path / "key.pem").write_text(KEY)
    pair = f'client_cert = "{tmp_path}/cert.pem"\nclient_key = "{tmp_path}/key.pem"\nca_file = "{tmp_path}/cert.pem"'
    load(written(tmp_path, provider(pair)), ENV, TYPES)
    load(written(tmp_path, provider(f'base_url = "https://h/v1"\n{pair}')), ENV, TYPES)
    plain = problems(tmp_path, provider(f'base_url = "http://h/v1"\n{pair}'))
    assert [problem.line for problem in plain] == [5, 6, 7]
    assert plain[0].message == "of no effect: this provider is not called over https"
    alone = only(problems(tmp_path, provider(f'client_key = "{tmp_path}/key.pem"')))
    assert alone.message == "set without client_cert"
    empty = only(problems(tmp_path, provider(f'ca_file = "{tmp_path}/key.pem"')))
    assert empty.message == f"{tmp_path}/key.pem holds no certificates"


def test_a_provider_has_a_plain_name(tmp_path: Path) -> None:
    found = problems(tmp_path, GOOD + '[providers."a b"]\ntype = "openai"\n[providers.""]\ntype = "openai"\n')
    assert [problem.where for problem in found] == ['providers."a b"', 'providers.""']


def test_a_setting_too_large_to_travel_is_refused(tmp_path: Path) -> None:
    text = GOOD + f'[providers.a]\ntype = "anything"\nextra = {2**70}\n'
    assert only(problems(tmp_path, text)).where == "providers.a"
