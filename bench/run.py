"""The ruler: what Penstock costs, beside nginx in the same sitting. See README.md for how to read it.

Every measure is one function that takes one reading of one server. The readings are interleaved: in each round every
measure is read once of every server, so that a noisy minute falls on all of them. The table shows medians.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import engine
import proc
import servers
from servers import BUILD, HERE, KEY, LOAD_CORE, PATH, BenchError, Server, Setup

GROUPS = ("cpu", "alias", "body", "chunks", "latency", "memory", "workers", "start", "engine")

MESSAGES = [
    {"role": "system", "content": "You are a concise assistant for a travel site. Answer in two sentences."},
    {
        "role": "user",
        "content": "What is the capital of France, which river does it stand on, and since when is it the capital?",
    },
]


def body(model: str = "mock-model", *, stream: bool = False, usage: bool = False, size: int = 0) -> bytes:
    """A chat request, padded to `size` bytes by a longer first message."""
    request: dict[str, object] = {"model": model, "messages": MESSAGES, "temperature": 0.7, "max_tokens": 256}
    if stream:
        request["stream"] = True
    if usage:
        request["stream_options"] = {"include_usage": True}
    missing = size - len(json.dumps(request, separators=(",", ":")))
    if missing > 0:
        padded = {**MESSAGES[0], "content": MESSAGES[0]["content"] + " pad" * (missing // 4)}
        request["messages"] = [padded, *MESSAGES[1:]]
    return json.dumps(request, separators=(",", ":")).encode()


BODIES = {
    "plain": body(),
    "alias": body("mock-alias"),
    "64k": body(size=64 * 1024),
    "stream": body(stream=True),
    "stream-usage": body(stream=True, usage=True),
}


@dataclass
class Bench:
    """One sitting: where things are, and what was read. `readings`: row -> server -> one value per round."""

    setup: Setup
    mock: Server
    seconds: float
    readings: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    foreign: list[float] = field(default_factory=list)

    def note(self, row: str, server: str, value: float) -> None:
        self.readings.setdefault(row, {}).setdefault(server, []).append(round(value, 3))

    def load(self, server: Server, command: list[str], body_file: str) -> tuple[dict[str, float], int]:
        """Run a load generator on its core against `server`: its JSON, and the CPU (us) that the server's tree burnt.

        The CPU is read after every connection is gone, so that work left over at the end is paid for.
        """
        ours = [server.pid, self.mock.pid]
        busy, known, began = proc.machine_cpu_us(), proc.own_cpu_us() + sum(map(proc.cpu_us, ours)), time.monotonic()
        before = proc.cpu_us(server.pid)
        env = {**os.environ, "BENCH_BODY": body_file, "BENCH_KEY": KEY}
        pinned = ["taskset", "-c", str(LOAD_CORE), *command]
        ran = subprocess.run(pinned, env=env, capture_output=True, text=True, check=False)
        proc.wait_until_drained(server.port)
        cpu = proc.cpu_us(server.pid) - before
        busy, known = proc.machine_cpu_us() - busy, proc.own_cpu_us() + sum(map(proc.cpu_us, ours)) - known
        self.foreign.append(max(0.0, (busy - known) / 1e6 / (time.monotonic() - began)))
        found = re.search(r"\{.*\}", ran.stdout)
        if found is None:
            raise BenchError(f"{command[0]} against {server.name} failed: {(ran.stdout + ran.stderr)[-500:]}")
        result: dict[str, float] = json.loads(found.group())
        errors = {name: count for name, count in result.items() if name.startswith("err_") and count}
        if errors:
            self.problems.append(f"{server.name}: {errors} {result.get('first_bad', '')}")
        return result, cpu

    def body_file(self, name: str) -> str:
        path = self.setup.directory / f"{name}.json"
        path.write_bytes(BODIES[name])
        return str(path)

    def wrk(self, server: Server, connections: int, body_name: str = "plain") -> float:
        """CPU microseconds per request."""
        url = f"http://127.0.0.1:{server.port}{PATH}"
        load = [servers.tool("wrk"), "-t1", f"-c{connections}", f"-d{self.seconds:g}s", "--timeout", "30s"]
        result, cpu = self.load(server, [*load, "-s", str(HERE / "post.lua"), url], self.body_file(body_name))
        return cpu / result["requests"]

    def latency(self, server: Server, connections: int) -> float:
        """Median microseconds of a request, closed loop."""
        program, file = str(BUILD / "lat_client"), self.body_file("plain")
        command = [program, str(server.port), PATH, KEY, file, str(connections), str(self.seconds)]
        return self.load(server, command, file)[0]["p50"]

    def streams(self, server: Server, body_name: str, count: int, chunks: int, delay_ms: int) -> float:
        """CPU microseconds per content chunk, over `count` streams at once."""
        servers.get_json(self.mock.port, f"/__set?chunks={chunks}&delay_ms={delay_ms}")
        program, file = str(BUILD / "stream_client"), self.body_file(body_name)
        shape = [str(count), str(max(200, count)), str(delay_ms), "60"]  # streams, ramp ms, delay ms, limit s
        result, cpu = self.load(server, [program, str(server.port), PATH, KEY, file, *shape], file)
        if result["chunks"] != count * chunks or result["ok"] != count:
            self.problems.append(
                f"{server.name}: {result['ok']}/{count} streams ended, {result['chunks']}/{count * chunks} chunks came"
            )
        return cpu / max(1.0, result["chunks"])


def highest_rss_kb(server: Server, work: Callable[[], object]) -> int:
    """The highest resident memory of the tree's largest child (the worker) while `work` runs."""
    seen, over = [largest_child_kb(server)], threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            seen.append(largest_child_kb(server))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        over.set()
        watcher.join()
    return max(seen)


