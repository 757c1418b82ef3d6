"""Journals for tests: where they may be written, and what is in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
    Entry,
    Reserved,
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


class Writer:
    """Writes segments as a worker does."""

    def __init__(self, directory: Path) -> None:
        self.prefix = str(directory / "0-1")
        self.number = 0
        self.at = SIZE

    def put(self, entry: Entry) -> None:
        if self.at > SIZE - ENTRY_BYTES:
            self.number += 1
            self.at = START
            self._write(0, MAGIC.ljust(SIZE, b"\0"))
        self.at = self._write(self.at, framed(entry))

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
    """All entries of a journal, in order."""
    found: list[Entry] = []
    for number in segments(prefix):
        segment = Path(segment_path(prefix, number)).read_bytes()
        taken, _ = entries(segment, START, len(segment))
        found += [entry for _, entry in taken]
    return found
