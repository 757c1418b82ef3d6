"""Deltas of tool calls, however a server numbers and repeats them, end in a form that joins to the same calls."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.wire.tool_calls import MAX_WAITING, ToolCalls, mend_calls, without_arguments


def mend(*chunks: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    calls = ToolCalls()
    found = []
    for chunk in chunks:
        mendings = calls.study(chunk)
        mended = mend_calls(msgspec.json.encode(chunk), mendings)
        found.append(msgspec.json.decode(msgspec.json.encode(mended)))
    return found


def function(name: str, arguments: Any = "", **members: Any) -> dict[str, Any]:
    """The first delta of a call."""
    return {**members, "type": "function", "function": {"name": name, "arguments": arguments}}


def test_deltas_in_order_need_nothing() -> None:
    calls = ToolCalls()
    assert (
        calls.study([{"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}]) is None
    )
    assert calls.study([{"index": 0, "function": {"arguments": "{"}}]) is None
    assert calls.study([{"index": 1, "id": "b", "type": "custom", "custom": {"name": "g", "input": ""}}]) is None
    assert calls.study([{"index": 0, "function": {"arguments": "}"}}, {"index": 1, "custom": {"input": "x"}}]) is None


def test_a_call_is_begun_once_it_has_a_name_and_with_all_that_came_before() -> None:
    early, named, more = mend(
        [{"index": 0, "id": "a", "function": {"arguments": '{"x"'}}],
        [{"index": 0, "function": {"name": "f", "arguments": ":1"}}],
        [{"index": 0, "function": {"arguments": "}"}}],
    )
    assert early == []
    assert named == [{"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x":1'}}]
    assert more == [{"index": 0, "function": {"arguments": "}"}}]


def test_calls_are_numbered_in_the_order_in_which_they_get_their_names() -> None:
    calls = mend([{"index": 0, "id": "a"}, function("g", index=1, id="b")], [function("f", index=0)])
    assert [[(call["index"], call["id"]) for call in chunk] for chunk in calls] == [[(0, "b")], [(1, "a")]]


def test_a_name_that_is_repeated_is_dropped() -> None:
    begun = function("f", index=0, id="a")
    more = {"index": 0, "function": {"name": "f", "arguments": "{}"}}
    assert mend([begun], [more]) == [[begun], [{"index": 0, "function": {"arguments": "{}"}}]]


def test_a_missing_id_is_made_and_one_that_comes_late_is_dropped() -> None:
    (begun,), (more,) = mend([function("f", index=0)], [{"index": 0, "id": "late", "function": {"arguments": "{}"}}])
    assert begun["id"].startswith("call_")
    assert more == {"index": 0, "function": {"arguments": "{}"}}


def test_calls_without_ids_and_indexes_are_told_apart_by_their_names_and_arguments() -> None:
    calls = mend(
        [function("f", "{}")], [function("f", {"x": 1})], [function("g", ""), {"function": {"arguments": "{}"}}]
    )
    assert [(call["index"], call["function"]["arguments"]) for chunk in calls for call in chunk] == [
        (0, "{}"),
        (1, '{"x":1}'),
        (2, ""),
        (2, "{}"),
    ]
    assert len({call["id"] for chunk in calls for call in chunk if "id" in call}) == 3


@pytest.mark.parametrize("kind", [None, "", "tool"])
def test_a_call_gets_its_type(kind: str | None) -> None:
    (begun,), (more,) = mend(
        [{**function("f", index=0, id="a"), "type": kind}],
        [{"index": 0, "type": kind, "function": {"arguments": "{}"}}],
    )
    assert begun["type"] == "function"
    assert more.get("type") in ((None,) if kind else (None, kind))


def test_arguments_that_wait_for_a_name_are_bounded() -> None:
    calls = ToolCalls()
    calls.study([{"index": 0, "function": {"arguments": "x" * MAX_WAITING}}])
    with pytest.raises(ValueError, match="without a name"):
        calls.study([{"index": 0, "function": {"arguments": "x"}}])


def test_calls_whose_arguments_never_came_are_known() -> None:
    calls = ToolCalls()
    calls.study([function("f", index=0, id="a"), function("g", "{}", index=1, id="b")])
    assert calls.bare == (0,)
    assert not calls.nameless
    assert without_arguments((0,)) == [{"index": msgspec.Raw(b"0"), "function": msgspec.Raw(b'{"arguments":"{}"}')}]


def test_a_new_id_under_a_used_index_begins_a_new_call() -> None:
    first = {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    assert mend([first], [{**first, "id": "b"}], [{"index": 0, "function": {"arguments": "!"}}])[1:] == [
        [{**first, "id": "b", "index": 1}],
        [{"index": 1, "function": {"arguments": "!"}}],
    ]


@pytest.mark.parametrize("beginning", ["", "{}"])
def test_calls_that_share_an_id_get_different_ones(beginning: str) -> None:
    first, second = (function("f", beginning, index=index, id="a") for index in (0, 1))
    more = [{"index": index, "function": {"arguments": "{}"}} for index in (0, 1)]
    found = mend([first], more[:1], [second], more[1:])
    assert found[0] == [first]
    (begun,) = found[2]
    assert begun == {**second, "id": begun["id"]}
    assert begun["id"].startswith("call_")
    assert found[3] == more[1:]


def test_an_id_that_comes_again_under_another_index_in_the_midst_of_arguments_continues_its_call() -> None:
    steps = [function("f", part, index=index, id="a") for index, part in enumerate(("", '{"x"', ":1}"))]
    begun, *others = (delta for (delta,) in mend(*([one] for one in steps)))
    assert begun == steps[0]
    assert others == [{"index": 0, "function": {"arguments": part}} for part in ('{"x"', ":1}")]


def test_a_missing_function_is_put_in_and_null_arguments_become_empty() -> None:
    begun = function("f", index=0, id="a")
    assert mend([begun], [{"index": 0}, {"index": 0, "function": {"arguments": None}}]) == [
        [begun],
        [{"index": 0, "function": {"arguments": ""}}, {"index": 0, "function": {"arguments": ""}}],
    ]


DELTAS: st.SearchStrategy[dict[str, object]] = st.fixed_dictionaries(
    {},
    optional={
        "index": st.one_of(st.none(), st.integers(-1, 3)),
        "id": st.sampled_from([None, "", "a", "b", "c"]),
        "type": st.just("function"),
        "function": st.one_of(
            st.none(),
            st.fixed_dictionaries(
                {},
                optional={
                    "name": st.sampled_from(["f", "g", "", None]),
                    "arguments": st.sampled_from(["{}", {}, None]),
                },
            ),
        ),
    },
)


@given(st.lists(st.lists(DELTAS, min_size=1, max_size=3), max_size=8))
def test_what_has_been_mended_needs_no_mending(chunks: list[list[dict[str, Any]]]) -> None:
    mended = mend(*chunks)
    again = ToolCalls()
    for chunk in mended:
        assert not chunk or again.study(chunk) is None
    begun: list[int] = []
    for delta in (delta for chunk in mended for delta in chunk):
        if delta["index"] not in begun:
            begun.append(delta["index"])
    assert begun == list(range(len(begun)))


def test_a_thousand_calls_make_no_delta_dear() -> None:
    calls = ToolCalls()
    for number in range(1000):
        assert calls.study([{"index": number, "id": f"call_{number}", **function("f")}]) is None
    began = time.process_time()
    calls.study([{"id": "call_0", "function": {"arguments": "x"}}] * 100_000)
    assert time.process_time() - began < 3.0


def test_letters_that_wait_for_a_name_are_bounded_over_all_calls() -> None:
    calls = ToolCalls()
    deltas = [{"index": number, "function": {"arguments": "x" * (MAX_WAITING // 5)}} for number in range(10)]
    calls.study(deltas[:5])
    with pytest.raises(ValueError, match="without a name"):
        calls.study(deltas[5:])
    named = ToolCalls()
    for number, delta in enumerate(deltas):
        named.study([delta])
        named.study([{"index": number, "function": {"name": "f"}}])
    assert not named.nameless
