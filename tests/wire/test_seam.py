"""One answer joined to another: cut anywhere, however chunked, the client reads the text of one."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import InvalidRequest
from penstock.types import Usage
from penstock.wire.chat import decode_chat
from penstock.wire.prefix import continued, may_end_in_a_stop
from penstock.wire.said import MOST_RUNS, Said
from penstock.wire.seam import Continued, Differs, Repeated, Seam

NAMES = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-5.4"}
OTHER = {"id": "cmpl-2", "object": "chat.completion.chunk", "created": 2, "model": "other", "system_fingerprint": "fp"}


def event(delta: Any, finish: str | None = None, names: dict[str, Any] = NAMES) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return b"data: " + json.dumps({**names, "choices": [choice]}, ensure_ascii=False).encode() + b"\n\n"


ROLE = {"role": "assistant", "content": ""}
Step = tuple[str, str]  # content or reasoning_content, and the words


def told(steps: list[Step], names: dict[str, Any] = NAMES) -> bytes:
    return event(ROLE, names=names) + b"".join(event({kind: words}, names=names) for kind, words in steps)


def said(steps: list[Step]) -> Said:
    found = Said()
    found.note(told(steps))
    return found


def merged(steps: list[Step]) -> list[Step]:
    """The words as runs of a kind."""
    out: list[Step] = []
    for kind, words in steps:
        if out and out[-1][0] == kind:
            out[-1] = (kind, out[-1][1] + words)
        elif words:
            out.append((kind, words))
    return out


def heard(events: bytes) -> list[Step]:
    """What a client makes of events, all of which must be under the first answer's names and without a role."""
    steps: list[Step] = []
    for one in events.split(b"\n\n")[:-1]:
        chunk = json.loads(one.removeprefix(b"data: "))
        assert {name: chunk[name] for name in NAMES} == NAMES
        assert "system_fingerprint" not in chunk
        for choice in chunk["choices"]:
            assert "role" not in choice["delta"]
            steps += [(kind, words) for kind, words in choice["delta"].items() if kind in KINDS]
    return steps


KINDS = ("content", "reasoning_content")
STEPS = st.lists(st.tuples(st.sampled_from(KINDS), st.text(min_size=1, max_size=8)), min_size=1, max_size=8)


def pieces(draw: st.DrawFn, run: Step) -> list[Step]:
    """The same words, cut up in some way."""
    kind, words = run
    cuts = sorted(draw(st.sets(st.integers(1, max(1, len(words) - 1)), max_size=4)))
    bounds = [0, *[at for at in cuts if at < len(words)], len(words)]
    return [(kind, words[start:end]) for start, end in itertools.pairwise(bounds)]


@st.composite
def repeats(draw: st.DrawFn) -> tuple[list[Step], list[Step]]:
    """The beginning of an answer, broken off anywhere, and the whole of it chunked in another way."""
    steps = merged(draw(STEPS))
    whole = [piece for run in steps for piece in pieces(draw, run)]
    size = draw(st.integers(1, sum(len(words) for _, words in steps)))
    beginning = []
    for kind, words in steps:
        beginning.append((kind, words[:size]))
        size -= len(words)
        if size <= 0:
            break
    return beginning, whole


@given(repeats())
def test_a_repeated_answer_is_read_as_one(answers: tuple[list[Step], list[Step]]) -> None:
    beginning, whole = answers
    seam = Repeated(said(beginning), usage_asked=False)
    rest = seam.take(told(whole, OTHER)) + seam.take(event({}, "stop", OTHER))
    assert merged(beginning + heard(rest)) == merged(whole)
    assert seam.heard == sum(len(words.encode()) for _, words in whole)


@given(repeats(), st.data())
def test_a_repeated_answer_with_one_other_character_differs(
    answers: tuple[list[Step], list[Step]], data: st.DataObject
) -> None:
    beginning, _ = answers
    runs = merged(beginning)
    place = data.draw(st.integers(0, len(runs) - 1))
    kind, words = runs[place]
    at = data.draw(st.integers(0, len(words) - 1))
    other = words[:at] + ("a" if words[at] != "a" else "b") + words[at + 1 :]
    with pytest.raises(Differs):
        Repeated(said(beginning), usage_asked=False).take(told([*runs[:place], (kind, other), *runs[place + 1 :]]))


@given(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=6), st.data())
def test_a_continued_answer_is_read_as_one(texts: list[str], data: st.DataObject) -> None:
    text = "".join(texts)
    size = data.draw(st.integers(1, len(text)))
    known = said([("content", text[:size])])
    seam = Continued(known, usage_asked=False)
    out = seam.take(told([("content", text[size:])], OTHER))
    assert text[:size] + "".join(words for _, words in heard(out)) == text
    assert known.text == text
    assert heard(seam.take(event({}, "stop", OTHER))) == []
    assert known.unfit == "it was finished"


