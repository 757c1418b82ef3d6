"""Keys, projects and limits in memory, for tests and for embedding: nothing survives the process.

Every method lets other tasks run first, as a real store would, so that a caller which relies on two calls in a
row being one step, or which loses something when cancelled, is found out.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Callable, Sequence

import msgspec

from penstock.limits import Limit, Scope
from penstock.stores.base import (
    KeyChange,
    KeyExists,
    KeyNotFound,
    KeyRecord,
    KeyRevoked,
    Known,
    LimitNotFound,
    NewKey,
    NewProject,
    ProjectArchived,
    ProjectChange,
    ProjectExists,
    ProjectNotFound,
    ProjectRecord,
    choose_key,
    choose_project,
    given,
)


class MemoryAccess:
    """Implements `stores.base.Access`; what follows the first await of a method is one step of the loop."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._keys: dict[str, KeyRecord] = {}
        self._digests: dict[str, bytes] = {}
        self._projects: dict[str, ProjectRecord] = {}
        self._limits: dict[str, Limit] = {}
        self._generation = 0

    # -- keys

    async def create_key(self, key: NewKey, limits: Sequence[Limit] = ()) -> KeyRecord:
        await asyncio.sleep(0)
        return self._create_key(key, limits)

    async def create_first_key(self, key: NewKey) -> KeyRecord | None:
        await asyncio.sleep(0)
        return None if self._keys else self._create_key(key, ())

    def _create_key(self, key: NewKey, limits: Sequence[Limit]) -> KeyRecord:
        if key.id in self._keys or key.digest in self._digests.values():
            raise KeyExists(key.id)
        self._working_project(key.project_id)
        fields = msgspec.structs.asdict(key)
        self._digests[key.id] = fields.pop("digest")
        self._keys[key.id] = record = KeyRecord(created_at=self._clock(), **fields)
        self._limits.update((limit.id, limit) for limit in limits)
        self._generation += 1
        return record

    async def keys(self) -> tuple[KeyRecord, ...]:
        await asyncio.sleep(0)
        return tuple(self._keys.values())

    async def key(self, id_or_name: str) -> KeyRecord:
        await asyncio.sleep(0)
        return self._key(id_or_name)

    def _key(self, id_or_name: str) -> KeyRecord:
        return choose_key([key for key in self._keys.values() if id_or_name in (key.id, key.name)], id_or_name)

    async def edit_key(self, id_or_name: str, change: KeyChange) -> KeyRecord:
        await asyncio.sleep(0)
        key = self._key(id_or_name)
        if key.revoked_at is not None:
            raise KeyRevoked(key.id)
        if isinstance(change.project_id, str):
            self._working_project(change.project_id)
        return self._keep_key(msgspec.structs.replace(key, **given(change)))

    async def revoke_key(self, id_or_name: str) -> KeyRecord:
        await asyncio.sleep(0)
        key = self._key(id_or_name)
        if key.revoked_at is not None:
            return key
        return self._keep_key(msgspec.structs.replace(key, revoked_at=self._clock()))

    def _keep_key(self, key: KeyRecord) -> KeyRecord:
        self._generation += key != self._keys[key.id]
        self._keys[key.id] = key
        return key

    async def lookup(self, digest: bytes) -> Known | None:
        await asyncio.sleep(0)
        for key_id, kept in self._digests.items():
            if hmac.compare_digest(kept, digest):
                return self._known(self._keys[key_id])
        return None

    def _known(self, key: KeyRecord) -> Known | None:
        project = self._projects.get(key.project_id)
        if key.revoked_at is not None or (project is not None and project.archived_at is not None):
            return None
        scopes = (("key", key.id), ("project", key.project_id))
        return Known(key, project, tuple(limit for limit in self._sorted() if (limit.scope, limit.scope_id) in scopes))

    # -- projects

    async def create_project(self, project: NewProject) -> ProjectRecord:
        await asyncio.sleep(0)
        self._free_name(project.name)
        record = ProjectRecord(created_at=self._clock(), **msgspec.structs.asdict(project))
        self._projects[record.id] = record
        self._generation += 1
        return record

    async def projects(self) -> tuple[ProjectRecord, ...]:
        await asyncio.sleep(0)
        return tuple(self._projects.values())

    async def project(self, id_or_name: str) -> ProjectRecord:
        await asyncio.sleep(0)
        return self._project(id_or_name)

    def _project(self, id_or_name: str) -> ProjectRecord:
        matching = [project for project in self._projects.values() if id_or_name in (project.id, project.name)]
        return choose_project(matching, id_or_name)

    async def edit_project(self, id_or_name: str, change: ProjectChange) -> ProjectRecord:
        await asyncio.sleep(0)
        project = self._project(id_or_name)
        if project.archived_at is not None:
            raise ProjectArchived(project.id)
        if isinstance(change.name, str) and change.name != project.name:
            self._free_name(change.name)
        return self._keep_project(msgspec.structs.replace(project, **given(change)))

    async def archive_project(self, id_or_name: str) -> ProjectRecord:
        await asyncio.sleep(0)
        project = self._project(id_or_name)
        if project.archived_at is not None:
            return project
        return self._keep_project(msgspec.structs.replace(project, archived_at=self._clock()))

    def _keep_project(self, project: ProjectRecord) -> ProjectRecord:
        self._generation += project != self._projects[project.id]
        self._projects[project.id] = project
        return project

    def _free_name(self, name: str) -> None:
        if any(project.name == name and project.archived_at is None for project in self._projects.values()):
            raise ProjectExists(name)

    def _working_project(self, project_id: str) -> None:
        project = self._projects.get(project_id)
        if project_id and project is None:
            raise ProjectNotFound(project_id)
        if project is not None and project.archived_at is not None:
            raise ProjectArchived(project_id)

    # -- limits

    async def set_limit(self, limit: Limit) -> None:
        await asyncio.sleep(0)
        if limit.scope == "project":
            self._working_project(limit.scope_id)
        elif limit.scope_id not in self._keys:
            raise KeyNotFound(limit.scope_id)
        elif self._keys[limit.scope_id].revoked_at is not None:
            raise KeyRevoked(limit.scope_id)
        self._generation += self._limits.get(limit.id) != limit
        self._limits[limit.id] = limit

    async def remove_limit(self, limit_id: str) -> Limit:
        await asyncio.sleep(0)
        limit = self._limits.pop(limit_id, None)
        if limit is None:
            raise LimitNotFound(limit_id)
        self._generation += 1
        return limit

    async def limits(self, scope: Scope | None = None, scope_id: str | None = None) -> tuple[Limit, ...]:
        await asyncio.sleep(0)
        return tuple(
            limit for limit in self._sorted() if scope in (None, limit.scope) and scope_id in (None, limit.scope_id)
        )

    def _sorted(self) -> list[Limit]:
        return sorted(self._limits.values(), key=lambda limit: (limit.scope, limit.scope_id, limit.meter, limit.model))

    async def generation(self) -> int:
        await asyncio.sleep(0)
        return self._generation
