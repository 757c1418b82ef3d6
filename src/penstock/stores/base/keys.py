"""What a store of keys does, whatever holds it; `tests/stores` runs one suite over every implementation.

A store keeps digests, never keys. Beside them it keeps one number, the generation, which every change moves
in the same transaction: whoever polls it knows within one poll that what it cached may be wrong.
"""

from __future__ import annotations

from typing import Protocol

import msgspec


class StoreUnavailable(Exception):
    """The store cannot answer now, or cannot be used at all; the message says why and what to do."""


class KeyExists(Exception):
    """A key with this digest is, or was, in the store: a revoked key never works again."""


class KeyNotFound(Exception):
    """No key has this id or name."""


class AmbiguousName(Exception):
    """Several keys that work have this name; `ids` names them."""

    def __init__(self, name: str, ids: tuple[str, ...]) -> None:
        super().__init__(name)
        self.name = name
        self.ids = ids


class KeyRecord(msgspec.Struct, frozen=True):
    """What is kept of a key. `models`: names and ``prefix*`` patterns, empty for all; times in Unix seconds.

    `hint` is enough of the key to tell it from others and too little to use it.
    """

    id: str
    name: str
    models: tuple[str, ...]
    hint: str
    created_at: float
    revoked_at: float | None = None


class NewKey(msgspec.Struct, frozen=True):
    """What a caller gives to keep a key; `digest` is the SHA-256 of the key's bytes."""

    id: str
    name: str
    models: tuple[str, ...]
    hint: str
    digest: bytes


class Keys(Protocol):
    """Keys by digest. Every method may raise StoreUnavailable, and has then changed nothing or all it says.

    A cancelled call leaves the store whole: its change is either there entirely or not at all.
    """

    async def create(self, key: NewKey) -> KeyRecord:
        """Keep `key` and move the generation, atomically; raises KeyExists. Names may repeat, digests never."""
        ...

    async def create_first(self, key: NewKey) -> KeyRecord | None:
        """As `create` if the store never held a key, else None: of several callers at once one succeeds."""
        ...

    async def list(self) -> tuple[KeyRecord, ...]:
        """Every key, revoked ones too, oldest first."""
        ...

    async def revoke(self, id_or_name: str) -> KeyRecord:
        """Revoke one key and move the generation, atomically. Idempotent: a revoked key keeps its time.

        An id wins over a name. Of the keys with a name, those that work count; raises AmbiguousName when these
        are several, and KeyNotFound.
        """
        ...

    async def lookup(self, digest: bytes) -> KeyRecord | None:
        """The key that has this digest and works."""
        ...

    async def generation(self) -> int:
        """Moved by every change since, whichever process made it; compare for equality only."""
        ...


def choose(candidates: tuple[KeyRecord, ...], id_or_name: str) -> KeyRecord:
    """The key that `revoke` means, of those whose id or name matches."""
    for record in candidates:
        if record.id == id_or_name:
            return record
    working = tuple(record for record in candidates if record.revoked_at is None)
    if len(working) > 1:
        raise AmbiguousName(id_or_name, tuple(record.id for record in working))
    if not candidates:
        raise KeyNotFound(id_or_name)
    return working[0] if working else candidates[-1]
