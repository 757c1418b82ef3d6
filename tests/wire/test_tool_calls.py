"""Deltas of tool calls, however a server numbers and repeats them, end in a form that joins to the same calls."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from penstock.wire.tool_calls import CallMending, ToolCalls, mend_calls


def mend(*chunks: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    calls = ToolCalls()
    found = []
    for chunk in chunks:
        mendings = calls.study(chunk)
        found.append(
            chunk if mendings is None else msgspec.json.decode(mend_calls(msgspec.json.encode(chunk), mendings))
        )
    return found


def test_deltas_in_order_need_nothing() -> None:
    calls = ToolCalls()
    assert (
        calls.study([{"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}]) is None
    )
    assert calls.study([{"index": 0, "function": {"arguments": "{"}}]) is None
    assert calls.study([{"index": 1, "id": "b", "type": "custom", "custom": {"name": "g", "input": ""}}]) is None
    assert calls.study([{"index": 0, "function": {"arguments": "}"}}, {"index": 1, "custom": {"input": "x"}}]) is None


def test_an_id_or_a_name_that_comes_late_is_kept() -> None:
    calls = ToolCalls()
    assert calls.study([{"index": 0, "function": {"arguments": ""}}]) is None
    assert calls.study([{"index": 0, "id": "a", "function": {"name": "f"}}]) is None
    assert calls.study([{"index": 0, "id": "a", "function": {"name": "f"}}]) == (CallMending(0, True, True),)


def test_a_new_id_under_a_used_index_begins_a_new_call() -> None:
    first = {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    assert mend([first], [{**first, "id": "b"}], [{"index": 0, "function": {"arguments": "!"}}])[1:] == [
        [{**first, "id": "b", "index": 1}],
        [{"index": 1, "function": {"arguments": "!"}}],
    ]


def test_a_missing_function_is_put_in_and_null_arguments_become_empty() -> None:
    assert mend([{"index": 0, "id": "a"}], [{"index": 0, "function": {"arguments": None}}]) == [
        [{"index": 0, "id": "a", "function": {}}],
        [{"index": 0, "function": {"arguments": ""}}],
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
        assert again.study(chunk) is None
    begun: list[int] = []
    for delta in (delta for chunk in mended for delta in chunk):
        if delta["index"] not in begun:
            begun.append(delta["index"])
    assert begun == list(range(len(begun)))
