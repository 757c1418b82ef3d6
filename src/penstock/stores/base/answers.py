"""What a store of kept answers does, whatever holds it; `tests/stores` runs one suite over every implementation.

An answer belongs to a scope, and every method but `keep` and `sweep` is asked within one: what another scope keeps is
not there. `since`: answers that were kept before that moment are not there any more, whether or not they were swept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from penstock.types import KeptAnswer, Page

PAGE_BYTES = 8 * 1024 * 1024  # of the answers of one page; one that is larger comes alone


class NoSuchCursor(Exception):
    """The answer after which a page was to begin is not there."""


class Listing(msgspec.Struct, frozen=True):
    """A page of answers, without their messages; `more`: whether others follow."""

    answers: tuple[KeptAnswer, ...]
    more: bool


class Answers(Protocol):
    """Every method may raise StoreUnavailable, and has then changed nothing or all it says; so has a cancelled one."""

    async def keep(self, answers: Sequence[KeptAnswer]) -> None:
        """Keep these, all or none. Idempotent; of two with one id in a scope the later takes the other's place."""
        ...

    async def find(self, scope: str, answer_id: str, since: float) -> KeptAnswer | None:
        """The answer of this id, with its messages."""
        ...

    async def list(self, scope: str, page: Page, since: float) -> Listing:
        """A page in the order of `kept_at`, then of ids; shorter than asked where it would be above PAGE_BYTES.

        Raises NoSuchCursor.
        """
        ...

    async def edit(self, scope: str, answer_id: str, metadata: Mapping[str, str], since: float) -> KeptAnswer | None:
        """Put `metadata` in the place of the answer's own; the answer as it is then."""
        ...

    async def drop(self, scope: str, answer_id: str, since: float) -> bool:
        """Forget an answer; whether it was there."""
        ...

    async def sweep(self, before: float, most: int) -> int:
        """Forget at most so many of the answers that were kept before that moment; how many."""
        ...


def page_of(sizes: Sequence[int], limit: int) -> int:
    """How many of the answers of these sizes, in bytes, make a page."""
    total = 0
    for count, size in enumerate(sizes[:limit]):
        total += size
        if total > PAGE_BYTES and count:
            return count
    return min(len(sizes), limit)