def largest_child_kb(server: Server) -> int:
    return max((proc.rss_kb(pid) for pid in server.children() or [server.pid]), default=0)


# ---- the measures: one reading of each server that runs -----------------------------------------------------------


def read_cpu(bench: Bench, subjects: list[Server]) -> None:
    for connections in (16, 64):
        for server in subjects:
            bench.note(f"CPU us/request, {connections} connections", server.name, bench.wrk(server, connections))


def read_alias(bench: Bench, subjects: list[Server]) -> None:
    for server in subjects:
        bench.note("CPU us/request, 16 connections, alias", server.name, bench.wrk(server, 16, "alias"))


def read_body(bench: Bench, subjects: list[Server]) -> None:
    for server in subjects:
        bench.note("CPU us/request, 16 connections, 64 KiB body", server.name, bench.wrk(server, 16, "64k"))


def read_chunks(bench: Bench, subjects: list[Server]) -> None:
    for body_name, how in (("stream-usage", "usage asked for"), ("stream", "usage not asked for")):
        for server in subjects:
            cost = bench.streams(server, body_name, 200, 100, 20)
            bench.note(f"CPU us/chunk, 200 streams x 20 ms, {how}", server.name, cost)


def read_latency(bench: Bench, subjects: list[Server]) -> None:
    direct = bench.latency(bench.mock, 16)
    for server in subjects:
        bench.note("added p50 us, 16 connections", server.name, bench.latency(server, 16) - direct)


def read_memory(bench: Bench, subjects: list[Server]) -> None:
    """Of a fresh server each, since an allocator keeps what earlier load made it take."""
    for subject in subjects:
        start = servers.nginx if subject.name == "nginx" else servers.gateway
        with start(bench.setup) as server:
            idle = largest_child_kb(server)
            bench.note("memory MB, worker idle", server.name, idle / 1024)
            if server.children():
                bench.note("memory MB, parent idle", server.name, proc.rss_kb(server.pid) / 1024)

            def hold(server: Server = server) -> None:
                bench.streams(server, "stream-usage", 1000, 30, 100)

            bench.note("memory KB/stream, 1,000 open", server.name, (highest_rss_kb(server, hold) - idle) / 1000)


def read_workers(bench: Bench, subjects: list[Server]) -> None:
    one = next(server for server in subjects if server.name == "penstock")
    with servers.gateway(bench.setup, workers=2) as two:
        bench.wrk(two, 64)  # each worker's first connections and caches, not counted for either
        cost_of_one, cost_of_two = bench.wrk(one, 64), bench.wrk(two, 64)
    bench.note("requests per CPU-second, 2 workers / 1", "penstock", cost_of_one / cost_of_two)


