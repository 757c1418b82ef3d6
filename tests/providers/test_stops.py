"""Stop strings, against a plain reading of the whole text."""

from __future__ import annotations

import time
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.providers.stops import StopCutter

FEW_LETTERS = st.text("ab", max_size=30)


def cut_whole(text: str, stops: list[str]) -> tuple[str, bool]:
    """What comes before the stop string that is completed first, the longest where several are."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end - max(map(len, ending))], True
    return text, False


@given(FEW_LETTERS, st.lists(st.text("ab", min_size=1, max_size=6), min_size=1, max_size=4), st.data())
def test_pieces_of_any_size_are_cut_as_the_whole_text(text: str, stops: list[str], data: st.DataObject) -> None:
    cutter = StopCutter(stops)
    out, rest = "", text
    while rest and not cutter.cut:
        size = data.draw(st.integers(1, len(rest)))
        out += cutter.feed(rest[:size])
        rest = rest[size:]
        assert cut_whole(text, stops)[0].startswith(out)
    if not cutter.cut:
        out += cutter.flush()
    assert (out, cutter.cut) == cut_whole(text, stops)


@given(FEW_LETTERS, st.lists(st.text("ab", min_size=1, max_size=6), min_size=1, max_size=4), st.data())
def test_the_last_piece_is_cut_as_the_others_are(text: str, stops: list[str], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(text)))
    cutter = StopCutter(stops)
    out = cutter.feed(text[:at])
    if not cutter.cut:
        out += cutter.finish(text[at:])
    assert (out, cutter.cut) == cut_whole(text, stops)
    assert cutter.flush() == ""


def test_stop_strings_as_long_as_the_answer_do_not_hold_everybody_up() -> None:
    cutter = StopCutter(["a" * 300_000 + end for end in "bcde"])
    text = "ab" * 1_000_000
    began = time.process_time()
    assert cutter.finish(text) == text
    assert time.process_time() - began < 1.0


@given(st.integers(0, 2**32))
def test_long_pieces_are_cut_as_short_ones(seed: int) -> None:
    random = Random(seed)
    stops = ["".join(random.choices("ab", k=random.randint(3, 9))) for _ in range(random.randint(1, 3))]
    letters_of = "ab" if seed % 2 else "aabc"  # met soon, or late
    pieces = ["".join(random.choices(letters_of, k=random.choice([1, 70, 100, 150]))) for _ in range(5)]
    long, short = StopCutter(stops), StopCutter(stops)
    for piece in pieces:
        letters = ""
        for letter in piece:
            letters += "" if short.cut else short.feed(letter)
        assert long.feed(piece) == letters
        assert long.cut == short.cut
        if long.cut:
            return
    assert long.flush() == short.flush()


def test_a_long_text_does_not_hold_everybody_up() -> None:
    text = "the quick brown fox " * 100_000
    began = time.process_time()
    assert StopCutter([" the slow", " brown bear"]).feed(text) == text[:-1]
    assert time.process_time() - began < 5.0  # it takes some hundredths


@pytest.mark.parametrize(
    ("pieces", "stops", "shown"),
    [
        (["one ST", "OP two"], ["STOP"], ["one ", ""]),
        (["S", "T", "x"], ["STOP"], ["", "", "STx"]),
        (["aab"], ["ab"], ["a"]),
        (["abc"], ["c", "abc"], [""]),
        (["abcd"], ["abcd", "bc"], ["a"]),
        (["漢", "字"], ["字"], ["漢", ""]),
    ],
)
def test_only_what_may_begin_a_stop_is_held_back(pieces: list[str], stops: list[str], shown: list[str]) -> None:
    cutter = StopCutter(stops)
    assert [cutter.feed(piece) for piece in pieces] == shown


def test_a_long_repetitive_stop_costs_no_more_than_its_text() -> None:
    cutter = StopCutter(["a" * 1_000_000 + "b", "aab" * 100_000])
    began = time.process_time()
    for _ in range(2000):
        cutter.feed("a" * 10)
    assert time.process_time() - began < 1  # quadratic work would be a minute
