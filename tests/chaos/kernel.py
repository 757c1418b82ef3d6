"""What /proc says of a running gateway: open files, resident memory."""

from __future__ import annotations

import os
from pathlib import Path

from support.processes import children


def tree(pid: int) -> list[int]:
    """The process and its descendants, itself first."""
    found = [pid]
    for one in found:
        found += children(one)
    return found


def files(pid: int) -> dict[str, str]:
    """The open files of a process, by descriptor: what each leads to."""
    found = {}
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found[entry.name] = os.readlink(entry)
        except FileNotFoundError:
            continue  # closed while the others were looked at
    return found


def count_files(pid: int) -> int:
    """How many files a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def rss_kb(pid: int) -> int:
    """Resident memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
