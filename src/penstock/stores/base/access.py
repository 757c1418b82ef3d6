"""What a store of keys, projects and limits does, whatever holds it; `tests/stores` runs one suite over every one.

Beside them it keeps one number, the generation, which every change moves in the same transaction: whoever polls it
knows within one poll that what it cached may be wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from penstock.limits import Limit, Scope
from penstock.stores.base.keys import KeyChange, KeyRecord, NewKey
from penstock.stores.base.projects import NewProject, ProjectChange, ProjectRecord


class LimitNotFound(Exception):
    """There is no such limit; its id."""


class Known(msgspec.Struct, frozen=True):
    """A key that works, with all that bounds it: `limits` are its own and its project's."""

    key: KeyRecord
    project: ProjectRecord | None
    limits: tuple[Limit, ...]


class Access(Protocol):
    """Who may do what: keys by digest, projects, limits.

    Every method may raise StoreUnavailable. Every change is one atomic step: whatever is raised, and whenever the call
    is cancelled, it is there entirely, the generation moved, or not at all. What changes nothing moves nothing.

    Where a key or a project is named, an id wins over a name, and what works over what was revoked or archived; raises
    KeyNotFound or ProjectNotFound, and AmbiguousName where several keys that work have the name.
    """

    async def create_key(self, key: NewKey, limits: Sequence[Limit] = ()) -> KeyRecord:
        """Keep `key` and limits of it. Names may repeat, digests never: raises KeyExists, and ProjectNotFound or
        ProjectArchived where it is to belong to no project that works."""
        ...

    async def create_first_key(self, key: NewKey) -> KeyRecord | None:
        """As `create_key` if the store never held a key, else None: of several callers at once one succeeds."""
        ...

    async def keys(self) -> tuple[KeyRecord, ...]:
        """Every key, revoked ones too, oldest first."""
        ...

    async def key(self, id_or_name: str) -> KeyRecord:
        """The key that is meant."""
        ...

    async def edit_key(self, id_or_name: str, change: KeyChange) -> KeyRecord:
        """Make of a key what `change` says; what it became. Raises KeyRevoked, and of the project as `create_key`."""
        ...

    async def revoke_key(self, id_or_name: str) -> KeyRecord:
        """Revoke one key. Idempotent: a revoked key keeps its time."""
        ...

    async def lookup(self, digest: bytes) -> Known | None:
        """The key that has this digest, if neither it was revoked nor its project archived. It may have expired."""
        ...

    async def create_project(self, project: NewProject) -> ProjectRecord:
        """Keep `project`; raises ProjectExists. A name is free again once its project is archived."""
        ...

    async def projects(self) -> tuple[ProjectRecord, ...]:
        """Every project, archived ones too, oldest first."""
        ...

    async def project(self, id_or_name: str) -> ProjectRecord:
        """The project that is meant."""
        ...

    async def edit_project(self, id_or_name: str, change: ProjectChange) -> ProjectRecord:
        """Make of a project what `change` says; what it became. Raises ProjectArchived and ProjectExists."""
        ...

    async def archive_project(self, id_or_name: str) -> ProjectRecord:
        """Archive one project: its keys work no more. Idempotent: an archived project keeps its time."""
        ...

    async def set_limit(self, limit: Limit) -> None:
        """Keep `limit` in place of the one with its id, if there is one. Raises KeyNotFound, KeyRevoked,
        ProjectNotFound or ProjectArchived where `scope_id` is not the id of what it is to hold for."""
        ...

    async def remove_limit(self, limit_id: str) -> Limit:
        """Forget the limit with this id (`Limit.id`); what it was. Raises LimitNotFound."""
        ...

    async def limits(self, scope: Scope | None = None, scope_id: str | None = None) -> tuple[Limit, ...]:
        """All limits, or those of a scope, or those of one key or project; by scope, its id, meter and model."""
        ...

    async def generation(self) -> int:
        """Moved by every change since, whichever process made it; compare for equality only."""
        ...


def given(change: KeyChange | ProjectChange) -> dict[str, Any]:
    """The fields that are set, by name."""
    return {name: value for name, value in msgspec.structs.asdict(change).items() if value is not msgspec.UNSET}
