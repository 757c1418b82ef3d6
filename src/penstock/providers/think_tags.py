"""Splits a text that arrives in pieces into the reasoning between think tags and the answer after them.

Models whose server does not parse them write ``<think>``, what they think, ``</think>``, and then the answer. Only a
tag that opens the text counts, white space before it aside: later ones are what the answer speaks of. White space after
the tags is layout, and is dropped. What comes out does not depend on how the text was cut. A text without a tag comes
out as it went in, and is looked at only as far as its first character that is not white space.
"""

from __future__ import annotations

from enum import Enum

OPEN = "<think>"
CLOSE = "</think>"

_MOST_SPACE = 64  # before the tag; more of it is text


class _Place(Enum):
    START = 0
    BEFORE_REASONING = 1
    REASONING = 2
    BEFORE_ANSWER = 3
    ANSWER = 4


class ThinkSplitter:
    """Follows one choice."""

    __slots__ = ("_held", "_place")

    def __init__(self) -> None:
        self._place = _Place.START
        self._held = ""

    @property
    def settled(self) -> bool:
        """Whether all that comes is answer, so that the text may go by unseen."""
        return self._place is _Place.ANSWER

    def feed(self, text: str) -> tuple[str, str]:
        """Take the next piece; return the reasoning and the answer that are sure by now."""
        if self._place is _Place.ANSWER:
            return "", text
        text, self._held = self._held + text, ""
        if self._place is _Place.START:
            bare = text.lstrip()
            if OPEN.startswith(bare[: len(OPEN)]) and len(text) - len(bare) <= _MOST_SPACE:
                if len(bare) < len(OPEN):
                    self._held = text
                    return "", ""
                text, self._place = bare[len(OPEN) :], _Place.BEFORE_REASONING
            else:
                self._place = _Place.ANSWER
                return "", text
        reasoning = ""
        if self._place is _Place.BEFORE_REASONING:
            text = text.lstrip()
            if text:
                self._place = _Place.REASONING
        if self._place is _Place.REASONING:
            reasoning, text = self._reason(text)
        if self._place is _Place.BEFORE_ANSWER:
            text = text.lstrip()
            if text:
                self._place = _Place.ANSWER
        return reasoning, text

    def flush(self) -> tuple[str, str]:
        """The text ended: what was held back is part of it after all."""
        held, self._held = self._held, ""
        return ("", held) if self._place is _Place.START else (held, "")

    def _reason(self, text: str) -> tuple[str, str]:
        end = text.find(CLOSE)
        if end >= 0:
            self._place = _Place.BEFORE_ANSWER
            return text[:end], text[end + len(CLOSE) :]
        keep = next((size for size in range(min(len(CLOSE) - 1, len(text)), 0, -1) if text.endswith(CLOSE[:size])), 0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], ""
