"""The entries of a worker's journal, and the files they stand in, which the worker writes and the parent reads.

A journal is a row of files, its segments, numbered from 1. A segment has its whole size from the start and is filled
from its front: MAGIC, then entries, each a length and a CRC-32 (little-endian, four bytes each) and so many bytes of
MessagePack. What has not been written is zero, and so is the length that ends it. An entry whose checksum is wrong is
one that is being written just now or, where nobody writes any more, one that never was; nothing after it is read.

What begins a request is told at length (`Begun`), or in brief (`Sent`) with what many of them have in common told once
in each segment before (`Context`).

Entries are arrays: fields are only ever added, at the end and with a default, so that each side reads what another
version of the other wrote. An entry of a tag that is not known is passed over: of what a later version has left behind,
an earlier one may lose rows.
"""

from __future__ import annotations

import mmap
import os
import zlib
from struct import Struct

import msgspec

from penstock.types import Attempt, Skipped, Usage

MAGIC = b"penstock journal 1\n".ljust(32, b"\0")
SEGMENT_BYTES = 4 * 1024 * 1024
ENTRY_BYTES = 2048  # the most that one takes, all told; what would take more is cut
SUFFIX = ".journal"
LOCK = "lock"
START = len(MAGIC)
LAST = 2**63 - 1  # a position after every entry of a journal

Segment = mmap.mmap | bytes

_FRAME = Struct("<II")
_MOST = ENTRY_BYTES - _FRAME.size
_pack, _unpack = _FRAME.pack, _FRAME.unpack_from
_crc = zlib.crc32


