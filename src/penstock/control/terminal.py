"""Tells a SIGHUP that asks for the configuration to be read again from one that says that the terminal is gone."""

from __future__ import annotations

import os
import signal


class Terminal:
    """The controlling terminal of this process, if it has one whose end is to be its own (under nohup it is not)."""

    def __init__(self) -> None:
        self._there = signal.getsignal(signal.SIGHUP) != signal.SIG_IGN and _opens()
        self._streams = [descriptor for descriptor in range(3) if os.isatty(descriptor)]

    def gone(self) -> bool:
        """Whether there was one, and is none any more."""
        return self._there and not _opens()

    def forget(self) -> None:
        """Write to it no more, which would fail."""
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in self._streams:
            os.dup2(null, descriptor)
        os.close(null)


def _opens() -> bool:
    # A process that has none, or whose terminal hung up, cannot open this: tty(4), ENXIO.
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
