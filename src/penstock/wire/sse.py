"""Server-sent events without I/O: bytes cut anywhere in, the data of whole events out.

The reader follows the parsing rules of the WHATWG HTML standard, section 9.2: lines end in LF, CR or CRLF, a blank
line dispatches, several `data` lines are joined by LF, one leading byte order mark and all comments are skipped, an
event without data is no event. `event`, `id` and `retry` are dropped: chat completions give them no meaning, and
clients fail on some of them. What comes out depends on the bytes alone, never on how they were cut.

Nearly every read of an upstream's stream holds exactly whole events in the plainest form, ``data: {...}\\n\\n``. Those
are recognised by a few searches, and `plain` tells the caller that the bytes it passed in are themselves the
events, so that it can forward them as they are. All else goes line by line, buffering only the line that is not yet
whole and the data lines of the event that is not yet dispatched; both are bounded, and a stream that oversteps the
bound ends in EventTooLarge, which hands over the events completed before it.
"""

from __future__ import annotations

MAX_EVENT_BYTES = 16 * 1024 * 1024

DONE = b"data: [DONE]\n\n"

_BOM = b"\xef\xbb\xbf"


def event(data: bytes) -> bytes:
    """One event, framed plainly. `data` is JSON or ``[DONE]``: a line feed in it can only be white space."""
    return b"data: %b\n\n" % (data.replace(b"\n", b" ") if b"\n" in data else data)


class EventTooLarge(Exception):
    """A line, or the data of one event, is above the bound. `events`: those completed by the same read."""

    def __init__(self, limit: int, events: list[bytes]) -> None:
        super().__init__(f"an event of the stream is larger than {limit} bytes")
        self.events = events


class SseReader:
    """Reads one stream; after EventTooLarge it must not be fed again."""

    __slots__ = ("_data", "_line", "_max", "_size", "_skip_lf", "_start", "fresh", "plain")

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max = max_event_bytes
        self._line = bytearray()  # the line that has not ended yet
        self._data: list[bytes] = []  # the data lines of the event that has not been dispatched yet
        self._size = 0
        self._skip_lf = False  # the last read ended in CR: an LF that comes next belongs to it
        self._start = True  # no line has ended yet: a byte order mark may come
        self.fresh = False
        """Between events, nothing is buffered. The first read goes line by line, for its mark."""
        self.plain = False
        """Whether what was last fed is, byte for byte, the plain form of the events that `feed` returned for it."""

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next bytes; return the data of each event that they complete."""
        if self.fresh and data[:6] == b"data: " and data.find(b"\r") < 0 and len(data) <= self._max:
            if data.find(b"\n") == len(data) - 2 and data[-1:] == b"\n":
                events = [data[6:-2]]
                self.plain = len(data) > 8
            else:
                events = data[6:-2].split(b"\n\ndata: ")
                # Two line feeds for each event, so none inside of one.
                self.plain = data[-2:] == b"\n\n" and data.count(b"\n") == 2 * len(events) and b"" not in events
            if self.plain:
                return events
        self.plain = False
        return self._feed_lines(data)

    def close(self) -> list[bytes]:
        """The stream ended: return the last event, if it lacks only its blank line or its line end."""
        events: list[bytes] = []
        if self._line:
            self._end_line(bytes(self._line), events)
            self._line.clear()
        self._dispatch(events)
        return events

    def _feed_lines(self, data: bytes) -> list[bytes]:
        events: list[bytes] = []
        if not data:
            return events
        if self._skip_lf and data.startswith(b"\n"):
            data = data[1:]
            if not data:
                self._skip_lf = False
                return events
        self._skip_lf = data.endswith(b"\r")
        lines = data.splitlines()
        rest = b"" if data.endswith((b"\n", b"\r")) else lines.pop()
        for line in lines:
            if self._line:
                self._line += line
                line = bytes(self._line)
                self._line.clear()
            self._end_line(line, events)
        self._line += rest
        if len(self._line) > self._max:
            raise EventTooLarge(self._max, events)
        self.fresh = not (self._line or self._data or self._skip_lf or self._start)
        return events

    def _end_line(self, line: bytes, events: list[bytes]) -> None:
        if len(line) > self._max:
            raise EventTooLarge(self._max, events)
        if self._start:
            self._start = False
            line = line.removeprefix(_BOM)
        if not line:
            self._dispatch(events)
            return
        name, _, value = line.partition(b":")
        if name != b"data":
            return
        value = value.removeprefix(b" ")
        self._size += len(value) + 1
        if self._size > self._max:
            raise EventTooLarge(self._max, events)
        self._data.append(value)

    def _dispatch(self, events: list[bytes]) -> None:
        data = b"\n".join(self._data)
        if data:
            events.append(data)
        self._data.clear()
        self._size = 0
