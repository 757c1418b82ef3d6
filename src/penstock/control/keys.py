"""Keys as the control plane handles them: made, named by digest, and answered for when a worker asks.

How it works: a worker knows only digests. It asks once for each that it does not know and keeps the answer, known or
unknown. `Lookups` reads the store's generation four times a second; when it moved, whoever moved it, every worker is
told to forget, so that a revoked key stops and a new one works within a second.

An answer must not be older than the last such message, or a worker would keep what has just been declared wrong: an
answer whose question was put to the store before the message is asked again.

When the store fails: questions are answered "not available" at once, and workers go on with what they keep. After
STALE seconds of failure they are told to forget, so that a key revoked meanwhile does not work for ever. The key from
the environment is in no store and always works.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import secrets
import string
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from penstock.link import KeyAnswer, KeyLookup
from penstock.stores.base import KeyRecord, Keys, NewKey, StoreUnavailable
from penstock.types import Principal

POLL = 0.25
STALE = 60.0
STORE_LIMIT = 2.0  # a store that takes longer has failed; a worker waits 5 s
ENVIRONMENT = Principal(key_id="env", name="PENSTOCK_API_KEY")

SHORTEST, LONGEST = 20, 512  # of a key that is given; the edge takes none above
LONGEST_NAME = 100
_PREFIX = "sk-penstock-"
_BASE62 = string.ascii_letters + string.digits
_RANDOM = 43  # characters of base 62: 256 bits

T = TypeVar("T")


class InvalidKey(ValueError):
    """A key, a name or a model pattern that is not kept; the message says what would be."""


def generate() -> str:
    """A new key; base 62, so that a double click selects what follows the prefix."""
    return _PREFIX + "".join(secrets.choice(_BASE62) for _ in range(_RANDOM))


def digest(key: str) -> bytes:
    """What stores and workers know a key by. A fast hash is enough: nobody guesses 256 random bits."""
    return hashlib.sha256(key.encode("utf-8")).digest()


def new_key(key: str, name: str, models: tuple[str, ...]) -> NewKey:
    """What to give the store; raises InvalidKey."""
    if not name or len(name) > LONGEST_NAME or not name.isprintable() or name != name.strip():
        raise InvalidKey(f"a key's name is 1 to {LONGEST_NAME} printable characters without white space around them")
    for model in models:
        if not model or not model.isprintable() or " " in model or "*" in model[:-1]:
            raise InvalidKey(f"{model!r} is no model: give a name, or a prefix and *, such as gpt-5.4 or gpt-*")
    check(key)
    return NewKey("key_" + secrets.token_hex(12), name, models, f"{key[:4]}...{key[-4:]}", digest(key))


def check(key: str) -> None:
    """Raises InvalidKey where a bearer token cannot be this, or should not."""
    if not re.fullmatch(r"[!-~]+", key):
        raise InvalidKey("a key is made of printable ASCII characters without spaces")
    if not SHORTEST <= len(key) <= LONGEST:
        raise InvalidKey(f"a key has {SHORTEST} to {LONGEST} characters; this one has {len(key)}")


class Lookups:
    """Answers workers. `on_change` tells them to forget; `on_health` is told whether the store answers."""

    def __init__(
        self,
        environment_key: str | None,
        on_change: Callable[[], None],
        on_health: Callable[[bool], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._environment = None if environment_key is None else digest(environment_key)
        self._on_change = on_change
        self._on_health = on_health
        self._clock = clock
        self._running: set[asyncio.Task[Any]] = set()
        self._opened = asyncio.Event()
        self._keys: Keys | None = None
        self._generation = 0
        self._epoch = 0  # how often workers were told to forget
        self._failing_since: float | None = None
        self._flushed = False  # they were told so in this outage

    @property
    def store_ok(self) -> bool:
        return self._failing_since is None

    async def open(self, keys: Keys) -> None:
        """The store is there: questions that came before are answered now. Raises StoreUnavailable."""
        self._generation = await keys.generation()
        self._keys = keys
        self._opened.set()

    async def answer(self, question: KeyLookup) -> KeyAnswer:
        """Whose key it is. Waits for the store to be opened, which at the start takes some tenths of a second."""
        if self._environment is not None and hmac.compare_digest(self._environment, question.digest):
            return KeyAnswer(question.ref, ENVIRONMENT)
        try:
            record = await self._ask(question.digest)
        except (StoreUnavailable, TimeoutError):
            return KeyAnswer(question.ref, None, available=False)
        if record is None:
            return KeyAnswer(question.ref, None)
        return KeyAnswer(question.ref, Principal(record.id, record.name, record.models))

    async def _ask(self, wanted: bytes) -> KeyRecord | None:
        async with asyncio.timeout(STORE_LIMIT):
            await self._opened.wait()
        while True:
            if self._keys is None or not self.store_ok:
                raise StoreUnavailable("the store fails")
            epoch = self._epoch
            record = await self._limited(self._keys.lookup(wanted))
            if epoch == self._epoch:
                return record

    async def poll(self) -> None:
        """Watch the generation until cancelled."""
        while True:
            await asyncio.sleep(POLL)
            await self.look()

    async def look(self) -> None:
        """Compare the generation once."""
        assert self._keys is not None
        try:
            generation = await self._limited(self._keys.generation())
        except (StoreUnavailable, TimeoutError):
            self._failed()
            return
        if not self.store_ok:
            self._failing_since, self._flushed = None, False
            self._on_health(True)
        if generation != self._generation:
            self._generation = generation
            self._forget()

    def _failed(self) -> None:
        now = self._clock()
        if self._failing_since is None:
            self._failing_since = now
            self._on_health(False)
        elif now - self._failing_since >= STALE and not self._flushed:
            self._flushed = True
            self._forget()

    def _forget(self) -> None:
        self._epoch += 1
        self._on_change()

    async def _limited(self, call: Coroutine[Any, Any, T]) -> T:
        """Wait for a store within STORE_LIMIT. A call that hangs is left alone: the disk beneath it cannot be
        interrupted, and no further one is made while the store is known to fail but the poll's."""
        task = asyncio.ensure_future(call)
        self._running.add(task)
        task.add_done_callback(self._done)
        done, _ = await asyncio.wait({task}, timeout=STORE_LIMIT)
        if not done:
            raise TimeoutError
        return task.result()

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # looked at, whoever still waits
