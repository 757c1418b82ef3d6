"""Guesses tokens where nobody reports them: four bytes of UTF-8 each, rounded up.

That is about right for English, high for code and for other scripts, and blind to reasoning that is not shown. Of a
prompt, the bytes of the whole request are counted, its JSON and its media included. Such usage says of itself that it
is estimated.
"""

from __future__ import annotations

from penstock.types import Usage

BYTES_PER_TOKEN = 4


def estimate(prompt_bytes: int, completion_bytes: int) -> Usage:
    """The usage of an answer of so many bytes to a request of so many."""
    return Usage(-(-prompt_bytes // BYTES_PER_TOKEN), -(-completion_bytes // BYTES_PER_TOKEN), source="estimated")
