"""A worker that does what its script says, over the real link: `stand_in_worker.py BEHAVIOUR FD`.

It reports its descriptors and its environment as series of a snapshot, answers SnapshotRequests with one request
counted, serves another configuration as soon as it is told to, and ends when drained or when the link closes. Other
behaviours: `die` (before Ready), `deaf` (never ready), `silent` (answers no question), `stubborn` (ignores Drain),
`unlinked` (closes the link and stays), `unwilling` (keeps its configuration), `busy` (a request goes by its first
configuration until it is told that keys have changed).
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys

from penstock import link


class StandIn:
    def __init__(self, behaviour: str) -> None:
        self.behaviour = behaviour
        self.done = asyncio.Event()
        self.channel: link.Channel | None = None
        self.told: list[str] = []
        self.version = -1

    def on_message(self, message: link.Message) -> None:
        assert self.channel is not None
        if not isinstance(message, link.SnapshotRequest):
            self.told.append(type(message).__name__)
        match message:
            case link.Start():
                self.version = message.version
                if self.behaviour == "die":
                    os._exit(3)
                if self.behaviour != "deaf":
                    self.channel.send(link.Ready())
                if self.behaviour == "unlinked":
                    self.channel.close()
            case link.KeysChanged() if self.behaviour == "busy":
                self.channel.send(link.Settled(self.version))
            case link.KeysChanged():
                self.channel.send(link.KeyLookup(1, b"d" * 32))
            case link.Reconfigure() if self.behaviour == "unwilling":
                self.channel.send(link.Reconfigured(message.version, "it will not"))
            case link.Reconfigure() if self.behaviour != "silent":
                self.version = message.version
                self.channel.send(link.Reconfigured(message.version))
                if self.behaviour != "busy":
                    self.channel.send(link.Settled(message.version))
            case link.SnapshotRequest() if self.behaviour != "silent":
                self.channel.send(self.snapshot(message.ref))
            case link.Drain() if self.behaviour != "stubborn":
                self.channel.send(self.snapshot(0))
                self.done.set()

    def snapshot(self, ref: int) -> link.Snapshot:
        said = ",".join([str(os.getpid()), *self.told, f"v{self.version}", os.environ.get("PENSTOCK_ADMIN_KEY", "-")])
        return link.Snapshot(ref, (link.SeriesValue("penstock_auth_failures_total", (said,), 1),))

    def on_closed(self) -> None:
        if self.behaviour not in ("stubborn", "unlinked"):
            self.done.set()


async def main(behaviour: str, descriptor: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stand_in = StandIn(behaviour)
    stand_in.channel = await link.connect(socket.socket(fileno=descriptor), stand_in.on_message, stand_in.on_closed)
    await stand_in.done.wait()
    stand_in.channel.close()
    await asyncio.sleep(0)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
