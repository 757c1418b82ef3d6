"""Keys, projects and limits as the control plane handles them: made, and answered for when a worker or a counter asks.

How it works: a worker knows only digests. It asks once for each that it does not know and keeps the answer, known or
unknown. `Lookups` reads the store's generation four times a second; when it moved, whoever moved it, every worker is
told to forget, so that a revoked key stops and a new one works within a second. Limits are kept likewise: by
`limits`, until the generation moves.

An answer must not be older than the last such message, or a worker would keep what has just been declared wrong: an
answer whose question was put to the store before the message is asked again.

A key that has expired is answered for as any other, with the time at which it did: whoever has the answer looks at the
clock with every request, so that it stops on time and its owner is told why.

When the store fails: questions are answered "not available" at once, and workers go on with what they keep. After
`stale_max` seconds of failure they are told to forget, so that a key revoked meanwhile does not work for ever. The key
from the environment is in no store, has no limits and always works.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import hmac
import re
import secrets
import string
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import msgspec

from penstock.limits import METERS, Limit, Scope
from penstock.link import KeyAnswer, KeyLookup
from penstock.stores.base import (
    Access,
    KeyChange,
    Known,
    NewKey,
    NewProject,
    ProjectChange,
    StoreUnavailable,
)
from penstock.ticks import tick
from penstock.types import ENDPOINTS, Principal

POLL = 0.25
STORE_LIMIT = 2.0  # a store that takes longer has failed; a worker waits 5 s
ENVIRONMENT = Principal(key_id="env", name="PENSTOCK_API_KEY")

SHORTEST, LONGEST = 20, 512  # of a key that is given; the edge takes none above
LONGEST_NAME = 100
HEAVIEST = 1000.0
MOST_METADATA = (16, 64, 512)  # pairs, and characters of a name and a value: as OpenAI's metadata
MAX_CACHED = 20_000
NOTHING = ("",)  # models, where key and project allow none in common: no model has this name
_PREFIX = "sk-penstock-"
_BASE62 = string.ascii_letters + string.digits
_RANDOM = 43  # characters of base 62: 256 bits

T = TypeVar("T")


class InvalidKey(ValueError):
    """A key, or something about a key, a project or a limit, that is not kept; the message says what would be."""


def generate() -> str:
    """A new key; base 62, so that a double click selects what follows the prefix."""
    return _PREFIX + "".join(secrets.choice(_BASE62) for _ in range(_RANDOM))


def digest(key: str) -> bytes:
    """What stores and workers know a key by. A fast hash is enough: nobody guesses 256 random bits."""
    return hashlib.sha256(key.encode("utf-8")).digest()


def new_key(key: str, name: str, models: tuple[str, ...] = (), **fields: Any) -> NewKey:
    """What to give the store, with an id; `fields` are the others of NewKey. Raises InvalidKey."""
    check(key)
    key_id = "key_" + secrets.token_hex(12)
    new = NewKey(key_id, name, models, f"{key[:4]}...{key[-4:]}", digest(key), **fields)
    check_fields(new)
    return new


def new_project(name: str, **fields: Any) -> NewProject:
    """What to give the store, with an id; `fields` are the others of NewProject. Raises InvalidKey."""
    new = NewProject("prj_" + secrets.token_hex(12), name, **fields)
    check_fields(new)
    return new


def check_fields(fields: NewKey | KeyChange | NewProject | ProjectChange) -> None:
    """Raises InvalidKey where a field that is set is none that is kept."""
    given = msgspec.structs.asdict(fields)
    for name, value in given.items():
        if name in _CHECKS and value is not msgspec.UNSET:
            _CHECKS[name](value)


def _check_name(name: str) -> None:
    if not name or len(name) > LONGEST_NAME or not name.isprintable() or name != name.strip():
        raise InvalidKey(f"a name is 1 to {LONGEST_NAME} printable characters without white space around them")


def _check_models(models: tuple[str, ...]) -> None:
    for model in models:
        if not model or not model.isprintable() or " " in model or "*" in model[:-1]:
            raise InvalidKey(f"{model!r} is no model: give a name, or a prefix and *, such as gpt-5.4 or gpt-*")


def _check_endpoints(endpoints: tuple[str, ...]) -> None:
    for endpoint in endpoints:
        if endpoint not in ENDPOINTS:
            raise InvalidKey(f"{endpoint!r} is no endpoint: give some of {', '.join(ENDPOINTS)}")


def _check_weight(weight: float) -> None:
    if not 0 < weight <= HEAVIEST:
        raise InvalidKey(f"a weight is a number above 0 and up to {HEAVIEST:.0f}")


def _check_metadata(metadata: dict[str, str]) -> None:
    pairs, longest_name, longest_value = MOST_METADATA
    if len(metadata) > pairs:
        raise InvalidKey(f"metadata has at most {pairs} pairs")
    for name, value in metadata.items():
        if not 0 < len(name) <= longest_name or len(value) > longest_value or not (name + value).isprintable():
            raise InvalidKey(
                f"metadata {name!r}: names have 1 to {longest_name} printable characters, values up to {longest_value}"
            )


_CHECKS: dict[str, Callable[[Any], None]] = {
    "name": _check_name,
    "models": _check_models,
    "endpoints": _check_endpoints,
    "weight": _check_weight,
    "metadata": _check_metadata,
}


def check_limit(limit: Limit) -> None:
    """Raises InvalidKey for a limit that could not hold, or of which a part would have no effect."""
    meter = METERS.get(limit.meter)
    if meter is None:
        raise InvalidKey(f"{limit.meter!r} is no meter: give one of {', '.join(METERS)}")
    if not 1 <= limit.amount < 2**63:
        raise InvalidKey("the amount of a limit is above 0; to stop a key for good, revoke it")
    if limit.model:
        _check_models((limit.model,))
    if limit.rolling and meter.period not in ("day", "month"):
        raise InvalidKey(f"{limit.meter} has no calendar to roll over: leave out --rolling")
    if limit.hard and meter.unit not in ("tokens", "nanos"):
        raise InvalidKey(f"{limit.meter} does not count output, which --hard would cap: leave out --hard")
    if limit.hard and limit.shadow:
        raise InvalidKey("a limit in the shadow refuses nothing, so it caps nothing: leave out --hard or --shadow")


def check(key: str) -> None:
    """Raises InvalidKey where a bearer token cannot be this, or should not."""
    if not re.fullmatch(r"[!-~]+", key):
        raise InvalidKey("a key is made of printable ASCII characters without spaces")
    if not SHORTEST <= len(key) <= LONGEST:
        raise InvalidKey(f"a key has {SHORTEST} to {LONGEST} characters; this one has {len(key)}")


class Lookups:
    """Answers workers and counters. `on_change` tells workers to forget; `on_health` is told whether the store answers;
    `stale_max`: how long workers may go on with what they know while it does not."""

    def __init__(
        self,
        environment_key: str | None,
        on_change: Callable[[], None],
        on_health: Callable[[bool], None],
        stale_max: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._environment = None if environment_key is None else digest(environment_key)
        self._on_change = on_change
        self._on_health = on_health
        self.stale_max = stale_max
        self._clock = clock
        self._running: set[asyncio.Task[Any]] = set()
        self._opened = asyncio.Event()
        self._access: Access | None = None
        self._generation = 0
        self._epoch = 0  # how often workers were told to forget
        self._limits: dict[tuple[Scope, str], tuple[int, tuple[Limit, ...]]] = {}  # with the epoch they are of
        self._bounds: dict[tuple[str, str], tuple[int, tuple[Limit, ...]]] = {}  # the same, of a key and its project
        self._failing_since: float | None = None
        self._flushed = False  # they were told so in this outage

    @property
    def store_ok(self) -> bool:
        return self._failing_since is None

    async def open(self, access: Access) -> None:
        """The store is there: questions that came before are answered now. Raises StoreUnavailable."""
        self._generation = await access.generation()
        self._access = access
        self._opened.set()

    async def answer(self, question: KeyLookup) -> KeyAnswer:
        """Whose key it is. Waits for the store to be opened, which at the start takes some tenths of a second."""
        if self._environment is not None and hmac.compare_digest(self._environment, question.digest):
            return KeyAnswer(question.ref, ENVIRONMENT)
        try:
            known = await self._ask(lambda access: access.lookup(question.digest))
        except (StoreUnavailable, TimeoutError):
            return KeyAnswer(question.ref, None, available=False)
        if known is None:
            return KeyAnswer(question.ref, None)
        for scope, scope_id in _scopes(known.key.id, known.key.project_id):
            self._keep(scope, scope_id, known.limits)
        return KeyAnswer(question.ref, principal(known))

    def limits(self, key_id: str, project_id: str) -> tuple[Limit, ...] | Awaitable[tuple[Limit, ...]]:
        """As `limits_of`, at once where it is known; the same object until something changes."""
        known = self._bounds.get((key_id, project_id))
        return known[1] if known is not None and known[0] == self._epoch else self.limits_of(key_id, project_id)

    async def limits_of(self, key_id: str, project_id: str) -> tuple[Limit, ...]:
        """What bounds a key: its own limits and its project's. While the store fails, what they were before.

        Raises StoreUnavailable or TimeoutError where that is not known.
        """
        at = self._epoch
        found: tuple[Limit, ...] = ()
        if key_id == ENVIRONMENT.key_id:
            return found
        for scope, scope_id in _scopes(key_id, project_id):
            epoch, limits = self._limits.get((scope, scope_id), (-1, ()))
            if epoch != self._epoch:
                try:
                    limits = await self._ask(functools.partial(_limits, scope, scope_id))
                except (StoreUnavailable, TimeoutError):
                    if epoch < 0:
                        raise
                else:
                    self._keep(scope, scope_id, limits)
            found += limits
        if at == self._epoch and self.store_ok:
            if len(self._bounds) >= MAX_CACHED:
                self._bounds.clear()
            self._bounds[key_id, project_id] = (at, found)
        return found

    def _keep(self, scope: Scope, scope_id: str, limits: tuple[Limit, ...]) -> None:
        if len(self._limits) >= MAX_CACHED:
            self._limits.clear()
        own = tuple(limit for limit in limits if limit.scope == scope)
        self._limits[scope, scope_id] = (self._epoch, own)

    async def _ask(self, question: Callable[[Access], Coroutine[Any, Any, T]]) -> T:
        """An answer that is not older than the last change that is known of."""
        async with asyncio.timeout(STORE_LIMIT):
            await self._opened.wait()
        while True:
            if self._access is None or not self.store_ok:
                raise StoreUnavailable("the store fails")
            epoch = self._epoch
            answer = await self._limited(question(self._access))
            if epoch == self._epoch:
                return answer

    async def poll(self) -> None:
        """Watch the generation until cancelled."""
        while True:
            await tick(POLL)
            await self.look()

    async def look(self) -> None:
        """Compare the generation once."""
        assert self._access is not None
        try:
            generation = await self._limited(self._access.generation())
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
        elif now - self._failing_since >= self.stale_max and not self._flushed:
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


def principal(known: Known) -> Principal:
    """What workers are told of a key."""
    key, project, limits = known.key, known.project, known.limits
    return Principal(
        key_id=key.id,
        name=key.name,
        models=both(key.models, project.models) if project is not None else key.models,
        project_id=key.project_id,
        endpoints=both(key.endpoints, project.endpoints) if project is not None else key.endpoints,
        limited=bool(limits),
        by_model=any(limit.model for limit in limits),
        hard=any(limit.hard for limit in limits),
        weight=key.weight,
        expires_at=key.expires_at,
        keeps_content=project is not None and project.keeps_content,
    )


def both(some: tuple[str, ...], others: tuple[str, ...]) -> tuple[str, ...]:
    """The names and patterns that allow what both allow; of either, an empty one allows all."""
    if not some or not others:
        return some or others
    pairs = (_narrower(one, other) for one in some for other in others)
    return tuple(dict.fromkeys(pattern for pattern in pairs if pattern is not None)) or NOTHING


def _narrower(one: str, other: str) -> str | None:
    """Of two patterns the one that is within the other, None if neither is: prefixes never overlap in part."""
    for inner, outer in ((one, other), (other, one)):
        if inner == outer or (outer.endswith("*") and inner.startswith(outer[:-1])):
            return inner
    return None


def _scopes(key_id: str, project_id: str) -> tuple[tuple[Scope, str], ...]:
    return (("key", key_id), ("project", project_id)) if project_id else (("key", key_id),)


def _limits(scope: Scope, scope_id: str, access: Access) -> Coroutine[Any, Any, tuple[Limit, ...]]:
    return access.limits(scope, scope_id)
