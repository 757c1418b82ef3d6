"""Streams broken off anywhere and continued, through the readers that a rescue has before and behind it."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.providers.base import Reader
from penstock.providers.openai_answer import StreamReader
from penstock.providers.openai_rewrite import Edits, StreamRewriter
from penstock.providers.stops import StopCutter
from penstock.wire.naming import Naming
from penstock.wire.prefix import may_end_in_a_stop
from penstock.wire.said import Said
from penstock.wire.seam import Continued, Repeated, Seam

DONE = b"data: [DONE]\n\n"


def event(delta: dict[str, str], finish: str | None, name: str) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    chunk = {"id": name, "object": "chat.completion.chunk", "created": 1, "model": name, "choices": [choice]}
    return b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n"


def stream(pieces: list[str], name: str) -> bytes:
    begun = event({"role": "assistant", "content": ""}, None, name)
    said = b"".join(event({"content": piece}, None, name) for piece in pieces)
    return begun + said + event({}, "stop", name) + DONE


def reader(stops: tuple[str, ...] = ()) -> Reader:
    """A reader; one that cuts at stop strings, where there are any."""
    plain = StreamReader("acme", False, 1, Naming("m", lambda: 1.0))
    return StreamRewriter(plain, Edits("acme", stops, False, 1, False, 0)) if stops else plain


def words(events: bytes) -> str:
    chunks = [json.loads(one[6:]) for one in events.split(b"\n\n") if one and one != b"data: [DONE]"]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


def rest(seam: Seam, pieces: list[str], stops: tuple[str, ...] = ()) -> bytes:
    """What the client gets of a second answer of these pieces, whole."""
    second = reader(stops)
    out = seam.take(second.feed(stream(pieces, "other")))
    return out + seam.take(second.close()) + seam.end(None)


@settings(deadline=None, max_examples=25)  # each of hundreds of streams
@given(st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=4))
def test_a_stream_cut_after_any_of_its_bytes_is_read_as_one(pieces: list[str]) -> None:
    text, whole = "".join(pieces), stream(pieces, "first")
    for size in range(len(whole) + 1):
        first, said = reader(), Said()
        sent = first.feed(whole[:size])
        if not first.committed or first.whole:
            continue  # it is tried again, or is whole
        said.note(sent)
        assert said.unfit == ""
        assert words(sent) == said.text == text[: len(said.text)]
        left = text[len(said.text) :]
        repeated = Said()
        repeated.note(sent)
        assert words(sent + rest(Repeated(repeated, False), [text])) == text
        assert words(sent + rest(Continued(said, False), [left] if left else [])) == text


def uncut(text: str, stops: tuple[str, ...]) -> str:
    cutter = StopCutter(stops)
    out = cutter.feed(text)
    return out if cutter.cut else out + cutter.flush()


@given(
    st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=5),
    st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=2).map(tuple),
    st.data(),
)
def test_stop_strings_are_exact_over_the_seam(pieces: list[str], stops: tuple[str, ...], data: st.DataObject) -> None:
    text = "".join(pieces)
    broken = stream(pieces[: data.draw(st.integers(1, len(pieces)))], "first")
    first, said = reader(stops), Said()
    sent = first.feed(broken[: broken.index(b'"finish_reason": "stop"')])
    if first.done or not said_something(sent) or first.whole:
        return  # it was cut, or nothing went out yet
    said.note(sent)
    if may_end_in_a_stop(said.text, stops):
        return  # it is not continued
    out = sent + rest(Continued(said, False), [text[len(said.text) :]], stops)
    assert words(out) == uncut(text, stops)


def said_something(events: bytes) -> bool:
    return bool(words(events))
