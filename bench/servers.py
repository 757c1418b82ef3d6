"""Starts what is measured: the mock upstream on the load's core, nginx and Penstock on the gateway's core."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import proc

HERE = Path(__file__).parent
BUILD = HERE.parent / "build" / "bench"
PROGRAMS = ("mock_upstream", "stream_client", "lat_client")

GATEWAY_CORE, LOAD_CORE = 0, 1
KEY = "sk-bench-0123456789abcdef"
PATH = "/v1/chat/completions"
QUESTION = json.dumps({"model": "mock-model", "messages": [{"role": "user", "content": "Hello"}]}).encode()

PENSTOCK = """
[server]
listen = "127.0.0.1:{port}"
admin_listen = "127.0.0.1:{admin}"
workers = {workers}
data_dir = "{directory}/data"
access_log = {access_log}

[providers.mock]
type = "openai"
base_url = "http://127.0.0.1:{upstream}/v1"
api_key = "sk-upstream"
max_connections = 4096

[models."mock-model"]
targets = [{{ provider = "mock", model = "mock-model" }}]

[models."mock-alias"]
targets = [{{ provider = "mock", model = "mock-model" }}]

[prices."mock/*"]
input = 2.5
output = 15
"""

# Every meter, on the key and on its project, none of them ever reached: what `--limits` puts the load's key under.
LIMITS = {
    "rpm": "100000000",
    "tpm": "100000000000",
    "concurrency": "100000",
    "requests_per_day": "100000000000",
    "tokens_per_month": "100000000000000",
    "usd_per_month": "1000000",
}


class BenchError(Exception):
    """The ruler cannot measure: something is missing, or a server did not come up."""


@dataclass
class Server:
    """A running server; `start_s` is the time from its start to its first answer."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    start_s: float = 0.0

    @property
    def pid(self) -> int:
        return self.process.pid

    def children(self) -> list[int]:
        return proc.tree(self.pid)[1:]


@dataclass(frozen=True)
class Setup:
    """How servers are started: `command` stands in for `penstock serve` ({port} and {upstream} are filled in).

    `limits`: whether the load's key has some, of every kind; else it has none.
    """

    directory: Path
    upstream: int
    access_log: bool = False
    limits: bool = False
    command: str | None = None


def build() -> None:
    """Compile the C programs that are older than their source."""
    BUILD.mkdir(parents=True, exist_ok=True)
    for name in PROGRAMS:
        source, program = HERE / f"{name}.c", BUILD / name
        if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
            compiler = os.environ.get("CC", "cc")
            flags = ["-O2", "-Wall", "-Wno-format-truncation"]
            subprocess.run([compiler, *flags, "-o", str(program), str(source)], check=True)


def tool(name: str) -> str:
    """The path of a program that the ruler needs from the system."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if found is None:
        instead = " or leave it out with --skip-nginx" if name == "nginx" else ""
        raise BenchError(f"{name} is not installed: `apt-get install {name}` (Debian, Ubuntu){instead}")
    return found


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def get_json(port: int, path: str) -> dict[str, int]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path)
    answer: dict[str, int] = json.loads(connection.getresponse().read())
    connection.close()
    return answer


def answers(port: int, question: bytes) -> bool:
    """Whether a chat completion through `port` is answered."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        connection.request("POST", PATH, question, headers)
        response = connection.getresponse()
        return response.status == 200 and b'"usage"' in response.read()
    except OSError:
        return False
    finally:
        connection.close()


@contextlib.contextmanager
def running(
    name: str,
    command: list[str],
    port: int,
    core: int | str,
    log: Path,
    key: str | None = KEY,
    question: bytes = QUESTION,
) -> Iterator[Server]:
    """Start `command` on one core, or on some ("0-1"), wait for its first answer, to `question`, stop it at the end.
    `key`: the one in its environment."""
    began = time.monotonic()
    environment = {**os.environ, **({} if key is None else {"PENSTOCK_API_KEY": key})}
    with log.open("ab") as output:
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *command], stdout=output, stderr=output, env=environment, cwd=log.parent
        )
    try:
        while not answers(port, question):
            if process.poll() is not None or time.monotonic() - began > 30:
                raise BenchError(f"{name} did not answer; the end of its log:\n{log.read_text()[-2000:]}")
            time.sleep(0.005)
        yield Server(name, port, process, time.monotonic() - began)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def mock(directory: Path) -> Iterator[Server]:
    port = free_port()
    command = [str(BUILD / "mock_upstream"), str(port)]
    with running("mock", command, port, LOAD_CORE, directory / "mock.log") as server:
        yield server


@contextlib.contextmanager
def nginx(setup: Setup) -> Iterator[Server]:
    port = free_port()
    prefix = setup.directory / f"nginx-{port}"
    prefix.mkdir()
    text = (HERE / "nginx.conf").read_text()
    access_log = "access.log" if setup.access_log else "off"
    for mark, value in (("PORT", port), ("UPSTREAM", setup.upstream), ("KEY", KEY), ("ACCESS_LOG", access_log)):
        text = text.replace(f"@{mark}@", str(value))
    (prefix / "nginx.conf").write_text(text)
    command = [tool("nginx"), "-p", str(prefix), "-e", "error.log", "-c", "nginx.conf"]
    with running("nginx", command, port, GATEWAY_CORE, prefix / "output.log") as server:
        yield server


def keep_key(data_dir: Path) -> None:
    """Put the load's key into the store of a data directory, with limits of every kind on it and on its project."""

    def penstock(*arguments: str) -> None:
        command = [str(Path(sys.executable).with_name("penstock")), *arguments, "--data-dir", str(data_dir)]
        subprocess.run(command, input=KEY.encode(), capture_output=True, check=True)

    penstock("projects", "create", "--name", "bench")
    penstock("keys", "create", "--name", "bench", "--project", "bench", "--key-stdin")
    for scope in ("--key", "--project"):
        for meter, amount in LIMITS.items():
            penstock("limits", "set", meter, amount, scope, "bench")


@contextlib.contextmanager
def gateway(setup: Setup, workers: int = 1) -> Iterator[Server]:
    port, admin = free_port(), free_port()
    directory = setup.directory / f"penstock-{port}"
    directory.mkdir()
    if setup.command is not None:
        command = shlex.split(setup.command.format(port=port, upstream=setup.upstream))
    else:
        config = directory / "penstock.toml"
        config.write_text(
            PENSTOCK.format(
                port=port,
                admin=admin,
                workers=workers,
                directory=directory,
                upstream=setup.upstream,
                access_log=str(setup.access_log).lower(),
            )
        )
        command = [str(Path(sys.executable).with_name("penstock")), "serve", "--config", str(config)]
        if setup.limits:
            keep_key(directory / "data")
    key = None if setup.limits else KEY
    with running("penstock", command, port, GATEWAY_CORE, directory / "output.log", key) as server:
        yield server


@contextlib.contextmanager
def local_model(directory: Path, model: Path) -> Iterator[Server]:
    """`penstock serve` for a file of weights, on any core."""
    port, admin = free_port(), free_port()
    command = [str(Path(sys.executable).with_name("penstock")), "serve", "--model", str(model)]
    command += ["--listen", f"127.0.0.1:{port}", "--admin-listen", f"127.0.0.1:{admin}"]
    command += ["--data-dir", str(directory / "data")]
    cores, question = f"0-{(os.cpu_count() or 1) - 1}", QUESTION.replace(b"mock-model", b"gpt-5.4")
    with running("penstock", command, port, cores, directory / "output.log", question=question) as server:
        yield server
