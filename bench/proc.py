"""What /proc says of a process tree: CPU time, memory, open sockets. Linux only, and only what the ruler needs."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")
LISTEN, TIME_WAIT = "0A", "06"  # states in /proc/net/tcp


def stat_fields(pid: int) -> list[str]:
    """/proc/PID/stat from the state on; empty when the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return []


def tree(pid: int) -> list[int]:
    """The process and all its descendants, itself first."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := stat_fields(int(entry))):
            children.setdefault(int(fields[1]), []).append(int(entry))
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop(0))
        todo += children.get(found[-1], [])
    return found


def cpu_us(pid: int) -> int:
    """User and system time of the tree, microseconds; the kernel shows it in ticks of 10 ms."""
    ticks = 0
    for each in tree(pid):
        if fields := stat_fields(each):
            ticks += int(fields[11]) + int(fields[12])
    return ticks * 1_000_000 // TICK


def machine_cpu_us() -> int:
    """Busy time of all cores since boot, without idle and I/O wait."""
    fields = [int(value) for value in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) * 1_000_000 // TICK


def own_cpu_us() -> int:
    """This process and its children that have ended (the load generators)."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return int(sum(usage.ru_utime + usage.ru_stime for usage in used) * 1_000_000)


def rss_kb(pid: int) -> int:
    """Resident memory of one process; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmRSS:")), 0)


def open_sockets(port: int) -> int:
    """Accepted TCP connections that a local server on `port` has not closed yet."""
    count = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        count += int(fields[1].split(":")[1], 16) == port and fields[3] not in (LISTEN, TIME_WAIT)
    return count


def wait_until_drained(port: int, limit: float = 10.0) -> None:
    """Wait until the server on `port` has seen every client go, and a moment more for what it then settles."""
    deadline = time.monotonic() + limit
    while open_sockets(port) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.2)