def test_every_end_before_all_is_repeated_differs() -> None:
    call = {"tool_calls": [{"index": 0, "id": "1", "type": "function", "function": {"name": "f", "arguments": ""}}]}
    for early in (event({}, "stop"), event(call), event({"content": "l"}, "stop"), event({"refusal": "No."})):
        seam = Repeated(said([("content", "Hello")]), usage_asked=False)
        with pytest.raises(Differs):
            seam.take(event({"content": "Hel"}) + early)


def test_text_and_its_finish_may_come_together() -> None:
    seam = Repeated(said([("content", "Hel")]), usage_asked=False)
    out = seam.take(event({**ROLE, "content": "Hello"}, "stop"))
    assert heard(out) == [("content", "lo")]
    assert b'"finish_reason":"stop"' in out


@pytest.mark.parametrize("seam", [Continued, Repeated])
def test_the_end_is_withheld_and_given_with_the_usage_of_all(seam: type[Seam]) -> None:
    asked = seam(said([("content", "Hel")]), usage_asked=True)
    usage = b'data: {"choices": [], "usage": {"prompt_tokens": 1}}\n\n'
    assert asked.take(usage + b"data: [DONE]\n\n") == b""
    chunk, done, nothing = asked.end(Usage(3, 4)).split(b"\n\n")
    assert (done, nothing) == (b"data: [DONE]", b"")
    found = json.loads(chunk.removeprefix(b"data: "))
    assert {name: found[name] for name in NAMES} == NAMES
    assert (found["choices"], found["usage"]["total_tokens"]) == ([], 7)
    assert asked.end(None) == seam(said([]), usage_asked=False).end(Usage(3, 4)) == b"data: [DONE]\n\n"
    assert json.loads(asked.take(event({"content": "Hello"})).removeprefix(b"data: "))["usage"] is None


@pytest.mark.parametrize(
    ("delta", "finish", "why"),
    [
        ({"tool_calls": [{"index": 0}]}, None, "a tool call was begun"),
        ({"function_call": {"name": "f"}}, None, "a tool call was begun"),
        ({"refusal": "No."}, None, "the model refused"),
        ({"content": "x"}, "length", "it was finished"),
    ],
)
def test_what_nothing_can_go_on_from_is_told(delta: Any, finish: str | None, why: str) -> None:
    found = said([("content", "Hello")])
    found.note(event(delta, finish))
    assert found.unfit == why
    assert found.runs == []


def test_only_so_much_is_remembered() -> None:
    found = Said(most=5)
    found.note(event({"content": "Hello"}))
    assert found.unfit == ""
    found.note(event({"content": "!"}))
    assert (found.unfit, found.runs) == ("too much was said", [])


def test_only_so_many_turns_between_text_and_thought_are_remembered() -> None:
    found = Said()
    turns = event({"content": "x"}) + event({"reasoning_content": "x"})
    found.note(turns * (MOST_RUNS // 2))
    assert found.unfit == ""
    found.note(turns)
    assert found.unfit == "too much was said"


def test_line_ends_are_remembered_as_they_were() -> None:
    assert said([("content", "a\r\nb\rc\n"), ("content", "\n")]).text == "a\r\nb\rc\n\n"


def test_what_is_unfit_from_the_start_is_not_looked_at() -> None:
    found = Said("audio was asked for")
    found.note(b"data: anything\n\n")
    assert (found.unfit, found.runs) == ("audio was asked for", [])


BODY = (
    b'{"model":"gpt-5.4", "messages" : [ {"role":"user","content":"Hi\\u00e9", "x":1.50} ], "seed": 7, "max_tokens": 9}'
)


def test_all_but_the_prefix_keeps_its_bytes() -> None:
    asked = continued(decode_chat(BODY), 'He said "é"', "message", 4)
    assert b'{"role":"user","content":"Hi\\u00e9", "x":1.50}' in asked.body
    assert json.loads(asked.body) == {
        "model": "gpt-5.4",
        "messages": [
            {"role": "user", "content": "Hié", "x": 1.5},
            {"role": "assistant", "content": 'He said "é"'},
        ],
        "seed": 7,
        "max_tokens": 4,
    }
    assert asked.max_tokens == 4
    assert asked.messages()[-1].content == 'He said "é"'


def test_no_limit_is_made_where_there_was_none() -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"Hi"}]}'
    assert json.loads(continued(decode_chat(body), "x", "prefix", None).body).keys() == {"model", "messages"}


def test_a_request_that_cannot_be_continued_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        continued(decode_chat(BODY), "x", "message", 0)


@given(st.text("ab", max_size=8), st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3))
def test_a_stop_string_cannot_lie_across_a_seam(text: str, stops: list[str]) -> None:
    spans = any(text.endswith(stop[:size]) for stop in stops for size in range(1, len(stop)))
    assert may_end_in_a_stop(text, tuple(stops)) == spans


def test_a_huge_stop_string_is_not_looked_for() -> None:
    assert may_end_in_a_stop("x", ("y" * 1001,))
    assert not may_end_in_a_stop("x", ("y" * 1000,))


def test_a_name_of_great_length_is_not_repeated_on_every_chunk() -> None:
    found = Said()
    found.note(event(ROLE, names={**NAMES, "system_fingerprint": "x" * 100_000}))
    assert found.names.keys() == NAMES.keys()
