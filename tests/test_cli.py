"""The command line as its users meet it: help, errors with a fix, keys, chat."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import socket
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from penstock import __version__
from penstock.cli import VERBS, main
from penstock.fake_upstream.script import Answer, Cut
from penstock.stores import sqlite
from support.serving import PENSTOCK
from support.upstreams import ThreadedUpstream, threaded_upstream

KEY = "sk-for-the-tests-of-chat"
GROUPS = {
    "keys": ("create", "list", "edit", "revoke"),
    "projects": ("create", "list", "edit", "archive"),
    "limits": ("set", "list", "remove"),
}
COMMANDS = (*((verb,) for verb in VERBS), *((group, verb) for group, verbs in GROUPS.items() for verb in verbs))


@pytest.fixture(autouse=True)
def _nothing_of_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("PENSTOCK_CONFIG", "PENSTOCK_DATA_DIR", "PENSTOCK_API_KEY", "PENSTOCK_ADMIN_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def data(tmp_path: Path) -> str:
    return str(tmp_path / "data")


def run(*arguments: str, text: str | bytes | None = None) -> Result:
    return CliRunner().invoke(main, arguments, input=text)


def create(data: str, *arguments: str) -> dict[str, Any]:
    result = run("keys", "create", "--data-dir", data, "--json", *arguments)
    assert result.exit_code == 0, result.output
    made: dict[str, Any] = json.loads(result.stdout)
    return made


def listed(data: str) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = json.loads(run("keys", "list", "--data-dir", data, "--json").stdout)
    return records


# -- the verbs


def test_the_version_is_told() -> None:
    assert run("--version").output == f"penstock, version {__version__}\n"


def test_the_list_of_verbs_imports_none_of_them() -> None:
    script = (
        "import sys\nfrom penstock.cli import main\nmain(['--help'], standalone_mode=False)\n"
        "heavy = {'penstock.config', 'sqlalchemy', 'starlette', 'rich', 'uvloop'} & sys.modules.keys()\n"
        "sys.exit(repr(heavy) if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name, verb in VERBS.items():
        assert f"{name} " in done.stdout
        assert verb.summary in done.stdout


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_verb_explains_itself(command: Sequence[str]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert "Usage:" in result.output


@pytest.mark.parametrize("command", [c for c in COMMANDS if c != ("fake-upstream",)], ids=" ".join)
def test_the_help_of_every_verb_has_examples(command: Sequence[str]) -> None:
    assert re.search(rf"Examples?:\n(.*\n)*?.*penstock {' '.join(command)}", run(*command, "--help").output)


def test_serve_imports_nothing_of_the_store_or_the_console_before_it_starts_workers() -> None:
    script = (
        "import sys\nimport penstock.verbs.serve\n"
        "heavy = {'sqlalchemy', 'alembic', 'starlette', 'uvicorn', 'rich', 'prometheus_client'} & sys.modules.keys()\n"
        "sys.exit(repr(heavy) if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_python_m_penstock_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "penstock", "--version"], capture_output=True, text=True, check=True)
    assert __version__ in done.stdout


@pytest.mark.parametrize(
    "arguments", [["nothing"], ["serve", "--nothing"], ["serve", "--workers", "many"], ["keys", "create"]]
)
def test_a_command_that_is_not_understood_ends_with_status_two(arguments: Sequence[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Usage:" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--workers", "0"], "--workers"),
        (["--listen", "nowhere"], "--listen"),
        (["--listen", "127.0.0.1:8001"], "--admin-listen"),
        (["--config", "/nonexistent/penstock.toml"], "/nonexistent/penstock.toml"),
        (["--model", "/nonexistent/model.gguf"], "--model"),
    ],
)
def test_a_configuration_that_cannot_be_served_is_told_with_a_fix(
    arguments: Sequence[str], said: str, data: str
) -> None:
    result = run("serve", "--data-dir", data, *arguments)
    assert result.exit_code == 1
    assert said in result.stderr
    assert "Fix:" in result.stderr


def test_serve_takes_weights_or_a_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("serve", "--config", "a.toml", "--model", "b.gguf").exit_code == 2
    monkeypatch.setenv("PENSTOCK_CONFIG", "a.toml")
    assert run("serve", "--model", "b.gguf").exit_code == 2


# -- keys


def test_a_new_key_is_printed_alone_and_this_once(data: str) -> None:
    result = run("keys", "create", "--name", "reports", "--data-dir", data)
    assert result.exit_code == 0
    key = result.stdout.strip()
    assert re.fullmatch(r"sk-penstock-[0-9A-Za-z]{43}", key)
    shown = run("keys", "list", "--data-dir", data)
    assert key not in shown.output
    assert key not in run("keys", "list", "--data-dir", data, "--json").output
    for path in Path(data).iterdir():
        assert key.encode() not in path.read_bytes()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_json_holds_the_id_and_the_key_and_what_it_may_do(data: str) -> None:
    made = create(data, "--name", "ci", "--models", "gpt-5.4, local-*")
    assert made["id"].startswith("key_")
    assert made["key"].startswith("sk-")
    assert made["name"] == "ci"
    assert made["models"] == ["gpt-5.4", "local-*"]
    del made["key"]
    assert listed(data) == [made]


@pytest.mark.parametrize("models", ["", " ", "gpt-5.4,", "gpt-*-mini"])
def test_models_that_are_none_are_refused_and_not_taken_for_all(data: str, models: str) -> None:
    result = run("keys", "create", "--name", "ci", "--models", models, "--data-dir", data)
    assert result.exit_code == 2
    assert "is no model: give a name" in result.stderr
    assert not Path(data).exists()


def test_the_list_shows_each_key_with_its_models_and_its_end(data: str) -> None:
    create(data, "--name", "[bold]reports[/bold]")
    made = create(data, "--name", "ci", "--models", "gpt-5.4")
    run("keys", "revoke", "ci", "--data-dir", data)
    lines = run("keys", "list", "--data-dir", data).stdout.splitlines()
    reports = next(line for line in lines if "[bold]reports[/bold]" in line)
    ci = next(line for line in lines if made["id"] in line)
    assert "all" in reports
    assert made["hint"] in ci
    assert len(re.findall(r"\d{4}-\d\d-\d\d", reports)) == 1
    assert len(re.findall(r"\d{4}-\d\d-\d\d", ci)) == 2


def test_a_revoked_key_is_revoked_again_without_complaint(data: str) -> None:
    create(data, "--name", "ci")
    for _ in range(2):
        result = run("keys", "revoke", "ci", "--data-dir", data)
        assert result.exit_code == 0
        assert "Revoked key_" in result.stdout
    assert listed(data)[0]["revoked_at"] is not None


def test_revoking_what_is_not_there_says_where_to_look(data: str) -> None:
    create(data, "--name", "ci")
    result = run("keys", "revoke", "cd", "--data-dir", data)
    assert result.exit_code == 1
    assert "penstock keys list" in result.stderr


def test_revoking_one_of_two_by_name_asks_which(data: str) -> None:
    ids = [create(data, "--name", "ci")["id"] for _ in range(2)]
    result = run("keys", "revoke", "ci", "--data-dir", data)
    assert result.exit_code == 1
    assert all(one in result.stderr for one in ids)
    assert [record["revoked_at"] for record in listed(data)] == [None, None]


def test_a_deployed_key_is_kept_from_standard_input_and_not_shown(data: str) -> None:
    arguments = ("keys", "create", "--name", "old", "--key-stdin", "--data-dir", data)
    result = run(*arguments, text="sk-deployed-before-0123\r\n")
    assert result.exit_code == 0
    assert "sk-deployed" not in result.output
    assert listed(data)[0]["hint"] == "sk-d...0123"
    again = run(*arguments, text="sk-deployed-before-0123")
    assert again.exit_code == 1
    assert "already" in again.stderr


@pytest.mark.parametrize(
    "given", [b"", b"short\n", b"sk-two words in one key\n", b"sk-two-lines\nsk-two-lines\n", b"\xff" * 30, b"x" * 3000]
)
def test_a_deployed_key_that_no_client_could_send_is_refused(data: str, given: bytes) -> None:
    result = run("keys", "create", "--name", "old", "--key-stdin", "--data-dir", data, text=given)
    assert result.exit_code == 2
    assert "key" in result.stderr
    assert not Path(data).exists()


def test_a_wrong_directory_does_not_look_like_one_without_keys(data: str) -> None:
    for arguments in (["list"], ["revoke", "ci"]):
        result = run("keys", *arguments, "--data-dir", data)
        assert result.exit_code == 1
        assert "--data-dir" in result.stderr
    assert not Path(data).exists()


def test_the_directory_is_found_as_the_server_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("keys", "create", "--name", "a")
    assert (tmp_path / "home" / ".local" / "share" / "penstock" / sqlite.FILE).exists()
    config = tmp_path / "penstock.toml"
    config.write_text(f'[server]\ndata_dir = "{tmp_path}/configured"\n')
    monkeypatch.setenv("PENSTOCK_CONFIG", str(config))
    run("keys", "create", "--name", "b")
    assert (tmp_path / "configured" / sqlite.FILE).exists()
    monkeypatch.setenv("PENSTOCK_DATA_DIR", str(tmp_path / "environment"))
    run("keys", "create", "--name", "c")
    assert (tmp_path / "environment" / sqlite.FILE).exists()
    run("keys", "create", "--name", "d", "--data-dir", str(tmp_path / "given"))
    assert [record["name"] for record in listed(str(tmp_path / "given"))] == ["d"]


def test_two_processes_that_make_keys_at_once_both_succeed(data: str) -> None:
    command = [str(PENSTOCK), "keys", "create", "--data-dir", data, "--json", "--name"]
    processes = [subprocess.Popen([*command, f"n{n}"], stdout=subprocess.PIPE, text=True) for n in range(2)]
    made = [json.loads(process.communicate()[0])["id"] for process in processes]
    assert sorted(made) == sorted(record["id"] for record in listed(data))


# -- chat


def chat(url: str, *arguments: str, text: str | None = None) -> Result:
    return CliRunner(env={"PENSTOCK_API_KEY": KEY}).invoke(main, ["chat", "--url", url, *arguments], input=text)


def test_an_answer_is_streamed_to_its_end(upstream: ThreadedUpstream) -> None:
    result = chat(upstream.url, "--model", "fake-chunks-3", "Hello", "there")
    assert result.exit_code == 0
    assert result.stdout == "word1 word2 word3 \n"
    seen = upstream.request()
    body = json.loads(seen.body)
    assert body["messages"] == [{"role": "user", "content": "Hello there"}]
    assert body["stream"] is True
    assert seen.header("authorization") == f"Bearer {KEY}"


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_the_address_is_taken_as_sdks_write_it_and_without(upstream: ThreadedUpstream, suffix: str) -> None:
    assert chat(upstream.url.removeprefix("http://") + suffix, "Hello").exit_code == 0
    assert upstream.request().path == "/v1/chat/completions"


def test_what_comes_through_a_pipe_is_asked_as_a_whole(upstream: ThreadedUpstream) -> None:
    assert chat(upstream.url, text="first line\nsecond line\n").exit_code == 0
    body = json.loads(upstream.request().body)
    assert body["messages"] == [{"role": "user", "content": "first line\nsecond line\n"}]
    assert chat(upstream.url, text=" \n").exit_code == 2


def test_a_server_that_does_not_run_is_told_with_a_fix() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    result = chat(url, "Hello")
    assert result.exit_code == 1
    assert "penstock serve" in result.stderr
    assert url in result.stderr


def test_a_refused_key_is_told_with_where_keys_are_looked_for() -> None:
    with threaded_upstream(Answer(status=401)) as upstream:
        result = chat(upstream.url, "Hello")
    assert result.exit_code == 1
    assert "401" in result.stderr
    assert "PENSTOCK_API_KEY" in result.stderr
    assert KEY not in result.output


def test_an_answer_that_is_cut_off_is_no_success() -> None:
    with threaded_upstream(Answer(chunks=("one ", "two "), cut=Cut(after_events=2))) as upstream:
        result = chat(upstream.url, "Hello")
    assert result.exit_code == 1
    assert "one" in result.stdout
    assert "Error" in result.stderr


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://host:port", "http://host:99999"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    result = chat(url, "Hello")
    assert result.exit_code == 2
    assert "--url" in result.stderr


def test_the_key_comes_from_a_file_or_the_environment_or_the_first_start(
    upstream: ThreadedUpstream, tmp_path: Path, data: str
) -> None:
    def asked(*arguments: str, **environment: str) -> str:
        before = len(upstream.seen)
        arguments = ("chat", "--url", upstream.url, "--data-dir", data, *arguments, "Hello")
        result = CliRunner(env=environment).invoke(main, arguments)
        assert result.exit_code == 0, result.output
        return str(upstream.request(before).header("authorization"))

    none = CliRunner().invoke(main, ["chat", "--url", upstream.url, "--data-dir", data, "Hello"])
    assert none.exit_code == 1
    assert "--api-key-file" in none.stderr
    Path(data).mkdir()
    (Path(data) / "first-key").write_text("sk-first\n")
    (tmp_path / "file").write_text("sk-file\n")
    assert asked() == "Bearer sk-first"
    assert asked(PENSTOCK_API_KEY="sk-environment") == "Bearer sk-environment"
    file = str(tmp_path / "file")
    assert asked("--api-key-file", file, PENSTOCK_API_KEY="sk-environment") == "Bearer sk-file"


def test_a_talk_on_a_terminal_remembers_what_was_said_and_survives_an_error() -> None:
    answers = [Answer(chunks=("Hi ", "\x1b[2Jthere")), Answer(status=503), Answer(chunks=("Bye",))]
    with threaded_upstream(answers) as upstream:
        ours, theirs = pty.openpty()
        environment = {"PATH": os.environ["PATH"], "PENSTOCK_API_KEY": KEY, "HOME": "/nonexistent", "TERM": "dumb"}
        command = [str(PENSTOCK), "chat", "--url", upstream.url]
        process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
        os.close(theirs)
        terminal = Terminal(ours)
        terminal.until("> ")
        for said, expected in (("one", "there"), ("two", "503"), ("three", "Bye")):
            os.write(ours, said.encode() + b"\n")
            terminal.until(expected)
            terminal.until("> ")
        os.write(ours, b"\x04")
        assert process.wait(20) == 0
        os.close(ours)
        messages = json.loads(upstream.request(2).body)["messages"]
    assert [message["content"] for message in messages] == ["one", "Hi \x1b[2Jthere", "three"]
    assert "\x1b[2J" not in terminal.printed


class Terminal:
    """What a process prints on its terminal, read up to what is awaited."""

    def __init__(self, descriptor: int) -> None:
        self.printed = ""
        self._descriptor = descriptor
        self._seen = 0

    def until(self, text: str) -> None:
        while (found := self.printed.find(text, self._seen)) < 0:
            ready, _, _ = select.select([self._descriptor], [], [], 20)
            assert ready, f"{text!r} did not come after {self.printed!r}"
            self.printed += os.read(self._descriptor, 65536).decode()
        self._seen = found + len(text)
