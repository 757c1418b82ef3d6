"""What is kept of projects: values, and what may be wrong with a project that somebody names."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import UNSET, UnsetType


class ProjectExists(Exception):
    """Another project that is not archived has this name."""


class ProjectNotFound(Exception):
    """No project has this id or name."""


class ProjectArchived(Exception):
    """What was to be changed or used is archived, which is for good; its id."""


class ProjectRecord(msgspec.Struct, frozen=True):
    """What keys have in common. `models` and `endpoints` bound those of its keys, empty for all; times in Unix seconds.

    `keeps_content`: prompts and answers may be kept. An archived project's keys work no more.
    """

    id: str
    name: str
    models: tuple[str, ...]
    endpoints: tuple[str, ...]
    metadata: dict[str, str]
    keeps_content: bool
    created_at: float
    archived_at: float | None = None


class NewProject(msgspec.Struct, frozen=True):
    """What a caller gives to keep a project, as in ProjectRecord."""

    id: str
    name: str
    models: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()
    metadata: dict[str, str] = {}
    keeps_content: bool = False


class ProjectChange(msgspec.Struct, frozen=True):
    """What becomes different of a project: the fields that are set."""

    name: str | UnsetType = UNSET
    models: tuple[str, ...] | UnsetType = UNSET
    endpoints: tuple[str, ...] | UnsetType = UNSET
    metadata: dict[str, str] | UnsetType = UNSET
    keeps_content: bool | UnsetType = UNSET


def choose_project(candidates: Sequence[ProjectRecord], id_or_name: str) -> ProjectRecord:
    """The project that is meant, of those whose id or name matches, oldest first: an id wins over a name, and the one
    that is not archived over the others. Raises ProjectNotFound."""
    if not candidates:
        raise ProjectNotFound(id_or_name)
    ranks = [(record.id == id_or_name, record.archived_at is None, place) for place, record in enumerate(candidates)]
    return candidates[max(ranks)[2]]
