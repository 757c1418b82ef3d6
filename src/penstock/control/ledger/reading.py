"""Reads one worker's journal from its files, as far as it has been written, and finds the requests in it.

A journal is read segment by segment. One is at its end where no further entry can begin in it, or where the next has
begun; that of a worker which has ended is over where its last segment ends. What a crash of the machine has left of a
segment is read up to the first entry that is not whole.

Before the first segment comes what was carried over from those that have been deleted: the beginnings of requests that
were not stored then. Some of it may come again, and is passed over.
"""

from __future__ import annotations

import logging
import mmap
import os
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path

from penstock.control.ledger.rows import Closed, Common, Opened, at_length
from penstock.journal import (
    ENTRY_BYTES,
    LAST,
    MAGIC,
    START,
    SUFFIX,
    Answered,
    Begun,
    Context,
    Done,
    Ended,
    Entry,
    Sent,
    entries,
    framed,
    is_segment,
    segment_path,
    torn,
)

CARRIED = ".open"

_log = logging.getLogger("penstock.ledger")


class Reading:
    """One reader of a journal, from its beginning on. `prefix`: how the names of its segments begin."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._map: mmap.mmap | None = None
        self.number = 0  # of the segment that is read
        self._offset = 0
        self.opened: dict[str, Opened] = {}  # requests that have not ended, by id
        self._contexts: dict[int, Common] = {}  # of the segment that is read
        self._missed = False
        self.first_ended_in = 0  # the segment, of those that were found last
        self.cut = False  # there was more than the last `read` was to read
        self.over = False
        self._find(carried(prefix), [])

    @property
    def position(self) -> int:
        return self.number << 32 | self._offset

    def read(self, most: int, ended: bool, until: int = LAST) -> list[Closed]:
        """Requests that have ended, by at most so many further entries, and none beyond the position `until`.

        `ended`: nobody writes any more; once all is read, `over` says so.
        """
        found: list[Closed] = []
        while most > 0 and not self.over:
            if self._map is None and not self._turn(ended):
                break
            assert self._map is not None
            limit = until - (self.number << 32)
            taken, self._offset = entries(self._map, self._offset, most, limit)
            if not found:
                self.first_ended_in = self.number
            self._find(taken, found)
            most -= len(taken)
            if self._offset >= limit or not (taken or (self._is_full(ended) and self._turn(ended))):
                break
        self.cut = most <= 0
        return found

    def _find(self, taken: Iterable[Entry], found: list[Closed]) -> None:
        open_, contexts = self.opened, self._contexts
        for entry in taken:
            if type(entry) is Sent:
                common = contexts.get(entry.context)
                if common is None:
                    self._miss(entry)
                    continue
                if entry.id not in open_:
                    open_[entry.id] = (entry, common)
                else:
                    self._open(entry.begun(common.context))
            elif type(entry) is Answered or type(entry) is Done:
                opened = open_.pop(entry.id, None)
                if opened is not None:
                    found.append((opened, entry))
            elif isinstance(entry, Context):
                contexts[entry.number] = Common(entry)
            elif isinstance(entry, Begun | Ended):
                self._open(entry)

    def close(self) -> None:
        if self._map is not None:
            self._map.close()
            self._map = None

    def _miss(self, sent: Sent) -> None:
        """What it names is not there, which only another version's writer could have left so."""
        if not self._missed:
            path = segment_path(self._prefix, self.number)
            _log.error("%s does not say what request %s and others are about: they are lost", path, sent.id)
        self._missed = True

    def _open(self, entry: Begun | Ended) -> None:
        """Note what came of a request before its end; once, whatever was carried over."""
        opened = self.opened.get(entry.id)
        if opened is None:
            if isinstance(entry, Begun):
                self.opened[entry.id] = [entry]
            return
        entries = self.opened[entry.id] = at_length(opened)
        if entry not in entries:
            entries.append(entry)

    def _is_full(self, ended: bool) -> bool:
        """Whether nothing follows in this segment."""
        assert self._map is not None
        offset = self._offset
        if offset + ENTRY_BYTES > len(self._map):
            return True
        broken = torn(self._map, offset)
        if not broken or not (ended or self._follows()):
            return ended
        _log.error(
            "%s is broken at byte %d: what follows there is lost", segment_path(self._prefix, self.number), offset
        )
        return True

    def _follows(self) -> bool:
        """Whether the next segment has been begun."""
        path = segment_path(self._prefix, self.number + 1)
        try:
            with open(path, "rb") as file:
                return any(file.read(START + 8)[START:])
        except OSError:
            return False

    def _turn(self, ended: bool) -> bool:
        """Go on in the next segment, if there is one."""
        following = [number for number in segments(self._prefix) if number > self.number]
        if not following:
            self.over = ended
            return False
        self.close()
        self.number, self._offset = following[0], START
        self._contexts = {}
        path = segment_path(self._prefix, self.number)
        with open(path, "rb") as file:
            if is_segment(file.read(START)):
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                return True
        _log.error("%s is no segment of this version, and is not read", path)
        return self._turn(ended)


def segments(prefix: str) -> list[int]:
    """The numbers of the segments there are, in order."""
    path = Path(prefix)
    names = (name for name in os.listdir(path.parent) if name.startswith(path.name + ".") and name.endswith(SUFFIX))
    return sorted(int(name[len(path.name) + 1 : -len(SUFFIX)]) for name in names)


def journals(directory: Path) -> list[str]:
    """The prefixes of the journals in a directory."""
    return sorted(
        {str(directory / name.split(".")[0]) for name in os.listdir(directory) if name.endswith((SUFFIX, CARRIED))}
    )


def carried(prefix: str) -> Sequence[Entry]:
    """What was carried over from segments that have been deleted."""
    try:
        data = Path(prefix + CARRIED).read_bytes()
    except FileNotFoundError:
        return ()
    found, _ = entries(data, START, len(data))
    return found


def retire(prefix: str, open_: Iterable[Entry], before: int) -> None:
    """Delete the segments before that number, when what is open is safe elsewhere. Raises OSError."""
    path = Path(prefix + CARRIED)
    staged = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    with open(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(MAGIC + b"".join(map(framed, open_)))
        file.flush()
        os.fsync(file.fileno())
    staged.replace(path)
    for number in segments(prefix):
        if number < before:
            os.unlink(segment_path(prefix, number))


def remove(prefix: str) -> None:
    """Delete a journal that is stored. Raises OSError."""
    for number in segments(prefix):
        os.unlink(segment_path(prefix, number))
    Path(prefix + CARRIED).unlink(missing_ok=True)
