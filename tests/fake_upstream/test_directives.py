"""Directives: what a model's name can ask for."""

from __future__ import annotations

import pytest

from penstock.fake_upstream.directives import DirectiveError, answer
from penstock.fake_upstream.script import Answer, Cut


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fake-status-503", Answer(status=503)),
        ("fake-status-429-after-2", Answer(status=429, retry_after=2)),
        ("fake-slow-500ms", Answer(wait=0.5)),
        ("fake-first-2s-every-20ms", Answer(wait_first=2.0, between=0.02)),
        ("fake-slow-forever", Answer(wait="forever")),
        ("fake-chunks-2-cut-1", Answer(chunks=("word1 ", "word2 "), cut=Cut(after_events=1))),
        ("fake-reset-0", Answer(cut=Cut(after_events=0, how="reset"))),
        ("fake-stall-3", Answer(cut=Cut(after_events=3, how="stall"))),
    ],
)
def test_a_directive_becomes_an_answer(name: str, expected: Answer) -> None:
    assert answer(name, Answer()) == expected


def test_any_other_name_is_no_directive() -> None:
    assert answer("gpt-5.4", Answer()) is None


@pytest.mark.parametrize(
    "name",
    [
        "fake-",
        "fake-status",
        "fake-status-x",
        "fake-status-100",
        "fake-status-²",
        "fake-slow-5",
        "fake-slow-99999999999s",
        "fake-chunks-0",
        "fake-chunks-999999999",
        "fake-nonsense-1",
        "fake-chunks-20-",
    ],
)
def test_a_directive_that_is_not_understood_is_an_error(name: str) -> None:
    with pytest.raises(DirectiveError):
        answer(name, Answer())
