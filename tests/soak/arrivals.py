"""An upstream in a process of its own, which notes when each request arrives, and does nothing else that takes time.

`python -m soak.arrivals HOST:PORT` prints its address, and when its standard input ends the times, in JSON.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import uvloop

from penstock.fake_upstream import Answer, FakeUpstream, Seen

TESTS = Path(__file__).parents[1]  # where the process finds this module


class Arrivals:
    """The process, from here."""

    def __init__(self, process: subprocess.Popen[str], base_url: str) -> None:
        self._process = process
        self.base_url = base_url

    def stop(self) -> dict[str, float]:
        """End it; when each request arrived, by its marker, in seconds of the monotonic clock."""
        times, _ = self._process.communicate()
        return dict(json.loads(times))


@contextmanager
def arrivals(listen: str, prefix: Sequence[str] = ()) -> Iterator[Arrivals]:
    """Run it; `prefix`: what the command is run by."""
    command = [*prefix, sys.executable, "-m", "soak.arrivals", listen]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=TESTS) as process:
        assert process.stdout is not None
        try:
            yield Arrivals(process, process.stdout.readline().strip())
        finally:
            process.kill()


async def _serve(listen: str) -> None:
    times: dict[str, float] = {}

    def answer(seen: Seen) -> Answer:
        times[str(seen.json()["user"])] = seen.started_at
        return Answer(content="Yes.")

    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), ended.set)  # readable: at its end
    async with FakeUpstream(answer, listen=listen, remember=False) as upstream:
        print(upstream.base_url, flush=True)
        await ended.wait()
    json.dump(times, sys.stdout)


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1]))
