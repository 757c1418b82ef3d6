"""The event reader gives the same events however the bytes are cut, and bounds what it holds."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.wire.sse import DONE, EventTooLarge, SseReader, event


def read(*pieces: bytes) -> list[bytes]:
    reader = SseReader()
    events = [data for piece in pieces for data in reader.feed(piece)]
    return events + reader.close()


def feed_by(size: int, stream: bytes, reader: SseReader) -> None:
    for place in range(0, len(stream), size):
        reader.feed(stream[place : place + size])


def cut(data: bytes, places: list[int]) -> list[bytes]:
    bounds = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(bounds)]


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
        (b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
        (b"data: a\r\n\rdata: b\n\r\n", [b"a", b"b"]),
        (b"data:a\n\ndata:  b\n\n", [b"a", b" b"]),
        (b": ping\n\ndata: a\n: inside\n\n", [b"a"]),
        (b"id: 1\nevent: x\nretry: 5\nunknown: y\ndata: a\n\n", [b"a"]),
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b"data\n\ndata: a\n\n", [b"a"]),
        (b"data: \n\ndata:\n\ndata: a\n\n", [b"a"]),
        (b"data\ndata\n\n", [b"\n"]),
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
        (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [b"a"]),
        (b"database: a\n\n data: b\n\n", []),
        (b"data: a\n\ndata: b\n", [b"a", b"b"]),
        (b"data: a\n\ndata: b", [b"a", b"b"]),
        (b"data: a\r", [b"a"]),
        (b"\n\n\n", []),
        (b"", []),
    ],
)
def test_events_follow_the_rules_of_the_standard(stream: bytes, events: list[bytes]) -> None:
    assert read(stream) == events
    assert read(*(stream[i : i + 1] for i in range(len(stream)))) == events
    for place in range(len(stream)):
        assert read(stream[:place], stream[place:]) == events


LINES = st.sampled_from(
    [
        b"data: {}",
        b"data:x",
        b"data: ",
        b"data",
        b": note",
        b"id: 1",
        b"event: e",
        b"",
        b"",
        b"\xef\xbb\xbf",
        b"data: \xc3\xa9",
    ]
)
STREAMS = st.lists(st.tuples(LINES, st.sampled_from([b"\n", b"\r\n", b"\r"]))).map(
    lambda lines: b"".join(line + end for line, end in lines)
)


@given(
    st.one_of(STREAMS, st.binary(max_size=200), st.text("data: \r\n{}\ufeff", max_size=80).map(str.encode)), st.data()
)
def test_every_cut_gives_the_same_events(stream: bytes, data: st.DataObject) -> None:
    places = data.draw(st.lists(st.integers(0, 1000), max_size=12))
    assert read(*cut(stream, places)) == read(stream)


@given(st.lists(st.sampled_from([b'{"a":1}', b"[DONE]", b"x y"]), min_size=1, max_size=5))
def test_a_read_of_plain_events_can_be_forwarded_as_it_is(events: list[bytes]) -> None:
    reader = SseReader()
    reader.feed(b": the first read is never plain\n\n")
    stream = b"".join(event(data) for data in events)
    assert reader.feed(stream) == events
    assert reader.plain


@pytest.mark.parametrize(
    "stream",
    [
        b"data: a\r\n\r\n",
        b"data:a\n\n",
        b"data: a\n\n\n",
        b"data: a\ndata: b\n\n",
        b"data: \n\n",
        b"data: a\n\n: c\n\n",
    ],
)
def test_a_read_that_needs_framing_anew_is_not_plain(stream: bytes) -> None:
    reader = SseReader()
    reader.feed(b"data: first\n\n")
    reader.feed(stream)
    assert not reader.plain


def test_an_event_cut_in_two_is_not_plain_in_either_part() -> None:
    reader = SseReader()
    reader.feed(b"data: first\n\n")
    assert reader.feed(b"data: a") == []
    assert not reader.plain
    assert reader.feed(b"b\n\n") == [b"ab"]
    assert not reader.plain


@pytest.mark.parametrize(
    "stream",
    [
        b"data: " + b"x" * 101 + b"\n\n",
        b"data: " + b"x" * 101,
        b": " + b"x" * 101,
        b"data: xxxxxxxxxx\n" * 11,
    ],
)
def test_an_event_above_the_bound_is_refused_however_it_is_cut(stream: bytes) -> None:
    for size in (1, 7, len(stream)):
        reader = SseReader(max_event_bytes=100)
        reader.feed(b": start\n\n")
        with pytest.raises(EventTooLarge):
            feed_by(size, stream, reader)


def test_events_before_the_one_above_the_bound_are_handed_over() -> None:
    reader = SseReader(max_event_bytes=100)
    with pytest.raises(EventTooLarge) as refusal:
        reader.feed(b"data: a\n\ndata: " + b"x" * 200)
    assert refusal.value.events == [b"a"]


def test_an_endless_run_of_comments_holds_no_memory() -> None:
    reader = SseReader(max_event_bytes=100)
    for _ in range(1000):
        assert reader.feed(b": ping\n\n") == []
    assert reader.feed(b"data: a\n\n") == [b"a"]


def test_line_feeds_in_json_become_spaces_in_the_plain_form() -> None:
    assert event(b'{\n"a": 1}') == b'data: { "a": 1}\n\n'
    assert event(b"[DONE]") == DONE
