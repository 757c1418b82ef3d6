"""A journal is read as far as it was written, whatever was cut off, torn, carried over or written meanwhile."""

from __future__ import annotations

import logging
import os
import random
import tempfile
import zlib
from operator import attrgetter
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from penstock.control.ledger.reading import Reading, carried, journals, remove, retire, segments
from penstock.control.ledger.rows import Closed, at_length
from penstock.journal import MAGIC, START, Begun, Ended, Entry, Tried, entries, framed, segment_path
from support.journals import RESERVED, SIZE, Writer, begun, ended, in_brief


def ids(found: list[Closed]) -> list[str]:
    return [done.id for _, done in found]


def test_requests_are_found_as_they_end_and_across_segments(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    reading = Reading(writer.prefix)
    assert reading.read(100, False) == []
    writer.put(begun("long"))
    for number in range(100):
        writer.put(begun(f"r{number}"))
        assert reading.read(100, False) == []
        writer.put(ended(f"r{number}"))
        assert ids(reading.read(100, False)) == [f"r{number}"]
    assert writer.number > 3
    assert list(reading.opened) == ["long"]
    assert not reading.over
    assert reading.read(100, True) == []
    assert reading.over


def test_a_slice_reads_no_more_than_it_may(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    for number in range(40):
        writer.put(begun(f"r{number}"))
        writer.put(ended(f"r{number}"))
    reading = Reading(writer.prefix)
    found: list[str] = []
    while not reading.over:
        some = ids(reading.read(7, True))
        assert len(some) <= 4
        found += some
    assert found == [f"r{number}" for number in range(40)]


def test_a_reading_up_to_a_position_stops_there(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    for number in range(60):
        writer.put(begun(f"r{number}"))
        writer.put(ended(f"r{number}"))
    first = Reading(writer.prefix)
    found = ids(first.read(51, False))
    second = Reading(writer.prefix)
    again: list[str] = []
    while second.position != first.position:
        again += ids(second.read(9, False, first.position))
    assert again == found
    assert second.opened == first.opened


def still_open(reading: Reading) -> list[Entry]:
    return [entry for opened in reading.opened.values() for entry in at_length(opened)]


ONE = framed(begun("r0")) + framed(ended("r0")) + framed(begun("r1"))
TWO = framed(ended("r1"))
R0 = len(framed(begun("r0")) + framed(ended("r0")))


@given(st.integers(0, len(ONE + TWO)), st.binary(max_size=12))
@settings(max_examples=300, deadline=None)
def test_whatever_is_cut_off_or_overwritten_only_whole_entries_are_read(at: int, noise: bytes) -> None:
    whole = ONE + TWO
    segment = MAGIC + whole[:at] + noise + bytes(64)
    found, offset = entries(segment, START, 100)
    intact = []
    end = START
    for entry in (begun("r0"), ended("r0"), begun("r1"), ended("r1")):
        end += len(framed(entry))
        if segment[:end] != (MAGIC + whole)[:end]:
            break
        intact.append(entry)
        assert offset >= end
    assert found == intact


def test_every_cut_of_a_dead_workers_segment_leaves_what_was_whole(tmp_path: Path) -> None:
    for at in range(len(ONE + TWO) + 1):
        directory = tmp_path / str(at)
        directory.mkdir()
        writer = Writer(directory)
        writer.put(begun("r9"))
        writer.raw((ONE + TWO)[:at])
        reading = Reading(writer.prefix)
        found = ids(reading.read(100, True))
        assert reading.over
        there = (ONE + TWO)[:at].ljust(len(ONE + TWO), b"\0")  # what was not written is zero, as some of it would be
        assert found == [id for id, end in (("r0", R0), ("r1", len(ONE + TWO))) if there[:end] == (ONE + TWO)[:end]]


def test_what_is_broken_is_told_and_the_next_segment_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    writer = Writer(tmp_path)
    writer.put(begun("r0"))
    writer.raw(b"\x20\0\0\0 this is not what it should be")
    reading = Reading(writer.prefix)
    assert reading.read(100, False) == []  # perhaps it is being written
    assert reading.number == 1
    writer.at = SIZE
    writer.put(begun("r1"))
    writer.put(ended("r1"))
    with caplog.at_level(logging.ERROR):
        assert ids(reading.read(100, False)) == ["r1"]
    assert "is broken at byte" in caplog.text


def test_a_segment_of_another_version_is_told_and_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    writer = Writer(tmp_path)
    Path(segment_path(writer.prefix, 1)).write_bytes(b"penstock journal 9\n".ljust(SIZE, b"\0"))
    writer.number = 1
    writer.put(begun("r1"))
    writer.put(ended("r1"))
    with caplog.at_level(logging.ERROR):
        assert ids(Reading(writer.prefix).read(100, True)) == ["r1"]
    assert "is no segment of this version" in caplog.text


def test_an_entry_that_a_later_version_wrote_is_passed_over() -> None:
    body = msgspec.msgpack.encode([99, "what", "is", "this"])
    later = len(body).to_bytes(4, "little") + zlib.crc32(body).to_bytes(4, "little") + body
    longer = msgspec.msgpack.encode([*msgspec.msgpack.decode(msgspec.msgpack.encode(begun("r1"))), "a new field"])
    more = len(longer).to_bytes(4, "little") + zlib.crc32(longer).to_bytes(4, "little") + longer
    found, _ = entries(MAGIC + framed(begun("r0")) + later + more, START, 100)
    assert found == [begun("r0"), begun("r1")]


def test_what_comes_after_a_beginning_in_brief_is_found_with_it(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    tried = Tried("fake", "gpt-5.4", 0, "reset", 1.0)
    writer.begin(begun("r0", reserved=RESERVED))
    writer.put(Ended("r0", 0, (tried,)))
    writer.put(begun("r0", 1))
    writer.put(ended("r0"))
    ((opened, done),) = Reading(writer.prefix).read(100, True)
    assert at_length(opened) == [begun("r0", reserved=RESERVED), Ended("r0", 0, (tried,)), begun("r0", 1)]
    assert done == ended("r0")


def test_a_beginning_whose_context_is_of_a_later_version_is_passed_over_and_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = Writer(tmp_path)
    context, sent = in_brief(begun("r0"), {})
    assert context is not None
    writer.put(sent)
    writer.put(ended("r0"))
    writer.put(context)
    writer.put(replace(sent, id="r1"))
    writer.put(ended("r1"))
    with caplog.at_level(logging.ERROR):
        assert ids(Reading(writer.prefix).read(100, True)) == ["r1"]
    assert "does not say what request r0 and others are about" in caplog.text


def test_what_is_open_is_carried_over_when_segments_are_deleted(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    reading = Reading(writer.prefix)
    writer.put(begun("long"))
    while writer.number < 4:
        writer.put(begun("short"))
        writer.put(ended("short"))
        reading.read(100, False)
    retire(writer.prefix, still_open(reading), 3)
    assert segments(writer.prefix) == [3, 4]
    assert carried(writer.prefix) == [begun("long")]
    writer.put(ended("long"))
    assert ids(reading.read(100, False)) == ["long"]
    again = Reading(writer.prefix)
    assert ids(again.read(1000, True))[-1] == "long"
    assert again.opened == {}
    assert journals(tmp_path) == [writer.prefix]
    remove(writer.prefix)
    assert os.listdir(tmp_path) == []


def test_what_was_carried_over_and_is_still_in_a_segment_counts_once(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.put(begun("r0"))
    writer.put(begun("r0", 1))
    retire(writer.prefix, [begun("r0"), begun("r0", 1)], 1)  # and then the parent died
    writer.put(ended("r0"))
    writer.begin(begun("r2"))
    retire(writer.prefix, [begun("r0"), begun("r0", 1), begun("r2")], 1)
    writer.put(ended("r2"))
    closed, brief = Reading(writer.prefix).read(100, True)
    assert at_length(brief[0]) == [begun("r2")]
    assert at_length(closed[0]) == [begun("r0"), begun("r0", 1)]


@given(st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_any_interleaving_of_writing_reading_deleting_and_beginning_anew_finds_each_request_once(seed: int) -> None:
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as directory:
        writer = Writer(Path(directory))
        reading = Reading(writer.prefix)
        open_: list[str] = []
        closed: list[str] = []
        found: list[str] = []
        beginnings: dict[str, Begun] = {}
        stored = 0

        def find(ended: list[Closed]) -> None:
            for opened, done in ended:
                found.append(done.id)
                assert at_length(opened) == [beginnings[done.id]]

        for number in range(300):
            what = draw.random()
            if what < 0.45:
                open_.append(f"r{number}")
                begin = begun(f"r{number}", asked=f"model {number % 3}", reserved=draw.choice((RESERVED, None)))
                beginnings[begin.id] = begin
                (writer.begin if draw.random() < 0.8 else writer.put)(begin)
            elif what < 0.85 and open_:
                closed.append(open_.pop(draw.randrange(len(open_))))
                writer.put(ended(closed[-1]))
            elif what < 0.95:
                find(reading.read(draw.randint(1, 50), False))
                stored = reading.position
                if reading.number > 1 and draw.random() < 0.5:
                    retire(writer.prefix, still_open(reading), reading.number)
            else:  # the parent dies and comes back
                reading.close()
                reading = Reading(writer.prefix)
                while reading.position < stored:
                    reading.read(draw.randint(1, 50), False, stored)
                assert reading.position == stored
                find(reading.read(10_000, False))
                stored = reading.position
        while not reading.over:
            find(reading.read(1000, True))
        assert found == closed
        assert sorted(still_open(reading), key=attrgetter("id")) == sorted(
            (beginnings[id_] for id_ in open_), key=attrgetter("id")
        )
        reading.close()
