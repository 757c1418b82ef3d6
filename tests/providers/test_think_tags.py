"""Reasoning between tags is told from the answer, however the text is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.providers.think_tags import ThinkSplitter


def split_up(pieces: list[str]) -> tuple[str, str]:
    splitter = ThinkSplitter()
    parts = [splitter.feed(piece) for piece in pieces] + [splitter.flush()]
    return "".join(reasoning for reasoning, _ in parts), "".join(answer for _, answer in parts)


def expected(text: str) -> tuple[str, str]:
    """The same, said of the whole text."""
    bare = text.lstrip()
    if not bare.startswith("<think>") or len(text) - len(bare) > 64:
        return "", text
    reasoning, closed, answer = bare.removeprefix("<think>").lstrip().partition("</think>")
    return reasoning, answer.lstrip() if closed else ""


@pytest.mark.parametrize(
    ("text", "reasoning", "answer"),
    [
        ("<think>\nWhy?\n</think>\n\nBecause.", "Why?\n", "Because."),
        ("\n <think>Why?</think>Because.", "Why?", "Because."),
        ("Because.", "", "Because."),
        ("  <thinking>x</thinking>", "", "  <thinking>x</thinking>"),
        ("Say <think> and </think>.", "", "Say <think> and </think>."),
        ("<think></think>Yes.", "", "Yes."),
        ("<think>cut off </thi", "cut off </thi", ""),
        ("<think>a</think>b<think>c</think>", "a", "b<think>c</think>"),
        ("<thi", "", "<thi"),
        (" " * 65 + "<think>a</think>", "", " " * 65 + "<think>a</think>"),
        ("", "", ""),
    ],
)
def test_the_reasoning_is_what_stands_between_tags_that_open_the_text(text: str, reasoning: str, answer: str) -> None:
    assert split_up([text]) == (reasoning, answer)
    assert split_up(list(text)) == (reasoning, answer)


TEXT = st.lists(
    st.sampled_from(["<think>", "</think>", "<", "</", "think>", " ", "\n", "é", "🌍", "a" * 3]), max_size=12
)


@given(TEXT.map("".join), st.data())
def test_the_outcome_does_not_depend_on_the_pieces(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert split_up(pieces) == expected(text)


def test_a_text_without_tags_is_no_longer_looked_at_after_its_first_characters() -> None:
    splitter = ThinkSplitter()
    assert splitter.feed(" \n") == ("", "")
    assert not splitter.settled
    assert splitter.feed("Yes") == ("", " \nYes")
    assert splitter.settled
