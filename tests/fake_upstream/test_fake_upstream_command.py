"""The command as its users run it: a process of its own, stopped by Ctrl-C."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

SCRIPT = """
[[models."*"]]
content = "One two."

[[models."*"]]
chunks = ["a", "b"]
cut = { after_events = 1 }
"""


@contextlib.contextmanager
def fake_upstream(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The running command and its base URL; it must end by Ctrl-C with status 0."""
    code = "from penstock.fake_upstream.command import fake_upstream as run; run()"
    command = [sys.executable, "-c", code, "--listen", "127.0.0.1:0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            assert line.startswith("fake upstream: "), line + process.stderr.read()
            yield process, line.split()[2]
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 0
            assert process.stderr.read() == ""
        finally:
            process.kill()


def chat(base_url: str, **fields: object) -> httpx.Response:
    body = {"model": "gpt-5.4", "messages": [{"role": "user", "content": "A secret prompt."}], **fields}
    headers = {"authorization": "Bearer sk-secret-0123456789"}
    return httpx.post(f"{base_url}/chat/completions", json=body, headers=headers, trust_env=False)


def test_a_script_is_served_and_the_log_tells_what_was_seen(tmp_path: Path) -> None:
    script = tmp_path / "script.toml"
    script.write_text(SCRIPT)
    with fake_upstream("--script", str(script)) as (process, base_url):
        assert chat(base_url).json()["choices"][0]["message"]["content"] == "One two."
        with pytest.raises(httpx.RemoteProtocolError):
            chat(base_url, stream=True)
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2)]
    first, second = map(json.loads, lines)
    assert (first["method"], first["path"], first["model"]) == ("POST", "/v1/chat/completions", "gpt-5.4")
    assert (first["status"], first["stream"], first["ended"]) == (200, False, "complete")
    assert (second["stream"], second["ended"]) == (True, "cut")
    assert first["sent_bytes"] > 100
    assert first["duration_ms"] >= 0
    assert first["key"] == "***6789"
    assert "secret" not in "".join(lines)


def test_the_strict_profile_the_keys_and_the_log_file_are_options(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    options = ("--strict", "gpt-5.4", "--api-key", "sk-other", "--api-key", "sk-secret-0123456789", "--log", str(log))
    with fake_upstream(*options) as (_, base_url):
        refused = chat(base_url, max_tokens=5)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "unsupported_parameter")
        answer = chat(base_url, max_completion_tokens=5)
        assert answer.json()["model"] == "gpt-5.4-2026-03-05"
        assert answer.headers["openai-version"] == "2020-10-01"
        assert httpx.get(f"{base_url}/models", trust_env=False).status_code == 401
    assert [json.loads(line)["status"] for line in log.read_text().splitlines()] == [400, 200, 401]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--listen", "nowhere"), "'nowhere' is not HOST:PORT or unix:/path"),
        (("--listen", "127.0.0.1:99999"), "is not HOST:PORT"),
        (("--strict", "gpt-9"), "'gpt-9' is not"),
        (("--script", "/dev/null/x"), "does not exist"),
    ],
)
def test_wrong_options_are_named(arguments: tuple[str, ...], message: str) -> None:
    code = "from penstock.fake_upstream.command import fake_upstream as run; run()"
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert message in result.stderr


def test_a_wrong_script_is_named_line_by_line(tmp_path: Path) -> None:
    script = tmp_path / "script.json"
    script.write_text('{"models": {"a": [{"stauts": 1}], "b": [{"status": 1}]}}')
    code = "from penstock.fake_upstream.command import fake_upstream as run; run()"
    command = [sys.executable, "-c", code, "--script", str(script)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert 'models."a"[0]: Object contains unknown field `stauts`' in result.stderr
    assert 'models."b"[0]: status must be a number of three digits' in result.stderr


def test_a_port_that_is_taken_is_named() -> None:
    with fake_upstream() as (_, base_url):
        address = base_url.removeprefix("http://").removesuffix("/v1")
        code = "from penstock.fake_upstream.command import fake_upstream as run; run()"
        command = [sys.executable, "-c", code, "--listen", address]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert f"cannot listen on {address}" in result.stderr
