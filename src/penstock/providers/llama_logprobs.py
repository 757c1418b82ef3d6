"""The log probabilities of a local answer: OpenAI's entries for exactly the text that the client gets.

The engine reports a token when its text is whole, with those that were likely in its place. Text may reach the client
later than that, or never, since what could begin a stop string is held back and a stop string can begin inside of a
token. So an entry waits until its last character goes out, and at a cut the last one is cut with its text: joined, the
tokens of the entries always are the content.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import msgspec

LEAST = -9999.0  # what OpenAI writes for a token that cannot come


class Likely(msgspec.Struct, gc=False):
    """A token that could have come."""

    token: str = ""
    bytes: list[int] = []
    logprob: float = 0.0


class Chosen(Likely, gc=False):
    """The token that came; its text is empty where it is no text, as at the end of an answer."""

    top_logprobs: list[Likely] = []


class Logprobs:
    """Follows one choice; `most` alternatives are given for each token."""

    __slots__ = ("_most", "_owed", "_waiting")

    def __init__(self, most: int) -> None:
        self._most = most
        self._owed = 0  # characters that went out and whose entry has not
        self._waiting: deque[dict[str, Any]] = deque()

    def add(self, tokens: Sequence[Chosen]) -> None:
        """Take what the engine reports beside a piece of text."""
        for token in tokens:
            if token.token:
                likely = [_entry(each) for each in token.top_logprobs[: self._most]]
                self._waiting.append({**_entry(token), "top_logprobs": likely})

    def release(self, text: str, is_last: bool) -> list[dict[str, Any]]:
        """The entries that go out with `text`."""
        self._owed += len(text)
        out = []
        while self._waiting and len(self._waiting[0]["token"]) <= self._owed:
            entry = self._waiting.popleft()
            self._owed -= len(entry["token"])
            out.append(entry)
        if is_last and self._owed and self._waiting:
            entry = self._waiting.popleft()
            kept = entry["token"][: self._owed]
            out.append({**entry, "token": kept, "bytes": list(kept.encode())})
        return out


def _entry(token: Likely) -> dict[str, Any]:
    return {"token": token.token, "logprob": min(max(token.logprob, LEAST), 0.0), "bytes": token.bytes}
