"""Processes as the kernel lists them."""

from __future__ import annotations

import contextlib
from pathlib import Path


def children(pid: int) -> list[int]:
    """The processes whose parent is `pid`, those not yet waited for included."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while the others were looked at
        if int(stat.rpartition(")")[2].split()[1]) == pid:
            found.append(int(entry.name))
    return found


def engines(pid: int) -> list[int]:
    """The engines of local models among the descendants of a process, but for those that have ended."""
    found = []
    for child in children(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended in this moment
            if b"penstock.engine.worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(child)
        found += engines(child)
    return found
