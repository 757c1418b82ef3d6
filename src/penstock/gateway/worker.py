"""A worker: takes its configuration from the link, wires the data path together, serves, and drains.

Started by the parent as `python -m penstock.gateway.worker FD`, where FD is its end of the link. It imports only the
data path. Nothing of it outlives the parent: when the link closes, it stops at once.

A new configuration is wired beside the one that serves, and takes its place in one assignment: requests that have
begun go on by the old one, with its providers, connections and deadlines. A provider that did not change is the same
object in both, with its connections and all that is known of its targets. What only the old one has is closed when the
last of its requests has ended, and the parent is told, which stops the engines that nobody calls any more.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import mmap
import os
import signal
import socket
import ssl
import sys
import time
from collections.abc import Collection, Mapping

import uvloop

from penstock import link
from penstock.config import Config, Upstream
from penstock.gateway import heads
from penstock.gateway.admission import Admission
from penstock.gateway.api import Api, Kept
from penstock.gateway.auth import Auth
from penstock.gateway.complete import Gateway
from penstock.gateway.idempotency import Idempotency
from penstock.gateway.journal import Journal
from penstock.gateway.keeping import Keeper
from penstock.gateway.questions import Questions
from penstock.gateway.relay import Heartbeats
from penstock.gateway.revocation import Revocation
from penstock.gateway.routing import Routes
from penstock.gateway.stored import Stored
from penstock.gateway.telemetry import AccessLog, Metrics, Telemetry, log
from penstock.gateway.upstream import Entry, Lanes, Prober, Upstreams
from penstock.gateway.usage import Usage
from penstock.http.client import SWEEP, Pool
from penstock.http.server import Server
from penstock.providers import registry
from penstock.ticks import tick
from penstock.types import EngineAddress, Run

LOOKUP_SECONDS = 5.0
MAX_UNSENT = 64 * 1024 * 1024  # bytes for the parent beyond which no answer is handed to it

Addresses = Mapping[str, EngineAddress]


class Generation:
    """What one configuration made: the stages that its requests go by, and the providers behind them, by name."""

    def __init__(self, version: int, gateway: Gateway, entries: dict[str, Entry], addresses: Addresses) -> None:
        self.version = version
        self.gateway = gateway
        self.entries = entries
        self.addresses = addresses

    def kept(self, upstream: Upstream, address: EngineAddress | None) -> Entry | None:
        """Its entry for a provider, if nothing about that has changed."""
        entry = self.entries.get(upstream.name)
        same = entry is not None and entry.config == upstream and self.addresses.get(upstream.name) == address
        return entry if same else None

    def busy(self, wanted: Collection[Entry]) -> bool:
        """Whether a request goes by it, or an answer is read on that comes by an entry that is not `wanted`."""
        entries = self.entries.values()
        return self.gateway.requests > 0 or any(entry.pool.open for entry in entries if entry not in wanted)


class Worker:
    """One worker's objects, and its side of the conversation with the parent."""

    def __init__(self) -> None:
        self.started: asyncio.Future[link.Start | None] = asyncio.get_running_loop().create_future()
        self.drained: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self.closed = asyncio.Event()
        self.channel: link.Channel | None = None
        self._stored: Questions[link.AnswersFound] = Questions(self._send)
        self._claims: Questions[link.RunClaimed] = Questions(self._send)
        self._usage: Questions[link.UsageAnswer] = Questions(self._send)
        self._lookups: dict[int, asyncio.Future[link.KeyAnswer]] = {}
        self._refs = itertools.count(1)
        self._health = link.Health(store_ok=True, engines_down={})
        self._auth: Auth | None = None
        self._api: Api | None = None
        self._server: Server | None = None
        self._revocation: Revocation | None = None
        self._now: Generation | None = None  # by which requests begin
        self._older: list[Generation] = []  # by which some still go
        self._entries: set[Entry] = set()  # of all of them
        self._settled = 0
        self._early: link.Reconfigure | None = None  # came before there was anything to change
        self._admission: Admission | None = None
        self._metrics = Metrics()
        self._telemetry: Telemetry | None = None
        self._journal: Journal | None = None

    # -- the link

    def on_message(self, message: link.Message) -> None:
        match message:
            case link.Start():
                self.started.set_result(message)
            case link.KeyAnswer():
                waiting = self._lookups.pop(message.ref, None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(message)
            case link.AnswersFound():
                self._stored.answered(message.ref, message)
            case link.RunClaimed():
                self._claims.answered(message.ref, message)
            case link.UsageAnswer():
                self._usage.answered(message.ref, message)
            case link.KeysChanged():
                if self._auth is not None and self._revocation is not None:
                    self._auth.forget()
                    self._revocation.keys_changed()
                if self._admission is not None:
                    self._admission.return_unused()
            case link.Leased() | link.Denied() | link.Unpriced() | link.Uncounted():
                if self._admission is not None:
                    self._admission.on_answer(message)
            case link.Recall():
                if self._admission is not None:
                    self._admission.on_recall(message)
                else:
                    self._send(link.Returned(message.ref, ()))
            case link.Health():
                self._health = message
                self._apply_health()
            case link.Reconfigure():
                self._reconfigure(message)
            case link.SnapshotRequest():
                self._send_snapshot(message.ref)
            case link.Drain():
                if not self.drained.done():
                    self.drained.set_result(message.limit)
            case _:
                log(f"unexpected message on the link: {type(message).__name__}")

    def on_closed(self) -> None:
        self.channel = None
        self.closed.set()
        if not self.started.done():
            self.started.set_result(None)

    async def lookup(self, digest: bytes) -> link.KeyAnswer:
        """Ask the parent whose key this is."""
        ref = next(self._refs)
        if self.channel is None:
            return link.KeyAnswer(ref, None, available=False)
        waiting: asyncio.Future[link.KeyAnswer] = asyncio.get_running_loop().create_future()
        self._lookups[ref] = waiting
        try:
            self.channel.send(link.KeyLookup(ref, digest))
            async with asyncio.timeout(LOOKUP_SECONDS):
                return await waiting
        except TimeoutError:
            return link.KeyAnswer(ref, None, available=False)
        finally:
            self._lookups.pop(ref, None)

    async def _claim(self, run: Run) -> link.RunClaimed | None:
        return await self._claims.ask(lambda ref: link.ClaimRun(ref, run))

    def _keep(self, answer: link.KeepAnswer) -> bool:
        """Hand an answer to the parent; not where it takes nothing any more."""
        return self.channel is not None and self.channel.unsent <= MAX_UNSENT and self._send(answer)

    def _apply_health(self) -> None:
        if self._api is not None:
            self._api.store_ok = self._health.store_ok
            self._api.gateway.down = self._health.engines_down

    def _send_snapshot(self, ref: int) -> None:
        if self._telemetry is not None:
            self._telemetry.notify()
        connections = len(self._server.edge.connections) if self._server is not None else 0
        targets = self._now.gateway.upstreams.lanes.series() if self._now is not None else ()
        series = self._metrics.series(connections, len(asyncio.all_tasks()))
        self._send(link.Snapshot(ref, (*series, *targets)))

    # -- configurations

    def _reconfigure(self, message: link.Reconfigure) -> None:
        """Serve a new configuration from the next request on; nothing changes where that cannot be."""
        api, auth, server = self._api, self._auth, self._server
        if api is None or auth is None or server is None:
            self._early = message
            return
        try:
            generation = self._wired(message.version, message.config, message.engines)
        except (OSError, ValueError) as error:  # what the parent found well is not so here, or not any more
            self._send(link.Reconfigured(message.version, str(error)))
            return
        config, before = message.config.server, self._now
        self._now, api.gateway = generation, generation.gateway
        self._health = message.health
        self._apply_health()
        api.trust(config.trusted_proxies)
        auth.failures_per_minute = config.auth_failures
        assert self._admission is not None
        self._admission.follow(message.config.limits)
        server.edge.limits = config.limits
        if self._journal is not None:
            self._journal.most = message.config.ledger.journal_bytes
        if before is not None:
            self._older.append(before)
        for entry in self._entries - set(generation.entries.values()):
            entry.pool.retire()
        self._send(link.Reconfigured(message.version))
        self._let_go()

    def _wired(self, version: int, config: Config, addresses: Addresses) -> Generation:
        """The stages for a configuration; of the providers before, those that are as they were. Raises OSError or
        ValueError, and then has changed nothing."""
        assert self._telemetry is not None
        assert self._admission is not None
        before = self._now
        entries = {}
        for name, upstream in config.providers.items():
            address = addresses.get(name)
            kept = before.kept(upstream, address) if before is not None else None
            entries[name] = kept or _entry(upstream, address)
        routes = Routes(config.models, _lacks(entries))
        lanes = Lanes(entries, config.retries, config.breaker)
        if before is not None:
            lanes.inherit(before.gateway.upstreams.lanes, routes.keys())
        heartbeats = Heartbeats(config.server.limits.heartbeat)
        keeper = Keeper(config.answers, self._keep, self._metrics.not_kept)
        upstreams = Upstreams(lanes, config.retries, journal=self._journal)
        gateway = Gateway(routes, self._admission, upstreams, self._telemetry, heartbeats, keeper, self._journal)
        return Generation(version, gateway, entries, addresses)

    def _let_go(self) -> None:
        """Close what no request goes by any more, and tell the parent how far that has come."""
        now = self._now
        assert now is not None
        wanted = set(now.entries.values())
        self._older = [generation for generation in self._older if generation.busy(wanted)]
        in_use = wanted.union(*(generation.entries.values() for generation in self._older))
        for entry in self._entries - in_use:
            entry.pool.close()
        self._entries = in_use
        oldest = self._older[0].version if self._older else now.version
        if oldest != self._settled:
            self._settled = oldest
            self._send(link.Settled(oldest))

    def _send(self, message: link.Message) -> bool:
        """Queue a message; False where the parent is gone."""
        if self.channel is None:
            return False
        self.channel.send(message)
        return True

    # -- serving

    async def run(self, start: link.Start) -> None:
        """Serve until told to drain, or until the parent is gone."""
        config = start.config
        loop = asyncio.get_running_loop()
        access_log = AccessLog(sys.stdout.fileno()) if config.server.access_log else None
        self._telemetry = telemetry = Telemetry(self._metrics, () if access_log is None else (access_log,))
        if start.journal:
            self._journal = Journal(start.journal, config.ledger.journal_bytes, log)
        self._admission = Admission(self._send, _board(start.board_fd), config.limits)
        self._now = self._wired(start.version, config, start.engines)
        self._entries, self._settled = set(self._now.entries.values()), start.version
        auth = Auth(self.lookup, loop.time, config.server.auth_failures, self._metrics.auth_failed)
        kept = Kept(Stored(self._stored.ask), Idempotency(self._claim, self._send))
        api = Api(
            self._now.gateway, auth, heads.RequestIds(), config.server.trusted_proxies, kept, Usage(self._usage.ask)
        )
        self._auth, self._api = auth, api
        self._apply_health()
        self._server = server = Server(api, config.server.limits)
        self._revocation = revocation = Revocation(server.requests, auth.works, time.time)
        if self._early is not None:
            self._reconfigure(self._early)
        tls = Certificate(config) if config.server.tls_cert is not None else None
        for descriptor in start.listen_fds:
            sock = socket.socket(fileno=descriptor)
            sock.setblocking(False)
            # A local proxy on the unix socket does not need TLS, nor has it a name to verify.
            context = tls.context if tls is not None and sock.family != socket.AF_UNIX else None
            await server.listen(sock, context)
        self._send(link.Ready())
        gc.collect()
        gc.freeze()  # what exists now lives for ever: later collections need not visit it
        # A request that goes well leaves no cycles, so that looking for some at every tenth costs time. One that fails
        # does, and those that were in flight at a young collection are found by the older ones alone: not too rarely.
        gc.set_threshold(10_000, 5, 5)
        sweeping = asyncio.create_task(self._sweep(telemetry))
        prober = Prober()
        reading = asyncio.create_task(self._refresh(tls, prober))
        draining = asyncio.create_task(self._drain_when_told(server))
        gone = asyncio.create_task(self.closed.wait())
        done, _ = await asyncio.wait([draining, gone, sweeping, reading], return_when=asyncio.FIRST_COMPLETED)
        for task in (sweeping, reading, draining, gone):
            task.cancel()
        prober.close()
        revocation.close()
        for entry in self._entries:
            entry.pool.close()
        self._admission.return_unused()
        self._send_snapshot(0)
        if access_log is not None:
            access_log.close()
        if self._journal is not None:
            self._journal.close()
        for first in done:
            first.result()  # one that failed ends the worker in its error

    async def _drain_when_told(self, server: Server) -> None:
        await server.drain(await self.drained)

    async def _sweep(self, telemetry: Telemetry) -> None:
        """What must happen often, and is cheap."""
        assert self._now is not None
        assert self._admission is not None
        while True:
            await tick(SWEEP)
            for entry in self._entries:
                entry.pool.sweep()
            for generation in (self._now, *self._older):
                generation.gateway.heartbeats.sweep(time.monotonic())
            telemetry.notify()
            self._admission.sweep()
            if self._older:
                self._let_go()

    async def _refresh(self, tls: Certificate | None, prober: Prober) -> None:
        """What must happen every second, and may touch a file."""
        assert self._now is not None
        while True:
            await tick(1.0)
            self._send_snapshot(0)
            for entry in self._entries:
                entry.provider.refresh()
            prober.sweep(self._now.gateway.upstreams.lanes)
            if self._auth is not None and self._auth.expiring and self._revocation is not None:
                self._revocation.end_expired()
            if tls is not None:
                tls.refresh()


class Certificate:
    """The server's TLS context; new handshakes use the files as they are now."""

    def __init__(self, config: Config) -> None:
        assert config.server.tls_cert is not None
        self._cert = config.server.tls_cert
        self._key = config.server.tls_key
        self._seen = self._marks()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        self.context.load_cert_chain(self._cert, self._key)

    def refresh(self) -> None:
        """Load the files again if they changed; a pair that does not fit is left for the next look."""
        marks = self._marks()
        if marks == self._seen:
            return
        try:
            # First where it harms nobody: half a pair would take the place of the old one.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self._cert, self._key)
            self.context.load_cert_chain(self._cert, self._key)
        except (OSError, ssl.SSLError) as error:
            log(f"the TLS certificate changed but cannot be loaded, the old one stays: {error}")
        else:
            log("the TLS certificate was loaded again")
        self._seen = marks

    def _marks(self) -> tuple[tuple[int, int, int], ...]:
        marks = []
        for path in (self._cert, self._key):
            if path is None:
                continue
            try:
                found = os.stat(path)
            except OSError:
                marks.append((0, 0, 0))  # being replaced just now
            else:
                marks.append((found.st_ino, found.st_mtime_ns, found.st_size))
        return tuple(marks)


def _entry(upstream: Upstream, address: EngineAddress | None) -> Entry:
    provider = registry.build(upstream, address)
    return Entry(provider, Pool(provider.origin, upstream), upstream)


def _board(descriptor: int) -> memoryview | tuple[()]:
    """The memory in which the parent says what is left of limits."""
    if descriptor < 0:
        return ()
    return memoryview(mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)).cast("q")


def _lacks(entries: dict[str, Entry]) -> dict[str, Collection[str]]:
    """What no model of a provider can do."""
    return {name: entry.provider.lacks for name, entry in entries.items()}


async def _main(descriptor: int) -> None:
    # The parent decides when to stop: a Ctrl-C reaches the whole process group, and would end streams at once.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    worker = Worker()
    sock = socket.socket(fileno=descriptor)
    sock.setblocking(False)
    worker.channel = await link.connect(sock, worker.on_message, worker.on_closed)
    start = await worker.started
    if start is not None:
        await worker.run(start)
    if worker.channel is not None:
        worker.channel.close()


if __name__ == "__main__":
    uvloop.run(_main(int(sys.argv[1])))
