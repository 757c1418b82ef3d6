"""The form of a stream's chunks: all of an event but its text, by which the next one is known without being decoded.

Nearly all chunks of an answer differ in nothing but the text that they add (and in the random string by which some
services hide its length). Of an event that was decoded and found in order, what is before and behind these strings is
kept. Another event that is the same there, and has any strings in their place, decodes to the same but for them, and is
in order as well, as long as what makes it so does not depend on the text: who uses this must see to that.

The strings must be what a decoder would take, too: no quote, no control, valid escapes, UTF-8. Halves of a surrogate
pair are left to the decoder.
"""

from __future__ import annotations

import re

MOST = 3  # strings that may differ

_VARIES = re.compile(rb'"(?:content|reasoning_content|obfuscation)":"')
_string = re.compile(
    rb'[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u(?![dD][89a-fA-F])[0-9a-fA-F]{4})[^"\\\x00-\x1f]*+)*+"'
).match


class Form:
    """The form of one event. `parts`: what stands before, between and behind the strings that may differ."""

    __slots__ = ("_at", "_first", "_last", "_others", "_rest")

    def __init__(self, parts: list[bytes]) -> None:
        self._first, *self._others, self._last = parts
        self._at = len(self._first)
        self._rest = len(self._last)

    def fits(self, data: bytes) -> bool:
        """Whether these are the bytes of an event of this form."""
        if not (data.startswith(self._first) and data.endswith(self._last)):
            return False
        found = _string(data, self._at)
        for part in self._others:
            if found is None or not data.startswith(part, found.end()):
                return False
            found = _string(data, found.end() + len(part))
        if found is None or found.end() + self._rest != len(data):
            return False
        return data.isascii() or _is_utf8(data)


def form_of(data: bytes) -> Form | None:
    """The form of an event, where it has a text that may differ."""
    parts: list[bytes] = []
    start = 0
    for varies in _VARIES.finditer(data):
        found = _string(data, varies.end())
        if found is None or len(parts) == MOST:
            return None
        parts.append(data[start : varies.end()])
        start = found.end()
    return Form([*parts, data[start:]]) if parts else None


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
