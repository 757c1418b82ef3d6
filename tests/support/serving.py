"""A running `penstock serve`: the real command, in a process of its own, on free ports, with nothing of the user's."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

PENSTOCK = Path(sys.executable).with_name("penstock")
KEY = "sk-penstock-test-0123456789"
START = 30.0  # seconds
STOP = 20.0
# What a child may take from this process's environment: never a user's keys or configuration.
INHERITED = ("PATH", "PYTHONPATH", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH")


class Served:
    """A server that answers. `key` is accepted; `output` is all that it wrote so far."""

    def __init__(self, process: subprocess.Popen[bytes], ports: tuple[int, int], home: Path, log: Path) -> None:
        self.process = process
        self.pid = process.pid
        self.key = KEY
        self.url = f"http://127.0.0.1:{ports[0]}"
        self.base_url = f"{self.url}/v1"
        self.admin_url = f"http://127.0.0.1:{ports[1]}"
        self.home = home
        self.data_dir = home / "data"
        self._log = log

    @property
    def headers(self) -> dict[str, str]:
        """The headers that let a request in."""
        return {"authorization": f"Bearer {self.key}"}

    @property
    def output(self) -> str:
        """Standard output and error, together."""
        return self._log.read_text("utf-8", "replace")

    def wait_for(self, path: str) -> None:
        """Poll a GET of `path` until it answers 200; raises AssertionError with the output if it does not.

        /health answers as soon as the edge does, /ready once a target can answer, such as a local engine.
        """
        until_answered(f"{self.url}{path}", self.process, self._log)

    def stop(self) -> None:
        """SIGTERM, as a supervisor does; it must end by itself, with status 0."""
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(STOP)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"penstock serve did not end within {STOP} s of SIGTERM\n{self.output}") from None
        assert status == 0, f"penstock serve ended with {status}\n{self.output}"


def until_answered(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Poll a GET of `url` until it answers 200; raises AssertionError with the log if it does not, or if that ends."""
    deadline = time.monotonic() + START
    seen = "no connection"
    with httpx.Client(trust_env=False, timeout=5.0) as client:
        while time.monotonic() < deadline:
            output = log.read_text("utf-8", "replace")
            assert process.poll() is None, f"penstock serve ended: {process.returncode}\n{output}"
            try:
                response = client.get(url)
                if response.status_code == 200:
                    return
                seen = response.text
            except httpx.TransportError as error:
                seen = repr(error)
            time.sleep(0.02)  # nothing tells when a port begins to listen
    output = log.read_text("utf-8", "replace")
    raise AssertionError(f"{url} was not answered 200 within {START} s, but: {seen}\n{output}")


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]


@contextmanager
def serving(
    config: str | None = None, *, arguments: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Iterator[Served]:
    """Run `penstock serve` with `config` (TOML) or none, in a home directory of its own, and stop it by SIGTERM.

    It must have ended with status 0 by then, unless the block raised. PENSTOCK_API_KEY is `Served.key`.
    """
    with tempfile.TemporaryDirectory(prefix="penstock-") as directory:
        home = Path(directory)
        ports = free_ports(2)
        command = [str(PENSTOCK), "serve", "--listen", f"127.0.0.1:{ports[0]}"]
        command += ["--admin-listen", f"127.0.0.1:{ports[1]}", "--data-dir", str(home / "data")]
        if config is not None:
            (home / "penstock.toml").write_text(config)
            command += ["--config", str(home / "penstock.toml")]
        variables = {name: os.environ[name] for name in INHERITED if name in os.environ}
        variables |= {"HOME": str(home), "PENSTOCK_API_KEY": KEY, **(environment or {})}
        log = home / "output.log"
        with (
            log.open("wb") as output,
            subprocess.Popen(
                [*command, *arguments],
                env=variables,
                cwd=home,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            ) as process,
        ):
            served = Served(process, (ports[0], ports[1]), home, log)
            try:
                served.wait_for("/health")
                yield served
                served.stop()
            finally:
                if process.poll() is None:
                    process.kill()
