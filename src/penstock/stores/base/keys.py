"""What is kept of API keys, digests and never keys: values, and what may be wrong with one that somebody names."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import UNSET, UnsetType


class KeyExists(Exception):
    """A key with this digest is, or was, in the store: a revoked key never works again."""


class KeyNotFound(Exception):
    """No key has this id or name."""


class KeyRevoked(Exception):
    """What was to be changed is a revoked key, which never works again; its id."""


class AmbiguousName(Exception):
    """Several keys that work have this name; `ids` names them."""

    def __init__(self, name: str, ids: tuple[str, ...]) -> None:
        super().__init__(name)
        self.name = name
        self.ids = ids


class KeyRecord(msgspec.Struct, frozen=True):
    """What is kept of a key. `models`: names and ``prefix*`` patterns, empty for all; `endpoints` likewise, by the
    names of `types.ENDPOINTS`. Times in Unix seconds; `weight` is its share of what several keys wait for.

    `hint` is enough of the key to tell it from others and too little to use it. `project_id` is empty for none.
    """

    id: str
    name: str
    models: tuple[str, ...]
    hint: str
    created_at: float
    revoked_at: float | None = None
    project_id: str = ""
    endpoints: tuple[str, ...] = ()
    expires_at: float | None = None
    weight: float = 1.0
    metadata: dict[str, str] = {}


class NewKey(msgspec.Struct, frozen=True):
    """What a caller gives to keep a key; `digest` is the SHA-256 of the key's bytes, the rest as in KeyRecord."""

    id: str
    name: str
    models: tuple[str, ...]
    hint: str
    digest: bytes
    project_id: str = ""
    endpoints: tuple[str, ...] = ()
    expires_at: float | None = None
    weight: float = 1.0
    metadata: dict[str, str] = {}


class KeyChange(msgspec.Struct, frozen=True):
    """What becomes different of a key: the fields that are set."""

    name: str | UnsetType = UNSET
    models: tuple[str, ...] | UnsetType = UNSET
    project_id: str | UnsetType = UNSET
    endpoints: tuple[str, ...] | UnsetType = UNSET
    expires_at: float | UnsetType | None = UNSET
    weight: float | UnsetType = UNSET
    metadata: dict[str, str] | UnsetType = UNSET


def choose_key(candidates: Sequence[KeyRecord], id_or_name: str) -> KeyRecord:
    """The key that is meant, of those whose id or name matches, oldest first: an id wins over a name, a key that works
    over revoked ones. Raises AmbiguousName where several work, and KeyNotFound."""
    for record in candidates:
        if record.id == id_or_name:
            return record
    working = tuple(record for record in candidates if record.revoked_at is None)
    if len(working) > 1:
        raise AmbiguousName(id_or_name, tuple(record.id for record in working))
    if not candidates:
        raise KeyNotFound(id_or_name)
    return working[0] if working else candidates[-1]
