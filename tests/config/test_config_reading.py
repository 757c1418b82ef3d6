"""A file, the environment and the command line become a Config, or every problem at once."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from config_cases import ENV, GOOD, TYPES, only, problems, provider, server, written

from penstock import link
from penstock.config import Config, ConfigError, default, load, override, summary


def test_a_file_is_read_into_frozen_values_with_defaults(tmp_path: Path) -> None:
    text = """\
        [server]
        listen = "0.0.0.0:9000"
        workers = 4
        [server.limits]
        body_timeout = 5
        [providers.openai]
        type = "openai"
        api_key = ["env:KEY", "env:KEY"]
        max_connections = 7
        deadlines = { connect = 1 }
        [models."gpt-5.4"]
        policy = "ordered"
        targets = [{ provider = "openai", model = "other" }, { provider = "openai" }]
        [models."gpt-*"]
        targets = [{ provider = "openai" }]
        """
    config = load(written(tmp_path, text), ENV, TYPES)
    assert (config.server.listen, config.server.workers) == ("0.0.0.0:9000", 4)
    assert (config.server.limits.body_timeout, config.server.limits.idle_timeout) == (5.0, 75.0)
    assert config.server.data_dir == "/home/ann/.local/share/penstock"
    upstream = config.providers["openai"]
    assert (upstream.name, upstream.type, upstream.max_connections) == ("openai", "openai", 7)
    assert (upstream.deadlines.connect, upstream.deadlines.idle) == (1.0, 60.0)
    assert upstream.settings == {"api_key": ["env:KEY", "env:KEY"]}
    assert [target.model for target in config.models["gpt-5.4"].targets] == ["other", None]
    assert list(config.models) == ["gpt-5.4", "gpt-*"]
    assert config.warnings == ()


def test_the_configuration_survives_the_way_to_a_worker(tmp_path: Path) -> None:
    text = (
        provider("max_connections = 3") + '[providers.a]\ntype = "anything"\nextra = [1, 2.5, 1979-05-27, {b = true}]\n'
    )
    config = load(written(tmp_path, text), ENV, TYPES)
    frame = link.encode(link.Start(0, config, (3,)))
    assert msgspec.msgpack.decode(frame[4:], type=link.Start).config == config
    assert config.providers["a"].settings == {"extra": [1, 2.5, "1979-05-27", {"b": True}]}


def test_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "penstock.toml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert list(load(path, ENV, TYPES).models) == ["gpt-5.4"]


def test_the_environment_names_the_data_directory_before_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, server('data_dir = "/from/the/file"'))
    assert load(path, ENV, TYPES).server.data_dir == "/from/the/file"
    assert load(path, {**ENV, "PENSTOCK_DATA_DIR": "~/x"}, TYPES).server.data_dir == "/home/ann/x"
    assert load(path, {**ENV, "PENSTOCK_DATA_DIR": ""}, TYPES).server.data_dir == "/from/the/file"


def test_a_tilde_in_a_providers_path_is_expanded_for_who_reads_it_later(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-2\n")
    (tmp_path / "m.gguf").write_bytes(b"GGUF....")
    text = """\
        [providers.openai]
        type = "openai"
        api_key = "file:~/key"
        [providers.local]
        type = "llama"
        model = "~/m.gguf"
        [models.m]
        targets = [{ provider = "openai" }, { provider = "local" }]
        """
    config = load(written(tmp_path, text), {"HOME": str(tmp_path)}, TYPES)
    assert config.providers["openai"].settings["api_key"] == f"file:{tmp_path}/key"
    assert config.providers["local"].settings["model"] == f"{tmp_path}/m.gguf"


def test_every_problem_is_reported_at_once_with_its_line(tmp_path: Path) -> None:
    text = """\
        srver = 1
        [server]
        listen = "127.0.0.1"
        workers = 0
        store = "mysql://db/penstock"
        counters = "memcached://h"
        trusted_proxies = [
          "10.0.0.0/8",
          "10.0.0.1/8",
        ]
        [server.limits]
        body_timeout = nan
        [providers.openai]
        type = "openai"
        base_url = "ftp://h/v1"
        api_key = "env:NOPE"
        deadlines = { connect = "x" }
        max_conections = 4
        [providers.old]
        type = "opnai"
        [models."gpt-5.4"]
        policy = "random"
        targets = [
          { provider = "openai" },
          { provider = "opena", modl = "x" },
        ]
        [models."a*b"]
        targets = []
        """
    assert [(problem.line, problem.where) for problem in problems(tmp_path, text)] == [
        (1, "srver"),
        (3, "server.listen"),
        (4, "server.workers"),
        (5, "server.store"),
        (6, "server.counters"),
        (9, "server.trusted_proxies[1]"),
        (12, "server.limits.body_timeout"),
        (15, "providers.openai.base_url"),
        (16, "providers.openai.api_key"),
        (17, "providers.openai.deadlines.connect"),
        (18, "providers.openai.max_conections"),
        (20, "providers.old.type"),
        (22, 'models."gpt-5.4".policy'),
        (25, 'models."gpt-5.4".targets[1].modl'),
        (25, 'models."gpt-5.4".targets[1].provider'),
        (27, 'models."a*b"'),
        (28, 'models."a*b".targets'),
    ]


def test_the_error_reads_as_one_line_for_each_problem(tmp_path: Path) -> None:
    path = written(tmp_path, server('workers = 900\n"new\\nline" = 1'))
    with pytest.raises(ConfigError) as caught:
        load(path, ENV, TYPES)
    first, second = str(caught.value).splitlines()
    assert first == (
        f"{path}:2: server.workers: expected a whole number from 1 to 256; got 900. "
        "Fix: write a whole number from 1 to 256, or leave it out, which means 1."
    )
    assert second.startswith(f'{path}:3: server."new\\nline": unknown setting. Fix: ')


@pytest.mark.parametrize(
    ("line", "meant"),
    [("workrs = 2", "workers"), ("Listen = 'x'", "listen"), ("limit = {}", "limits"), ("tls_crt = 'x'", "tls_cert")],
)
def test_an_unknown_setting_is_an_error_that_names_the_likely_one(tmp_path: Path, line: str, meant: str) -> None:
    assert only(problems(tmp_path, server(line))).fix == f"did you mean {meant}?"


def test_a_misspelt_common_setting_of_a_provider_finds_its_name(tmp_path: Path) -> None:
    assert only(problems(tmp_path, provider("pool_wiat = 1"))).fix == "did you mean pool_wait?"


@pytest.mark.parametrize("line", ['name = "x"', "settings = {}"])
def test_what_the_code_adds_to_a_provider_cannot_be_set(tmp_path: Path, line: str) -> None:
    assert only(problems(tmp_path, provider(line))).message == "unknown setting"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("workers = 257", "a whole number from 1 to 256; got 257"),
        ("workers = true", "a whole number from 1 to 256; got true"),
        ("workers = 1.0", "a whole number from 1 to 256; got 1.0"),
        ('workers = "1"', "a whole number from 1 to 256; got a string"),
        ("workers = 99999999999999999999", "a whole number from 1 to 256; got a number of more than 63 bits"),
        ("listen = 8000", "a string; got 8000"),
        ("access_log = 1", "true or false; got 1"),
        ('trusted_proxies = "10.0.0.1"', "an array; got a string"),
        ("trusted_proxies = [1]", "a string; got 1"),
        ("limits = 3", "a table; got 3"),
        ("limits = { body_timeout = 0 }", "a number above 0, at most 86400; got 0"),
        ("limits = { body_timeout = -1.5 }", "a number above 0, at most 86400; got -1.5"),
        ("limits = { idle_timeout = inf }", "a number above 0, at most 86400; got inf"),
        ("limits = { heartbeat = -1 }", "a number from 0 to 86400; got -1"),
        ("limits = { body_bytes = 0 }", "a whole number from 1 to 1099511627776; got 0"),
        ("limits = { connections = 2020-01-01 }", "a whole number from 1 to 1000000; got a date or time"),
    ],
)
def test_types_and_ranges_are_checked(tmp_path: Path, line: str, expected: str) -> None:
    problem = only(problems(tmp_path, server(line)))
    assert (problem.message, problem.line) == (f"expected {expected}", 2)


@pytest.mark.parametrize(
    ("line", "fix"),
    [
        ('malformed_events = "drop"', 'write "error" or "skip"'),
        ('rescue = "sk-secret"', 'write "continue", "off" or "splice"'),
    ],
)
def test_a_value_that_does_not_exist_is_told_by_those_that_do(tmp_path: Path, line: str, fix: str) -> None:
    problem = only(problems(tmp_path, GOOD + line))
    assert (problem.message, problem.fix) == ("no such value", fix)


def test_a_fault_in_one_place_hides_none_elsewhere(tmp_path: Path) -> None:
    found = problems(tmp_path, 'server = 1\nmodels = 2\n[providers.x]\ntype = "openai"\napi_key = 3\n')
    assert [problem.where for problem in found] == ["server", "models", "providers.x.api_key"]


def test_a_syntax_error_is_told_with_its_line(tmp_path: Path) -> None:
    problem = only(problems(tmp_path, "[server]\nworkers = 1\nlisten = = 2\n"))
    assert (problem.line, problem.message) == (3, "not TOML: invalid value")


def test_a_syntax_error_at_the_end_is_told_with_the_last_line(tmp_path: Path) -> None:
    assert only(problems(tmp_path, "[server]\nworkers =\n")).line == 2
    assert only(problems(tmp_path, "[server]\nx = [1,")).line == 2


def test_a_setting_given_twice_is_a_syntax_error(tmp_path: Path) -> None:
    assert only(problems(tmp_path, server("workers = 1\nworkers = 2"))).line == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[server]\n\xff\n", "not UTF-8"),
        (b"#" * (1024 * 1024 + 1), "too large for a configuration file"),
        (b"x = " + b"[" * 100_000, "not TOML: nested too deeply"),
        (b"x = " + b"9" * 5000, "not TOML: exceeds the limit"),
    ],
)
def test_what_is_no_text_of_toml_is_said(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "penstock.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(path, ENV, TYPES)
    assert caught.value.problems[0].message.startswith(message)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_a_problem_and_not_a_traceback(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nope\\.toml: cannot be read: no such file or directory"):
        load(tmp_path / "nope.toml", ENV, TYPES)
    with pytest.raises(ConfigError, match="cannot be read: is a directory"):
        load(tmp_path, ENV, TYPES)


def test_a_secret_in_a_file_that_everyone_reads_is_a_warning(tmp_path: Path) -> None:
    text = GOOD.replace('"env:KEY"', '["env:KEY", "sk-secret"]')
    assert load(written(tmp_path, text, 0o640), ENV, TYPES).warnings == ()
    (warning,) = load(written(tmp_path, text, 0o644), ENV, TYPES).warnings
    assert (warning.where, warning.line) == ("providers.openai.api_key[1]", 3)
    assert warning.fix.startswith("chmod 600 ")
    assert "sk-secret" not in warning.render("f")
    assert load(written(tmp_path, GOOD, 0o644), ENV, TYPES).warnings == ()


def test_a_provider_that_no_model_uses_is_a_warning(tmp_path: Path) -> None:
    (warning,) = load(written(tmp_path, GOOD + '[providers.spare]\ntype = "openai"\n'), ENV, TYPES).warnings
    assert (warning.where, warning.line) == ("providers.spare", 7)


def targets(config: Config) -> dict[str, list[tuple[str, str | None]]]:
    return {name: [(t.provider, t.model) for t in model.targets] for name, model in config.models.items()}


def test_without_a_file_a_model_file_is_served_under_its_name_and_gpt_5_4(tmp_path: Path) -> None:
    path = tmp_path / "tiny-1.5b.gguf"
    path.write_bytes(b"GGUF....")
    config = default({**ENV, "OPENAI_API_KEY": "sk-1"}, str(path))
    assert (config.providers["local"].type, config.providers["local"].settings) == ("llama", {"model": str(path)})
    assert targets(config) == {"gpt-5.4": [("local", "tiny-1.5b")], "tiny-1.5b": [("local", "tiny-1.5b")]}


def test_without_a_file_openai_answers_everything_when_its_key_is_set() -> None:
    config = default({**ENV, "OPENAI_API_KEY": "sk-1"}, None)
    assert config.providers["openai"].settings == {"api_key": "env:OPENAI_API_KEY"}
    assert targets(config) == {"*": [("openai", None)]}


@pytest.mark.parametrize("env", [{}, {"OPENAI_API_KEY": ""}])
def test_without_a_file_and_a_key_the_built_in_model_answers(env: dict[str, str]) -> None:
    config = default({**ENV, **env, "PENSTOCK_DATA_DIR": "/data"}, None)
    assert (config.providers["demo"].type, config.providers["demo"].settings) == ("llama", {"model": "builtin"})
    assert targets(config) == {"gpt-5.4": [("demo", "penstock-demo")], "penstock-demo": [("demo", "penstock-demo")]}
    assert config.server.data_dir == "/data"


def test_without_a_file_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--model: .*none\.gguf cannot be read"):
        default(ENV, str(tmp_path / "none.gguf"))
    (tmp_path / "text.gguf").write_text("hello")
    with pytest.raises(ConfigError, match="is not a GGUF file"):
        default(ENV, str(tmp_path / "text.gguf"))
    with pytest.raises(ConfigError, match=r"OPENAI_API_KEY: .*holds no secret"):
        default({**ENV, "OPENAI_API_KEY": "a\nb"}, None)


def test_the_command_line_comes_last() -> None:
    config = override(
        default(ENV, None), listen="[::1]:9", admin_listen="unix:/tmp/admin", workers=3, data_dir="/elsewhere"
    )
    server = config.server
    assert (server.listen, server.admin_listen, server.workers) == ("[::1]:9", "unix:/tmp/admin", 3)
    assert server.data_dir == "/elsewhere"
    unchanged = override(config, listen=None, admin_listen=None, workers=None, data_dir=None)
    assert unchanged == config


def test_the_command_line_is_under_the_same_checks() -> None:
    with pytest.raises(ConfigError) as caught:
        override(default(ENV, None), listen="x", admin_listen=":1", workers=0, data_dir="")
    assert {problem.where for problem in caught.value.problems} == {
        "--listen",
        "--admin-listen",
        "--workers",
        "--data-dir",
    }
    assert "--workers: expected a whole number from 1 to 256; got 0." in str(caught.value)
    with pytest.raises(ConfigError, match="the same address as listen"):
        override(default(ENV, None), listen="127.0.0.1:8001", admin_listen=None, workers=None, data_dir=None)


def test_the_summary_says_what_is_served_and_no_secret(tmp_path: Path) -> None:
    text = server('workers = 2\nlisten = "[::1]:80"').replace("env:KEY", "sk-secret")
    said = summary(load(written(tmp_path, text), ENV, TYPES))
    assert "http://[::1]:80 (2 workers)" in said
    assert "gpt-5.4  openai (the name as asked)" in said
    assert "sk-secret" not in said


def test_the_summary_tells_a_policy_and_who_answers_some_keys(tmp_path: Path) -> None:
    text = GOOD + (
        '\n[models.both]\npolicy = "weighted"\n'
        'targets = [{ provider = "openai", model = "a" }, { provider = "openai" }]\n'
        'for_keys = [{ keys = ["team-*", "boss"], policy = "ordered" }]\n'
    )
    said = summary(load(written(tmp_path, text), ENV, TYPES))
    assert "both     openai (a) or openai (the name as asked), weighted\n" in said
    assert "         keys team-*, boss: openai (a), then openai (the name as asked)\n" in said