class Spent(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """`types.Usage` as an entry has it."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    source: str

    @classmethod
    def of(cls, usage: Usage | None) -> Spent | None:
        if usage is None:
            return None
        return cls(
            usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, usage.reasoning_tokens, usage.source
        )


class Tried(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """`types.Attempt` as an entry has it."""

    provider: str
    model: str
    status: int
    outcome: str
    duration_ms: float
    wait_ms: float = 0.0
    usage: Spent | None = None

    @classmethod
    def of(cls, attempt: Attempt) -> Tried:
        return cls(
            attempt.provider,
            attempt.model,
            attempt.status,
            attempt.outcome,
            attempt.duration_ms,
            attempt.wait_ms,
            Spent.of(attempt.usage),
        )


class Reserved(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What was taken from the lease of that id for a request."""

    lease: str
    requests: int
    tokens: int
    nanos: int


class Begun(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """An attempt is about to be sent: that of number `number` in the request's trace, counted from 0.

    `asked`: the model's name as the client gave it. `started_at`: when the request began, in Unix seconds.
    `prompt_bytes`: of its body. `reserved` is None where nothing limits it.
    """

    id: str
    number: int
    provider: str
    model: str
    route: str
    key_id: str
    project_id: str
    endpoint: str
    asked: str
    stream: bool
    started_at: float
    prompt_bytes: int
    reserved: Reserved | None = None
    tags: tuple[str, ...] = ()
    user: str | None = None
    safety_identifier: str | None = None


class Context(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=5):
    """What the beginnings of many requests have in common, as of `Begun`; `Sent` names it by its number, in the same
    segment alone."""

    number: int
    provider: str
    model: str
    route: str
    key_id: str
    project_id: str
    endpoint: str
    asked: str


class Sent(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=6):
    """The first attempt of a request is about to be sent, of which there is no more to tell, as nearly always.

    `lease`: of which so much was reserved; None where nothing limits it.
    """

    id: str
    context: int
    stream: bool
    started_at: float
    prompt_bytes: int
    lease: str | None = None
    requests: int = 0
    tokens: int = 0
    nanos: int = 0

    def begun(self, context: Context) -> Begun:
        """The same at length, in its context."""
        reserved = None if self.lease is None else Reserved(self.lease, self.requests, self.tokens, self.nanos)
        return Begun(
            self.id,
            0,
            context.provider,
            context.model,
            context.route,
            context.key_id,
            context.project_id,
            context.endpoint,
            context.asked,
            self.stream,
            self.started_at,
            self.prompt_bytes,
            reserved,
        )


class Ended(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=2):
    """Attempts that led nowhere, from number `first` on; the request goes on without them."""

    id: str
    first: int
    attempts: tuple[Tried, ...]


class Done(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=3):
    """The request has ended, as its record says; `attempts` are those from number `first` on.

    `usage` is what was reported. Where nothing was, `heard` guesses the completion tokens that came. `times`: that its
    first event came after and that it took, in milliseconds. `lined_ms`: spent in line before targets under pressure.
    """

    id: str
    status: int
    ended: str
    code: str | None
    finish: str
    provider: str
    model: str
    usage: Spent | None
    heard: int
    duration_ms: float
    first_event_ms: float | None
    first: int
    attempts: tuple[Tried, ...]
    skipped: tuple[tuple[str, str, str], ...] = ()
    stopped: str = ""
    rescue: str = ""
    lined_ms: float = 0.0


class Answered(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=4):
    """The request has ended as nearly all do: its first attempt answered it with 200, and that is all there is to tell.

    Tokens are those that were reported, as `source` says, which is empty where nothing was. `took_ms`: of the attempt;
    the rest as of `Done`.
    """

    id: str
    finish: str
    source: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    heard: int
    duration_ms: float
    first_event_ms: float | None
    took_ms: float


End = Done | Answered
Entry = Begun | Context | Sent | Ended | End

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Entry).decode


def framed(entry: Entry) -> bytes:
    """An entry as it stands in a segment, at most ENTRY_BYTES of it."""
    body = _encode(entry)
    if len(body) > _MOST:
        body = _encode(_cut(entry))
    return _pack(len(body), _crc(body)) + body


def is_segment(segment: Segment) -> bool:
    """Whether it begins as one of this version does."""
    return segment[: len(MAGIC)] == MAGIC


def entries(segment: Segment, offset: int, most: int, until: int = LAST) -> tuple[list[Entry], int]:
    """At most `most` entries from `offset` on, and none from `until` on; and the offset up to which was read.

    The first entry is at START.
    """
    size, frame = len(segment), _FRAME.size
    last = min(size - frame, until - 1)
    found: list[Entry] = []
    while most > 0 and offset <= last:
        length, checksum = _unpack(segment, offset)
        begin = offset + frame
        end = begin + length
        if not length or end > size:
            break
        body = segment[begin:end]
        if _crc(body) != checksum:
            break
        try:
            found.append(_decode(body))
        except msgspec.ValidationError:
            pass  # of another version, and nothing that this one knows
        else:
            most -= 1
        offset = end
    return found, offset


def torn(segment: Segment, offset: int) -> bool:
    """Whether something was begun at `offset`, where reading ended, and never finished."""
    return any(segment[offset : offset + _FRAME.size])


def _cut(entry: Entry) -> Entry:
    """The same with what takes so much room left out. Numbers and ids stay."""
    replace = msgspec.structs.replace
    match entry:
        case Begun():
            return replace(
                entry,
                provider=_short(entry.provider, 128),
                model=_short(entry.model, 256),
                route=_short(entry.route, 256),
                asked=_short(entry.asked, 256),
                tags=(),
                user=_short(entry.user or "", 256) or None,
                safety_identifier=_short(entry.safety_identifier or "", 256) or None,
            )
        case Ended():
            last = entry.attempts[-4:]
            first = entry.first + len(entry.attempts) - len(last)
            return replace(entry, first=first, attempts=tuple(_short_try(one) for one in last))
        case Done():
            last = entry.attempts[-3:]
            return replace(
                entry,
                provider=_short(entry.provider, 64),
                model=_short(entry.model, 128),
                finish=_short(entry.finish, 64),
                first=entry.first + len(entry.attempts) - len(last),
                attempts=tuple(_short_try(one) for one in last),
                skipped=(),
                code=_short(entry.code or "", 64) or None,
            )
        case Answered():
            return replace(entry, finish=_short(entry.finish, 64))
        case Context() | Sent():
            return entry  # a context that takes much is not written, and the rest of a beginning takes little


def _short_try(one: Tried) -> Tried:
    return msgspec.structs.replace(one, provider=_short(one.provider, 64), model=_short(one.model, 128))


def _short(text: str, most: int) -> str:
    """Of a text at most so many bytes."""
    return text.encode()[:most].decode(errors="ignore")


def skips(skipped: tuple[Skipped, ...]) -> tuple[tuple[str, str, str], ...]:
    """What a record says of targets that were not considered, as an entry has it."""
    return tuple((one.provider, one.model, one.reason) for one in skipped)


def segment_path(prefix: str, number: int) -> str:
    """Where the segment of that number is, of the journal whose segments begin with `prefix`."""
    return f"{prefix}.{number:08d}{SUFFIX}"


def lock_path(prefix: str) -> str:
    """What everyone who may write a journal in the same directory holds a shared lock on."""
    return os.path.join(os.path.dirname(prefix), LOCK)
