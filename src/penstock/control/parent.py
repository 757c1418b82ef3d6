"""The parent: opens the sockets, starts engines and workers, answers the workers, serves the control plane, drains.

How it works: sockets first, since what fails there should fail before anything runs; then the processes, which take
longest to be ready; while they start, the store and then the control plane are loaded in a thread, because their
imports take longer than everything else together. The greeting comes when every worker is ready.

It then waits for the first of two things: a signal, or the failure of something that must not fail. A signal drains
the workers; a second one ends them at once. Whatever happened, `_close` undoes every step that was taken, each
whatever the others do, and within bounded time.

A store that fails later ends nothing: see `control.keys`. Nor does an engine, which is started again by
`engine.process`, or a worker, which is by `control.workers`.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import logging
import os
import secrets
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, TypeVar

import msgspec

from penstock import data_dir, link
from penstock.config import Config, Upstream
from penstock.control import greeting, keys, workers
from penstock.control.answers import KeptAnswers
from penstock.control.counters import Board, Counters, Policy, Sources
from penstock.control.engines import Engines, Running
from penstock.control.ledger import Drain, Price
from penstock.control.metrics import Metrics
from penstock.control.prices import Book, Prices
from penstock.control.reloading import ConfigFile, NotApplied, Reloader
from penstock.control.retention import Retention
from penstock.control.runs import IdempotentRuns
from penstock.control.sockets import Listener, ListenError
from penstock.control.terminal import Terminal
from penstock.control.usage import OwnUsage
from penstock.engine.process import UnusableDirectory
from penstock.engine.spec import EngineSpec
from penstock.limits import Limit
from penstock.link import KeyAnswer, KeyLookup, SeriesValue, UsageAnswer, UsageQuestion
from penstock.providers.llama import LlamaSettings, model_file
from penstock.providers.secrets import Secret
from penstock.stores.base import Access, Ledger, Slices, StoreUnavailable
from penstock.stores.base.answers import Answers
from penstock.stores.base.runs import Runs
from penstock.stores.slices import MemorySlices
from penstock.types import Settlement

STORES = "penstock.stores.sql"
COUNTERS, LOCAL = "penstock.stores.valkey", "local"
ADMIN = "penstock.control.admin"
PRICE_LIST = "penstock.control.prices.book"

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SCRAPE_LIMIT = 0.5
READY_LIMIT = 60.0
APPLY_LIMIT = 10.0
STORE_GRACE = 5.0  # for what workers have handed over and the store does not have yet
OWN = -1  # in place of a worker's number: the parent's own counts
STORE_LIMIT = 10.0  # for what is not in the ledger yet when the server ends
FIRST_KEY = "first-key"
ADMIN_KEY = "admin-key"

Q = TypeVar("Q")
A = TypeVar("A")

_log = logging.getLogger("penstock.parent")


class Stores(Protocol):
    """All stores of one database, as `penstock.stores.sql` opens them."""

    @property
    def access(self) -> Access: ...

    @property
    def answers(self) -> Answers: ...

    @property
    def runs(self) -> Runs: ...

    @property
    def ledger(self) -> Ledger: ...

    async def close(self) -> None: ...


class BadKey(Exception):
    """A key in the environment cannot be one; the message says why."""


# What the operator can mend: told in one line, without a traceback.
PROBLEMS = (
    data_dir.DataDirError,
    ListenError,
    StoreUnavailable,
    UnusableDirectory,
    workers.StartFailed,
    BadKey,
)


async def serve(
    config: Config, source: str, command: Sequence[str] = workers.COMMAND, file: ConfigFile | None = None
) -> int:
    """Serve until a signal; the exit status. `source` says where the configuration came from, `file` how to read it
    again; `command` starts a worker, given the descriptor of its link."""
    loop = asyncio.get_running_loop()
    try:
        parent = Parent(config, source, command, file)
        for number in SIGNALS:
            loop.add_signal_handler(number, parent.interrupt)
        loop.add_signal_handler(signal.SIGHUP, parent.hang_up)
        return await parent.run()
    except PROBLEMS as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    finally:
        for number in (*SIGNALS, signal.SIGHUP):
            loop.remove_signal_handler(number)


class Parent:
    """One server, from its start to its end."""

    def __init__(self, config: Config, source: str, command: Sequence[str], file: ConfigFile | None) -> None:
        self._config = config
        self._source = source
        self._command = command
        self._environment_key = _environment_key("PENSTOCK_API_KEY")
        self._stop = asyncio.Event()
        self._stopped_hard = False
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._background: set[asyncio.Task[None]] = set()
        self._answering: set[asyncio.Task[None]] = set()
        self._admin_stop = asyncio.Event()
        self._listeners: list[Listener] = []
        self._terminal = Terminal()
        self._engines = Engines(self._start, self._tell_health)
        self._reloader = Reloader(file, config, self._apply)
        self._reloading: asyncio.Task[None] | None = None
        self._metrics = Metrics()
        self._prices = Prices(config, _price_list)
        self._lookups = keys.Lookups(
            self._environment_key,
            self._keys_changed,
            lambda _ok: self._tell_health(),
            config.server.auth_stale_max,
        )
        self._answers = KeptAnswers(config.answers)
        self._runs = IdempotentRuns()
        self._usage = OwnUsage(time.time)
        self._retention = Retention(config.ledger.retention_days, time.time)
        self._workers: workers.Workers | None = None
        self._running: asyncio.Task[None] | None = None
        self._stores: Stores | None = None
        self._ledger: Drain | None = None
        self._board = Board()
        self._counters: Counters | None = None

    def interrupt(self) -> None:
        """A signal: the first one drains, the second ends."""
        if self._stop.is_set():
            self._stopped_hard = True
            if self._workers is not None:
                self._workers.kill()
        self._stop.set()

    def hang_up(self) -> None:
        """SIGHUP: the terminal is gone, which ends what it started; else the configuration is to be read again."""
        if self._terminal.gone():
            self._terminal.forget()
            self.interrupt()
        else:
            self._reloader.ask()

    async def run(self) -> int:
        """Serve until interrupted; raises one of PROBLEMS when it cannot."""
        stopping = asyncio.create_task(self._stop.wait())
        try:
            directory = self._launch()
            preparing = self._start(self._prepare(directory))
            await asyncio.wait((stopping, self._failure), return_when=asyncio.FIRST_COMPLETED)
            if self._failure.done():
                self._failure.result()
            preparing.cancel()
            if self._reloading is not None:
                self._reloading.cancel()
            await self._drain()
            return 1 if self._stopped_hard else 0
        finally:
            stopping.cancel()
            await asyncio.shield(asyncio.ensure_future(self._close()))

    # -- the start

    def _launch(self) -> Path:
        """Open the sockets and start the processes; nothing here waits."""
        server = self._config.server
        directory = data_dir.prepare(server.data_dir)
        edge = self._listen(server.listen, "--listen")
        self._listen(server.admin_listen, "--admin-listen")
        self._engines.follow(_specs(self._config))
        self._ledger = ledger = _drain(directory, self._prices.tariff, self._settle)
        descriptors, board = edge.descriptors, self._board.descriptor
        start = link.Start(0, self._config, descriptors, self._engines.addresses, board_fd=board)
        handlers = workers.Handlers(
            self._look_up,
            self._metrics.update,
            self._gone,
            self._answers.receive,
            self._runs.receive,
            self._tell_usage,
            ledger.begin,
            self._lease,
            self._returned,
        )
        self._workers = workers.Workers(server.workers, start, handlers, self._health(), self._command)
        self._running = self._start(self._workers.run())
        return directory

    def _listen(self, listen: str, option: str) -> Listener:
        listener = Listener(listen, option)
        self._listeners.append(listener)
        return listener

    async def _prepare(self, directory: Path) -> None:
        """Bring up what needs heavy imports, then greet."""
        assert self._workers is not None
        assert self._ledger is not None
        self._counters = self._count(await self._slices())
        self._start(self._counters.run())
        sql = await asyncio.to_thread(_load, STORES)
        self._stores = stores = await sql.open_stores(_setting("store", self._config.server.store), directory)
        self._usage.open(stores.ledger)
        await self._lookups.open(stores.access)
        self._tell_health()
        self._start(self._lookups.poll())
        self._start(self._answers.run(stores.answers))
        self._start(self._runs.run(stores.runs))
        self._start(self._retention.run(stores.ledger))
        self._start(self._serve_admin(await asyncio.to_thread(_load, ADMIN), directory))
        self._start(self._keep_ledger(self._ledger, stores.ledger))
        try:
            async with asyncio.timeout(READY_LIMIT):
                await asyncio.shield(self._workers.ready)
        except TimeoutError:
            raise workers.StartFailed(f"the workers were not ready within {READY_LIMIT:.0f} s") from None
        first, line = await self._first_key(stores.access, directory)
        edge, control = self._listeners
        place = greeting.Place(edge.bound, control.bound, line, first)
        print(greeting.greeting(self._config, self._source, place), file=sys.stderr, flush=True)
        self._reloading = self._start(self._reloader.run())
        gc.collect()
        gc.freeze()  # what exists now lives for ever: later collections need not visit it
        gc.set_threshold(20_000, 10, 10)  # rows on their way to the ledger are many, and no part of any cycle

    async def _keep_ledger(self, ledger: Drain, store: Ledger) -> None:
        """Price what the journals have and store it, once there are prices."""
        await asyncio.to_thread(self._prices.load)
        await ledger.run(store)

    async def _slices(self) -> Slices:
        """Where limits are counted. Raises StoreUnavailable where the setting makes no sense."""
        counters = self._config.server.counters
        if counters == LOCAL:
            return MemorySlices()
        valkey = await asyncio.to_thread(_load, COUNTERS)
        url, name = _setting("counters", counters), secrets.token_hex(6)
        slices: Slices = valkey.open_slices(url, self._config.limits.store_timeout, name)
        return slices

    def _count(self, store: Slices) -> Counters:
        assert self._workers is not None
        limits, count = self._config.limits, self._config.server.workers
        policy = Policy(limits.budgets_fail_open, limits.rates_fail_open)
        sources = Sources(self._lookups.limits, self._prices.rates, self._spent)
        mark = secrets.token_hex(4) + "-"
        return Counters(store, sources, self._workers.send, self._board, mark=mark, policy=policy, workers=count)

    def _serve_admin(self, admin: ModuleType, directory: Path) -> Coroutine[Any, Any, None]:
        key = _environment_key("PENSTOCK_ADMIN_KEY")
        if key is None:
            key = data_dir.secret(directory / ADMIN_KEY, keys.generate)
        control = self._listeners[1]
        hosts = [*self._config.server.admin_hosts, control.address.host]
        if control.address.host in ("0.0.0.0", "::"):
            hosts.append("*")
        app = admin.application(self._scrape, key, hosts)
        served: Coroutine[Any, Any, None] = admin.serve(app, control.sockets, self._admin_stop)
        return served

    async def _first_key(self, store: Access, directory: Path) -> tuple[str | None, str]:
        """Make the first key if there never was one. The key where it may be shown, and what to say of keys."""
        if self._environment_key is not None or await store.generation() != 0:
            return None, greeting.key_line(self._environment_key is not None)
        key = keys.generate()
        new = keys.new_key(key, "first")
        if sys.stderr.isatty():
            if await store.create_first_key(new) is None:
                return None, greeting.key_line(False)
            return key, greeting.first_key_line(key)
        # the file exists before the key does, so that no key is made that nobody can read
        path = directory / FIRST_KEY
        staged = data_dir.stage(path, key)
        try:
            if await store.create_first_key(new) is None:
                return None, greeting.key_line(False)
            staged.replace(path)
        finally:
            staged.unlink(missing_ok=True)
        return None, greeting.first_key_file_line(path)

    # -- while it serves

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` beside all else; if it fails, so does the server."""
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._failure.done():
            self._failure.set_exception(error)

    def _look_up(self, question: KeyLookup, send: Callable[[KeyAnswer], None]) -> None:
        self._answer(self._lookups.answer, question, send)

    def _tell_usage(self, question: UsageQuestion, send: Callable[[UsageAnswer], None]) -> None:
        self._answer(self._usage.answer, question, send)

    def _answer(self, find: Callable[[Q], Awaitable[A]], question: Q, send: Callable[[A], None]) -> None:
        """Send a worker its answer, once it is there."""

        async def answered() -> None:
            send(await find(question))

        task = asyncio.create_task(answered())
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _spent(self, limit: Limit, since: float, width: float) -> Sequence[tuple[float, int]]:
        """What the ledger knows, once it has what servers before this one had not stored. `width` 0: all in one sum."""
        assert self._ledger is not None
        await self._ledger.replayed.wait()
        assert self._stores is not None
        return await self._stores.ledger.spent(limit, since, width or float("inf"))

    def _lease(self, worker: int, question: link.Lease, send: Callable[[link.Message], None]) -> None:
        if self._counters is None:
            send(link.Uncounted(question.ref))
        else:
            self._counters.ask(worker, question, send)

    def _returned(self, worker: int, message: link.Returned | link.Forget) -> None:
        if self._counters is not None:
            if isinstance(message, link.Forget):
                self._counters.forget(worker, message.ref)
            else:
                self._counters.returned(worker, message)

    def _settle(self, settlements: Sequence[Settlement]) -> None:
        if self._counters is not None:
            self._counters.settle(settlements)

    def _keys_changed(self) -> None:
        if self._workers is not None:
            self._workers.broadcast(link.KeysChanged())

    def _health(self) -> link.Health:
        return link.Health(self._stores is not None and self._lookups.store_ok, self._engines.down)

    def _tell_health(self) -> None:
        if self._workers is not None:
            self._workers.tell(self._health())

    def _gone(self, worker: int) -> None:
        self._metrics.retire(worker)
        self._runs.gone(worker)
        unused = self._counters.gone(worker) if self._counters is not None else None
        if self._ledger is not None:
            self._ledger.end(worker, unused)

    async def _scrape(self) -> Sequence[SeriesValue]:
        assert self._workers is not None
        await self._workers.scrape(SCRAPE_LIMIT)
        assert self._ledger is not None
        self._metrics.update(OWN, link.Snapshot(0, (*self._answers.series(), *self._runs.series())))
        counted = self._counters.series() if self._counters is not None else ()
        return (*self._metrics.merged(), *self._reloader.series(), *self._ledger.series(), *counted)

    async def _apply(self, config: Config) -> int:
        """Have every worker serve another configuration; how many do. Raises NotApplied."""
        assert self._workers is not None
        try:
            unwanted = self._engines.follow(_specs(config))
        except UnusableDirectory as error:
            raise NotApplied([str(error)]) from error
        self._lookups.stale_max = config.server.auth_stale_max
        self._config, self._answers.config = config, config.answers
        self._retention.days = config.ledger.retention_days
        self._prices.follow(config)
        self._start(asyncio.to_thread(self._prices.load))
        if self._counters is not None:
            self._counters.policy = Policy(config.limits.budgets_fail_open, config.limits.rates_fail_open)
        applied = await self._workers.reconfigure(config, self._engines.addresses, self._health(), APPLY_LIMIT)
        if unwanted:
            self._start(self._stop_engines(unwanted, applied.version))
        if applied.problems:
            raise NotApplied(applied.problems)
        return applied.workers

    async def _stop_engines(self, unwanted: Sequence[Running], version: int) -> None:
        """Stop engines that the configuration of that version does not have, when no request is answered by them."""
        assert self._workers is not None
        await self._workers.settled(version)
        await self._engines.stop(unwanted)

    # -- the end

    async def _drain(self) -> None:
        assert self._workers is not None
        limit = self._config.server.limits.drain_timeout
        print(f"Draining: answers in progress have {limit:.0f} s; a second signal ends them.", file=sys.stderr)
        self._listeners[0].close()  # ours, too, or clients would queue for workers that accept no more
        await self._workers.drain(limit)
        await self._answers.close(STORE_GRACE)
        await self._runs.close()

    async def _close(self) -> None:
        """Undo, from the last step to the first, whatever was done; each step whatever became of the others."""
        async with AsyncExitStack() as stack:
            stack.callback(self._engines.close)
            for listener in self._listeners:
                stack.callback(listener.close)
            stack.callback(self._board.close)
            stack.push_async_callback(self._close_counters)
            stack.push_async_callback(self._close_stores)
            stack.push_async_callback(self._close_ledger)
            stack.push_async_callback(self._end_background)

    async def _end_background(self) -> None:
        self._admin_stop.set()
        if self._workers is not None:
            self._workers.kill()
        ending: list[Awaitable[Any]] = [*self._background, *self._answering]
        for task in (*self._background, *self._answering):
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        if self._failure.done():
            self._failure.exception()  # looked at, whoever raised

    async def _close_ledger(self) -> None:
        if self._ledger is not None:
            store = None if self._stores is None else self._stores.ledger
            await self._ledger.close(store, 0.0 if self._stopped_hard else STORE_LIMIT)

    async def _close_counters(self) -> None:
        if self._counters is not None:
            await self._counters.close()

    async def _close_stores(self) -> None:
        if self._stores is not None:
            await self._stores.close()


