"""As `minute`, of three gateways that share one Redis and nothing else: each in a network namespace of its own, with a
monotonic clock of its own. Clients, upstream and Redis are outside, and reach them by a bridge.

Where namespaces cannot be made, it says why and does nothing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import uvloop

from chaos.outcome import Outcome
from soak.arrivals import arrivals
from soak.keys import make_key
from soak.minute import CONFIG, Crowd, Demand, judged
from soak.namespaces import Namespace, namespaces, why_not
from support.redis import redis_server
from support.serving import INHERITED, PENSTOCK, STOP, free_ports, until_answered

HOSTS = 3
WORKERS = 2  # of each
PORT = 8080


@contextmanager
def gateway(at: Namespace, home: Path, config: str) -> Iterator[None]:
    """Serve in a namespace until the block ends."""
    (home / "penstock.toml").write_text(config)
    command = [*at.prefix, str(PENSTOCK), "serve", "--listen", f"{at.address}:{PORT}"]
    command += ["--admin-listen", f"127.0.0.1:{PORT + 1}", "--data-dir", str(home / "data")]
    variables = {name: os.environ[name] for name in INHERITED if name in os.environ} | {"HOME": str(home)}
    with (
        (home / "output.log").open("wb") as log,
        subprocess.Popen(
            [*command, "--config", str(home / "penstock.toml")],
            env=variables,
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            until_answered(f"http://{at.address}:{PORT}/health", process, home / "output.log")
            yield
            process.terminate()
            process.wait(STOP)
        finally:
            process.kill()


def hosts(demand: Demand, tell: Callable[[str], None]) -> Outcome:
    """So much is asked of three hosts."""
    with ExitStack() as stack:
        here, places = stack.enter_context(namespaces(HOSTS))
        options = ("--bind", "127.0.0.1", here, "--protected-mode", "no")
        [port] = free_ports(1)
        stack.enter_context(redis_server(port, *options))
        upstream = stack.enter_context(arrivals(f"{here}:0"))
        server = f'counters = "redis://{here}:{port}"'
        config = CONFIG.format(workers=WORKERS, base_url=upstream.base_url, server=server)
        homes = [Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="penstock-"))) for _ in places]
        first, *others = [home / "data" for home in homes]
        key = make_key(first, "--rpm", str(demand.limit))
        for other in others:
            shutil.copytree(first, other)  # the same key, as a database in common would have it
        with ExitStack() as running:
            for at, home in zip(places, homes, strict=True):
                running.enter_context(gateway(at, home, config))
            crowd = Crowd([(at.address, PORT) for at in places], key, seed=1)
            uvloop.run(crowd.run(demand, tell))
        figures, wrong = judged(upstream.stop(), crowd, demand)
    return Outcome(figures, tuple(wrong))


def main(arguments: Sequence[str]) -> int:
    """0 when nothing was wrong."""
    parser = argparse.ArgumentParser(prog="python -m soak --scenario hosts")
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--minutes", type=int, default=3)
    parser.add_argument("--clients", type=int, default=200)
    given = parser.parse_args(arguments)
    if reason := why_not():
        print(f"hosts: skipped, since {reason}")
        return 0
    demand = Demand(given.limit, given.minutes, given.clients)
    outcome = hosts(demand, lambda line: print(f"hosts: {line}", flush=True))
    print(outcome.told())
    return int(bool(outcome.wrong))
