"""Tokens that nobody reported are guessed from bytes, and say so."""

from __future__ import annotations

from penstock.types import Usage
from penstock.wire.estimate import estimate


def test_four_bytes_are_a_token_and_a_rest_is_one_more() -> None:
    assert estimate(401, 4) == Usage(101, 1, source="estimated")
    assert estimate(0, 0) == Usage(0, 0, source="estimated")