def _specs(config: Config) -> dict[str, EngineSpec]:
    """The local models that the configuration has, by their providers' names."""
    workers = config.server.workers
    return {name: _spec(upstream, workers) for name, upstream in config.providers.items() if upstream.type == "llama"}


def _spec(upstream: Upstream, workers: int) -> EngineSpec:
    settings = msgspec.convert(upstream.settings, LlamaSettings)
    return EngineSpec(
        str(model_file(settings)),
        settings.context,
        settings.parallel,
        settings.threads,
        connections=workers * upstream.max_connections + 64,
    )


def _drain(directory: Path, price: Price, settle: Callable[[Sequence[Settlement]], None]) -> Drain:
    """Raises DataDirError."""
    try:
        return Drain(directory, price, settle)
    except OSError as error:
        raise data_dir.DataDirError(f"cannot keep journals in {directory}: {error.strerror or error}") from error


def _price_list() -> Book:
    book: Book = _load(PRICE_LIST)
    return book


def _load(name: str) -> ModuleType:
    """Import what is too slow to be waited for before the workers start."""
    return importlib.import_module(name)


def _setting(name: str, said: str) -> str:
    """What a setting of [server] says, or refers to."""
    try:
        return Secret(said, f"server.{name}").value
    except ValueError as error:
        raise StoreUnavailable(str(error)) from error


def _environment_key(variable: str) -> str | None:
    """The key in the environment; an empty one is none. Raises BadKey."""
    key = os.environ.get(variable)
    if not key:
        return None
    if not key.isascii() or not key.isprintable() or " " in key or len(key) > keys.LONGEST:
        raise BadKey(f"{variable} is no key: give at most {keys.LONGEST} printable ASCII characters without spaces")
    return key