def read_start(bench: Bench, subjects: list[Server]) -> None:
    for subject in subjects:
        start = servers.nginx if subject.name == "nginx" else servers.gateway
        with start(bench.setup) as server:
            bench.note("seconds from start to first answer", server.name, server.start_s)


def read_engine(bench: Bench, subjects: list[Server]) -> None:
    share, later = engine.reading()
    bench.note("local model: tokens a second, of the engine's own", "penstock", share)
    bench.note("local model: ms by which the first token is later", "penstock", later)


READERS: dict[str, Callable[[Bench, list[Server]], None]] = {
    "cpu": read_cpu,
    "alias": read_alias,
    "body": read_body,
    "chunks": read_chunks,
    "latency": read_latency,
    "memory": read_memory,
    "workers": read_workers,
    "start": read_start,
    "engine": read_engine,
}


# ---- the report ---------------------------------------------------------------------------------------------------


def cell(values: list[float] | None) -> str:
    """Median, lowest to highest."""
    if not values:
        return "-"
    digits = 0 if statistics.median(values) >= 100 else 1 if statistics.median(values) >= 10 else 2
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def table(readings: dict[str, dict[str, list[float]]]) -> str:
    lines = ["| | penstock | nginx | ratio |", "|---|---|---|---|"]
    for row, by_server in readings.items():
        ours, floor = by_server.get("penstock"), by_server.get("nginx")
        ratio = f"{statistics.median(ours) / statistics.median(floor):.2f}" if ours and floor else "-"
        lines.append(f"| {row} | {cell(ours)} | {cell(floor)} | {ratio} |")
    return "\n".join(lines)


def save(bench: Bench, options: argparse.Namespace) -> Path:
    path = BUILD / "results.json"
    summary = {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "access_log": options.access_log,
        "limits": options.limits,
        "foreign_share": [round(share, 3) for share in bench.foreign],
        "problems": bench.problems,
        "readings": bench.readings,
    }
    path.write_text(json.dumps(summary, indent=1) + "\n")
    return path


def sitting(options: argparse.Namespace, groups: list[str]) -> Bench:
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="penstock-bench-")))
        mock = stack.enter_context(servers.mock(directory))
        setup = Setup(directory, mock.port, options.access_log, options.limits, options.command)
        bench = Bench(setup, mock, options.seconds)
        subjects = [stack.enter_context(servers.gateway(setup))]
        if not options.skip_nginx:
            subjects.append(stack.enter_context(servers.nginx(setup)))
        for server in subjects:
            bench.wrk(server, 16)  # warm-up, not reported
        for number in range(1, options.rounds + 1):
            for group in groups:
                print(f"round {number}/{options.rounds}: {group}", file=sys.stderr, flush=True)
                READERS[group](bench, subjects)
        return bench


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure Penstock beside nginx.", allow_abbrev=False)
    parser.add_argument("--only", default=",".join(GROUPS), help="comma-separated groups of: " + ",".join(GROUPS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3, help="length of one load run (default 3)")
    parser.add_argument("--skip-nginx", action="store_true", help="measure Penstock alone")
    parser.add_argument("--access-log", action="store_true", help="write access logs, in both servers")
    parser.add_argument("--limits", action="store_true", help="give the load's key limits of every kind")
    parser.add_argument("--command", help="another gateway in Penstock's place; {port} and {upstream} are filled in")
    options = parser.parse_args()
    groups = [group for group in GROUPS if group in options.only.split(",")]
    if unknown := set(options.only.split(",")) - set(GROUPS):
        parser.error(f"no such group: {', '.join(sorted(unknown))}")
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    try:
        servers.tool("wrk")
        if not options.skip_nginx:
            servers.tool("nginx")
        servers.build()
        bench = sitting(options, groups)
    except (BenchError, subprocess.CalledProcessError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    print(table(bench.readings))
    noise = max(bench.foreign, default=0.0)
    print(f"\nOther processes took up to {noise:.0%} of a core during a run; above 10 % the figures drift.")
    for problem in bench.problems:
        print(f"problem: {problem}")
    print(f"All readings: {save(bench, options)}")
    return 1 if bench.problems else 0


if __name__ == "__main__":
    sys.exit(main())
