"""Journals for tests: where they may be written, and what is in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from penstock.control.ledger.reading import segments
from penstock.gateway.journal import Journal
from penstock.journal import (
    ENTRY_BYTES,
    LOCK,
    MAGIC,
    SEGMENT_BYTES,
    START,
    Answered,
    Begun,
    Context,
    Entry,
    Reserved,
    Sent,
    entries,
    framed,
    segment_path,
)

MOST = 1 << 30


def begun(id: str = "req_1", number: int = 0, **fields: object) -> Begun:
    """The beginning of an attempt of a request with a body of 400 bytes."""
    made: dict[str, object] = {
        "id": id,
        "number": number,
        "provider": "fake",
        "model": "gpt-5.4",
        "route": "*",
        "key_id": "key_alice",
        "project_id": "prj_1",
        "endpoint": "chat.completions",
        "asked": "gpt-5.4",
        "stream": True,
        "started_at": 1_800_000_000.0,
        "prompt_bytes": 400,
        **fields,
    }
    return Begun(**made)  # type: ignore[arg-type]


RESERVED = Reserved("lease_1", 1, 1000, 5000)


SIZE = 3 * ENTRY_BYTES


def ended(id: str) -> Answered:
    """The end of a request that went well."""
    return Answered(id, "stop", "reported", 10, 5, 0, 0, 0, 9.0, None, 8.0)


def in_brief(begun: Begun, known: dict[tuple[str, ...], int]) -> tuple[Context | None, Sent]:
    """A beginning in brief, and what it has in common with others, if that is not `known` yet."""
    said = (begun.provider, begun.model, begun.route, begun.key_id, begun.project_id, begun.endpoint, begun.asked)
    context = None
    if said not in known:
        known[said] = len(known) + 1
        context = Context(known[said], *said)
    taken = () if begun.reserved is None else msgspec.structs.astuple(begun.reserved)
    return context, Sent(begun.id, known[said], begun.stream, begun.started_at, begun.prompt_bytes, *taken)


class Writer:
    """Writes segments as a worker does."""

    def __init__(self, directory: Path) -> None:
        self.prefix = str(directory / "0-1")
        self.number = 0
        self.at = SIZE
        self._contexts: dict[tuple[str, ...], int] = {}

    def put(self, entry: Entry) -> None:
        self._put(framed(entry))

    def begin(self, begun: Begun) -> None:
        """Put a beginning in brief, with its context where that is new in the segment."""
        self._put(b"")
        context, sent = in_brief(begun, self._contexts)
        self._put((b"" if context is None else framed(context)) + framed(sent))

    def _put(self, data: bytes) -> None:
        if self.at > SIZE - ENTRY_BYTES:
            self.number += 1
            self.at = START
            self._contexts.clear()
            self._write(0, MAGIC.ljust(SIZE, b"\0"))
        self.at = self._write(self.at, data)

    def _write(self, at: int, data: bytes) -> int:
        path = Path(segment_path(self.prefix, self.number))
        with path.open("r+b" if path.exists() else "wb") as file:
            file.seek(at)
            file.write(data)
        return at + len(data)

    def raw(self, data: bytes) -> None:
        self._write(self.at, data)


@contextmanager
def a_journal(
    directory: Path, most: int = MOST, complaints: list[str] | None = None, segment_bytes: int = SEGMENT_BYTES
) -> Iterator[tuple[Journal, str]]:
    """A journal in a directory, and the prefix of its segments."""
    directory.mkdir(exist_ok=True)
    (directory / LOCK).touch()
    prefix = str(directory / "0-1")
    heard = [] if complaints is None else complaints
    journal = Journal(prefix, most, heard.append, segment_bytes)
    try:
        yield journal, prefix
    finally:
        journal.close()


def written(prefix: str) -> list[Entry]:
    """All entries of a journal, in order; beginnings at length."""
    found: list[Entry] = []
    for number in segments(prefix):
        segment = Path(segment_path(prefix, number)).read_bytes()
        contexts = {}
        for entry in entries(segment, START, len(segment))[0]:
            if isinstance(entry, Context):
                contexts[entry.number] = entry
            else:
                found.append(entry.begun(contexts[entry.context]) if isinstance(entry, Sent) else entry)
    return found
