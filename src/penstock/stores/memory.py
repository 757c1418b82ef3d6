"""Keys in memory, for tests and for embedding: nothing survives the process.

Every method lets other tasks run first, as a real store would, so that a caller which relies on two calls in a
row being one step, or which loses something when cancelled, is found out.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Callable

import msgspec

from penstock.stores.base import KeyExists, KeyRecord, NewKey, choose


class MemoryKeys:
    """Implements `stores.base.Keys`; what follows the first await of a method is one step of the loop."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._records: dict[bytes, KeyRecord] = {}
        self._generation = 0

    async def create(self, key: NewKey) -> KeyRecord:
        await asyncio.sleep(0)
        return self._create(key)

    async def create_first(self, key: NewKey) -> KeyRecord | None:
        await asyncio.sleep(0)
        return None if self._records else self._create(key)

    def _create(self, key: NewKey) -> KeyRecord:
        if key.digest in self._records:
            raise KeyExists(key.id)
        record = KeyRecord(key.id, key.name, key.models, key.hint, self._clock())
        self._records[key.digest] = record
        self._generation += 1
        return record

    async def list(self) -> tuple[KeyRecord, ...]:
        await asyncio.sleep(0)
        return tuple(self._records.values())

    async def revoke(self, id_or_name: str) -> KeyRecord:
        await asyncio.sleep(0)
        matching = {
            digest: record for digest, record in self._records.items() if id_or_name in (record.id, record.name)
        }
        chosen = choose(tuple(matching.values()), id_or_name)
        if chosen.revoked_at is not None:
            return chosen
        revoked = msgspec.structs.replace(chosen, revoked_at=self._clock())
        for digest, record in matching.items():
            if record is chosen:
                self._records[digest] = revoked
        self._generation += 1
        return revoked

    async def lookup(self, digest: bytes) -> KeyRecord | None:
        await asyncio.sleep(0)
        for kept, record in self._records.items():
            if hmac.compare_digest(kept, digest):
                return record if record.revoked_at is None else None
        return None

    async def generation(self) -> int:
        await asyncio.sleep(0)
        return self._generation
