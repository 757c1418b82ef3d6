"""Journals for tests: where they may be written, and what is in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from penstock.control.ledger.reading import segments
from penstock.gateway.journal import Journal
from penstock.journal import LOCK, SEGMENT_BYTES, START, Begun, Entry, Reserved, entries, segment_path

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
