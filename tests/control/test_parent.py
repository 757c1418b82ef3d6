"""The parent as an operator meets it: starts, keys, deaths, signals, and what is left behind."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import pty
import re
import shlex
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import httpx
import msgspec
import pytest
import uvloop

from penstock.config import Config, Server
from penstock.control import parent
from penstock.fake_upstream.script import FOREVER
from support.processes import children
from support.serving import PENSTOCK, START, Served, free_ports, serving
from support.upstreams import ThreadedUpstream

STAND_IN = str(Path(__file__).with_name("stand_in_worker.py"))
WITHIN = 1.0  # seconds for a change of keys to reach every worker
SLACK = 2.0  # and for a busy machine


def toml(upstream: ThreadedUpstream, workers: int = 1) -> str:
    return f"""
[server]
workers = {workers}

[providers.up]
type = "vllm"
base_url = "{upstream.base_url}"

[models."gpt-5.4"]
targets = [{{ provider = "up" }}]
"""


def until(holds: Callable[[], bool], within: float = START) -> None:
    """Nothing tells a test what another process has come to: look often."""
    deadline = time.monotonic() + within
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def status(served: Served, key: str) -> int:
    """By a connection of its own, which any of the workers may take."""
    return httpx.get(
        f"{served.base_url}/models", headers={"authorization": f"Bearer {key}"}, trust_env=False
    ).status_code


def keys(served: Served, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(PENSTOCK), "keys", *arguments, "--data-dir", str(served.data_dir)]
    return subprocess.run(command, capture_output=True, text=True, check=True)


def metrics(served: Served) -> dict[str, float]:
    key = (served.data_dir / "admin-key").read_text().strip()
    headers = {"authorization": f"Bearer {key}"}
    answer = httpx.get(f"{served.admin_url}/metrics", headers=headers, trust_env=False)
    assert answer.status_code == 200
    lines = [line for line in answer.text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def requests_counted(served: Served) -> float:
    return sum(value for name, value in metrics(served).items() if name.startswith("penstock_requests_total"))


def test_a_key_made_and_revoked_while_the_server_runs_is_known_to_every_worker_within_a_second(
    upstream: ThreadedUpstream,
) -> None:
    with serving(toml(upstream, workers=2)) as served:
        made = json.loads(keys(served, "create", "--name", "reports", "--json").stdout)
        until(lambda: status(served, made["key"]) == 200, WITHIN + SLACK)
        assert {status(served, made["key"]) for _ in range(20)} == {200}
        keys(served, "revoke", made["id"])
        time.sleep(WITHIN)  # the promise itself
        assert {status(served, made["key"]) for _ in range(20)} == {401}


def test_a_key_that_was_refused_before_it_was_made_works_once_it_is(upstream: ThreadedUpstream) -> None:
    key = "sk-deployed-elsewhere-0123456789"
    with serving(toml(upstream)) as served:
        assert status(served, key) == 401
        command = [str(PENSTOCK), "keys", "create", "--name", "old", "--key-stdin", "--data-dir", str(served.data_dir)]
        subprocess.run(command, input=key + "\n", text=True, check=True, capture_output=True)
        until(lambda: status(served, key) == 200, WITHIN + SLACK)


def test_a_killed_worker_is_started_again_and_counters_never_go_back(upstream: ThreadedUpstream) -> None:
    with serving(toml(upstream, workers=2)) as served:
        until(lambda: "Clients" in served.output)
        for _ in range(10):
            assert status(served, served.key) == 200
        before = requests_counted(served)
        assert before >= 10
        victim = children(served.pid)[0]
        os.kill(victim, signal.SIGKILL)
        until(lambda: victim not in children(served.pid) and len(children(served.pid)) == 2)
        assert requests_counted(served) >= before
        for _ in range(10):
            assert status(served, served.key) == 200
        until(lambda: requests_counted(served) >= before + 10)
        assert "was killed by signal 9; starting it again" in served.output


def test_a_killed_parent_leaves_no_process(upstream: ThreadedUpstream) -> None:
    left: list[int] = []

    def kill_it() -> None:
        with serving(toml(upstream, workers=2)) as served:
            left.extend(children(served.pid))
            os.kill(served.pid, signal.SIGKILL)

    with pytest.raises(AssertionError, match="ended with -9"):
        kill_it()
    assert len(left) == 2
    until(lambda: not any(alive(pid) for pid in left))


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_a_second_signal_ends_what_the_first_one_let_finish(upstream: ThreadedUpstream) -> None:
    slow = toml(upstream).replace('provider = "up"', f'provider = "up", model = "fake-slow-{FOREVER}"')
    body = json.dumps({"model": "gpt-5.4", "messages": [{"role": "user", "content": "x"}]})

    def stop_it_twice() -> None:
        with serving(slow) as served, closing(http.client.HTTPConnection(served.url[7:], timeout=30)) as connection:
            headers = {**served.headers, "content-type": "application/json"}
            connection.request("POST", "/v1/chat/completions", body, headers)
            upstream.request()
            served.process.send_signal(signal.SIGTERM)
            until(lambda: "Draining" in served.output)
            assert served.process.poll() is None
            served.process.send_signal(signal.SIGTERM)
            assert served.process.wait(10) == 1

    with pytest.raises(AssertionError, match="ended with 1"):
        stop_it_twice()


def test_the_first_start_without_a_terminal_leaves_a_key_that_works_in_a_private_file(
    upstream: ThreadedUpstream,
) -> None:
    with serving(toml(upstream), environment={"PENSTOCK_API_KEY": ""}) as served:
        path = served.data_dir / "first-key"
        until(path.exists)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(served.data_dir.stat().st_mode) == 0o700
        key = path.read_text().strip()
        until(lambda: status(served, key) == 200, WITHIN + SLACK)
        until(lambda: str(path) in served.output)
        assert key not in served.output
        assert len(json.loads(keys(served, "list", "--json").stdout)) == 1


def test_no_first_key_is_made_where_the_environment_gives_one(upstream: ThreadedUpstream) -> None:
    with serving(toml(upstream)) as served:
        until(lambda: "PENSTOCK_API_KEY" in served.output)
        assert json.loads(keys(served, "list", "--json").stdout) == []
        assert not (served.data_dir / "first-key").exists()


def test_the_first_start_on_a_terminal_prints_a_key_once_with_a_curl_line_that_works(
    upstream: ThreadedUpstream, tmp_path: Path
) -> None:
    config = tmp_path / "penstock.toml"
    config.write_text(toml(upstream))
    first = on_a_terminal(config, tmp_path)
    assert len(set(re.findall(r"sk-penstock-\w+", first))) == 1
    assert "sk-penstock-" not in on_a_terminal(config, tmp_path, curl=False)


def on_a_terminal(config: Path, directory: Path, curl: bool = True) -> str:
    """Start the server on a terminal, run the curl line that it prints, stop it; what it printed."""
    ports = free_ports(2)
    ours, theirs = pty.openpty()
    command = [str(PENSTOCK), "serve", "--config", str(config), "--data-dir", str(directory / "data")]
    command += ["--listen", f"127.0.0.1:{ports[0]}", "--admin-listen", f"127.0.0.1:{ports[1]}"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(directory)}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    printed = ""
    try:
        while ("/v1/chat/completions" if curl else "API keys:") not in printed or not printed.endswith("\r\n"):
            printed += os.read(ours, 65536).decode()
        if curl:
            line = next(line.strip() for line in printed.splitlines() if line.strip().startswith("curl "))
            answer = subprocess.run([*shlex.split(line), "-s", "-S"], capture_output=True, text=True, check=True)
            assert json.loads(answer.stdout)["choices"]
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        os.close(ours)
    return printed


def test_a_unix_socket_is_served_and_removed(upstream: ThreadedUpstream, tmp_path: Path) -> None:
    path = tmp_path / "edge.sock"
    config = tmp_path / "penstock.toml"
    config.write_text(toml(upstream))
    command = [str(PENSTOCK), "serve", "--config", str(config), "--data-dir", str(tmp_path / "data")]
    command += ["--listen", f"unix:{path}", "--admin-listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        until(path.exists)
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as client:
            assert client.get("http://localhost/health").status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert not path.exists()


def failing_start(*arguments: str, environment: dict[str, str] | None = None) -> str:
    """What a start says that must fail, in lines without a traceback."""
    variables = {"PATH": os.environ["PATH"], "OPENAI_API_KEY": "sk-none", **(environment or {})}
    command = [str(PENSTOCK), "serve", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=variables, timeout=START, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    return done.stderr


def test_a_port_in_use_is_named_with_the_option_that_changes_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        data = str(tmp_path / "data")
        said = failing_start("--listen", taken, "--data-dir", data)
        assert taken in said
        assert "choose another with --listen" in said
        said = failing_start("--listen", "127.0.0.1:0", "--admin-listen", taken, "--data-dir", data)
        assert "choose another with --admin-listen" in said


def test_a_data_directory_that_cannot_be_used_is_told_with_the_option_that_changes_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = failing_start("--listen", "127.0.0.1:0", "--data-dir", str(tmp_path / "file" / "data"))
    assert "--data-dir" in said


def test_a_database_that_is_none_is_told_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "penstock.db").write_bytes(b"x" * 8192)
    listen = ("--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0")
    assert "not a database" in failing_start(*listen, "--data-dir", str(tmp_path))


def test_a_key_in_the_environment_that_no_client_could_send_is_told(tmp_path: Path) -> None:
    said = failing_start("--data-dir", str(tmp_path), environment={"PENSTOCK_API_KEY": "two words"})
    assert "PENSTOCK_API_KEY" in said
    assert "two words" not in said


def with_stand_ins(tmp_path: Path, behaviour: str) -> tuple[Config, tuple[str, ...]]:
    server = Server(listen="127.0.0.1:0", admin_listen="127.0.0.1:0", workers=2, data_dir=str(tmp_path / "data"))
    return msgspec.structs.replace(Config(), server=server), (sys.executable, STAND_IN, behaviour)


def test_a_start_that_fails_half_way_leaves_no_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, command = with_stand_ins(tmp_path, "die")
    before = children(os.getpid())  # servers that other tests share
    assert uvloop.run(parent.serve(config, "a test", command)) == 1
    assert "before it was ready" in capsys.readouterr().err
    assert children(os.getpid()) == before


def test_a_signal_during_the_start_ends_it_cleanly(tmp_path: Path) -> None:
    config, command = with_stand_ins(tmp_path, "deaf")
    before = children(os.getpid())

    async def main() -> int:
        serving = asyncio.create_task(parent.serve(config, "a test", command))
        while children(os.getpid()) == before:  # noqa: ASYNC110  # nothing tells when a process exists
            await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGTERM)
        return await serving

    assert uvloop.run(main()) == 0
    assert children(os.getpid()) == before


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 10, 50, 300, 1000])
def test_a_server_that_is_cancelled_anywhere_leaves_no_process(tmp_path: Path, turns: int) -> None:
    config, command = with_stand_ins(tmp_path, "")
    before = children(os.getpid())

    async def main() -> None:
        serving = asyncio.create_task(parent.serve(config, "a test", command))
        for _ in range(turns):
            await asyncio.sleep(0)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)

    uvloop.run(main())
    assert children(os.getpid()) == before
