"""Cuts a text that arrives in pieces at the first stop string, and lets no part of one through before it is sure.

Each stop string is followed by a Knuth-Morris-Pratt automaton, so that the work per character is constant however long
and however repetitive the strings are, and the outcome does not depend on how the text was cut. The first string to be
completed wins; of several completed by the same character, the longest. The tables grow only as far as was matched, so
that a huge stop string costs nothing. A piece that is long beside the stop strings, such as a whole answer, is searched
in C instead, and the automata only follow its end: character by character, a megabyte would hold everybody up.
"""

from __future__ import annotations

from collections.abc import Sequence

_LONG = 64  # characters, and four times the longest stop string: from here on searching beats following


class _Follower:
    """How much of one stop string the end of the text matches."""

    __slots__ = ("_fallback", "matched", "stop")

    def __init__(self, stop: str) -> None:
        self.stop = stop
        self.matched = 0
        self._fallback = [0]  # [k]: the longest proper prefix of stop[:k + 1] that also ends it

    def advance(self, char: str) -> bool:
        """Take one character; whether it completed the stop string."""
        self.matched = self._step(self.matched, char)
        if self.matched == len(self.stop):
            return True
        if self.matched > len(self._fallback):
            last = len(self._fallback)
            self._fallback.append(self._step(self._fallback[last - 1], self.stop[last]))
        return False

    def _step(self, state: int, char: str) -> int:
        while state and self.stop[state] != char:
            state = self._fallback[state - 1]
        return state + 1 if self.stop[state] == char else 0


class StopCutter:
    """Follows one choice; `stops` are not empty strings. After `cut` is True it takes no more."""

    __slots__ = ("_firsts", "_followers", "_held", "_long", "_longest", "cut")

    def __init__(self, stops: Sequence[str]) -> None:
        self._longest = max(map(len, stops))
        self._long = max(_LONG, 4 * self._longest)
        self._followers = [_Follower(stop) for stop in stops]
        self._firsts = {stop[0] for stop in stops}
        self._held = ""
        self.cut = False

    def feed(self, text: str) -> str:
        """Take the next piece; return what surely comes before any stop string."""
        if not self._held and not any(first in text for first in self._firsts):
            return text  # nearly always so, and found out in C
        buffer = self._held + text
        if len(text) >= self._long:
            return self._search(buffer)
        for position in range(len(self._held), len(buffer)):
            char = buffer[position]
            completed = [follower for follower in self._followers if follower.advance(char)]
            if completed:
                self.cut = True
                self._held = ""
                return buffer[: position + 1 - max(len(follower.stop) for follower in completed)]
        keep = max(follower.matched for follower in self._followers)
        self._held = buffer[len(buffer) - keep :]
        return buffer[: len(buffer) - keep]

    def _search(self, text: str) -> str:
        """What surely comes before any stop string in `text`, before which nothing is held back."""
        before = self._find(text)
        if before is not None:
            return before
        tail = text[len(text) - self._longest + 1 :]  # shorter than the longest, so that the state depends on no more
        for follower in self._followers:
            follower.matched = 0
            for char in tail:
                follower.advance(char)
        keep = max(follower.matched for follower in self._followers)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def _find(self, text: str) -> str | None:
        """What comes before the stop string in `text` that is completed first; None where there is none."""
        found = [(text.find(follower.stop), len(follower.stop)) for follower in self._followers]
        ends = [(start + size, -size) for start, size in found if start >= 0]
        if not ends:
            return None
        self.cut = True
        self._held = ""
        end, size = min(ends)
        return text[: end + size]

    def finish(self, text: str) -> str:
        """Take the last piece; return all that comes before any stop string. What was held back is text after all."""
        buffer, self._held = self._held + text, ""
        before = self._find(buffer)
        return buffer if before is None else before

    def flush(self) -> str:
        """The text ended: what was held back is part of it after all."""
        held, self._held = self._held, ""
        return held
