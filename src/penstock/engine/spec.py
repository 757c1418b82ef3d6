"""What an engine process is told, and what it tells: the messages over its standard input and output.

The parent writes one Assignment, a line of JSON, and keeps the pipe open for as long as the child shall live. The
child answers with one line, Loaded or Unloadable. Nothing secret travels in arguments or the environment, which
others on the machine could read.
"""

from __future__ import annotations

import msgspec


class EngineSpec(msgspec.Struct, frozen=True):
    """One local model and what it may take.

    `context`: tokens that one request may have, prompt and answer together; never more than the model was trained
    for, 0 chooses. `parallel`: requests generated at the same time; each has its whole context to itself, so that
    memory grows with context times parallel. `threads`: 0 chooses. `connections`: the most that the gateway's
    workers open at once; every one of them holds a thread of the engine's HTTP server while it is open, idle or not.
    """

    model_path: str
    context: int = 0
    parallel: int = 4
    threads: int = 0
    connections: int = 576


class Assignment(msgspec.Struct, frozen=True):
    """Load `spec` and serve it at the unix socket `uds` to those who know `token`."""

    spec: EngineSpec
    uds: str
    token: str


class Loaded(msgspec.Struct, frozen=True, tag=True):
    """It answers now. `context` and `threads` are those chosen."""

    context: int
    threads: int


class Unloadable(msgspec.Struct, frozen=True, tag=True):
    """The file cannot be loaded, and will not until somebody changes something."""

    reason: str


Report = Loaded | Unloadable
