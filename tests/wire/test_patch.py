"""A patched body is the same object with the members changed, and every other value keeps its bytes."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import InvalidRequest
from penstock.wire.members import split
from penstock.wire.patch import patch

VALUES = [b"1.0e5", b"123456789012345678901234567890", rb'"\u00e9\/\ud83d\ude00"', b"[1 , 2 ]", b'{ "model" : "x" }']


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(b'{"model":"a","n":1}', b'{"model":"b","n":1}', id="in-place"),
        pytest.param(b'{"n":1}', b'{"n":1,"model":"b"}', id="appended"),
        pytest.param(b"{}", b'{"model":"b"}', id="alone"),
        pytest.param(b'{"x":{"model":"a"},"model":"a"}', b'{"x":{"model":"a"},"model":"b"}', id="nested-first"),
        pytest.param(b'{"x":{"model":"a"}}', b'{"x":{"model":"a"},"model":"b"}', id="only-nested"),
        pytest.param(b'{"user":"model"}', b'{"user":"model","model":"b"}', id="as-a-value"),
        pytest.param(rb'{"user":"\"model\":"}', rb'{"user":"\"model\":","model":"b"}', id="inside-a-string"),
        pytest.param(b'{"mod\\u0065l":"a","n":1}', b'{"model":"b","n":1}', id="escaped"),
        pytest.param(b'{"model":"a","model":"c"}', b'{"model":"b"}', id="twice"),
        pytest.param(b' { "model" : "a" , "n" : [ 1 ] } ', b'{"model":"b","n":[ 1 ]}', id="spaced"),
    ],
)
def test_only_the_top_level_member_is_set(before: bytes, after: bytes) -> None:
    assert patch(before, {"model": b'"b"'}) == after


def test_members_are_dropped() -> None:
    assert patch(b'{"a":1,"b":{"a":2},"c":3}', {"d": b"4"}, drop=("a", "c", "missing")) == b'{"b":{"a":2},"d":4}'


def test_a_dropped_member_that_is_also_set_is_set() -> None:
    assert patch(b'{"a":1,"b":2}', {"a": b"3"}, drop=("a",)) == b'{"b":2,"a":3}'


def test_nesting_at_the_limit_is_a_refusal() -> None:
    with pytest.raises(InvalidRequest):
        patch(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", {"b": b"1"})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["model", "stream_options"]), inner),
    max_leaves=10,
)
NAMES = st.sampled_from(["model", "stream_options", "stop", 'q"', "é"]) | st.text(max_size=3)


@given(
    whole=st.dictionaries(NAMES, JSON, max_size=5),
    put=st.dictionaries(NAMES, JSON, max_size=3),
    drop=st.sets(NAMES, max_size=2),
    ascii_=st.booleans(),
    separators=st.sampled_from([(",", ":"), (", ", ": "), ("\n, ", "\t:\r ")]),
)
def test_patching_is_setting_and_dropping_in_the_decoded_object(
    whole: dict[str, Any], put: dict[str, Any], drop: set[str], ascii_: bool, separators: tuple[str, str]
) -> None:
    body = json.dumps(whole, ensure_ascii=ascii_, separators=separators).encode()
    encoded = {name: json.dumps(value).encode() for name, value in put.items()}
    patched = patch(body, encoded, drop)
    assert json.loads(patched) == {name: value for name, value in whole.items() if name not in drop} | put


@given(st.dictionaries(NAMES, st.sampled_from(VALUES), min_size=1, max_size=6))
def test_every_value_that_is_not_touched_keeps_its_bytes(values: dict[str, bytes]) -> None:
    body = b"{" + b",".join(msgspec.json.encode(name) + b" : " + value for name, value in values.items()) + b"}"
    patched = split(patch(body, {"model": b'"b"'}))
    assert {name: bytes(value) for name, value in patched.items()} == values | {"model": b'"b"'}
