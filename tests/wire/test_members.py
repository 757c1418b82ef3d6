"""A repeated name is found wherever it stands, and nothing else is taken for one."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import InvalidRequest
from penstock.wire.members import join, refuse_repeats, split

SPACE = st.sampled_from(["", "", " ", "\n\t"])
NAMES = st.sampled_from(['"n"', '"nn"', '"\\u006e"', '"q\\""', '"\\\\"', '"é"', '""'])
VALUES = st.sampled_from(["1", "12", "-1", '"n"', '",\\"n\\":1"', "[1, 2]", '{"n": 1,"n":2}', "null", "{ }"])


@given(st.lists(st.tuples(SPACE, NAMES, SPACE, SPACE, VALUES, SPACE), max_size=5), SPACE)
def test_a_repeated_name_is_refused_and_no_other(
    written: list[tuple[str, str, str, str, str, str]], space: str
) -> None:
    members = ",".join(f"{a}{name}{b}:{c}{value}{d}" for a, name, b, c, value, d in written)
    body = f"{space}{{{members}{space}}}{space}".encode()
    names = [msgspec.json.decode(name, type=str) for _, name, *_ in written]
    repeated = {name for name in names if names.count(name) > 1}
    if not repeated:
        refuse_repeats(body, split(body))
        return
    with pytest.raises(InvalidRequest) as caught:
        refuse_repeats(body, split(body), "in.")
    assert caught.value.param in {f"in.{name}" for name in repeated}


def test_joined_members_keep_the_bytes_of_their_values() -> None:
    members = split(b' { "a" : 1.0e5 , "b":[1 , 2 ],"c":"\\u00e9" } ')
    assert join(members) == b'{"a":1.0e5,"b":[1 , 2 ],"c":"\\u00e9"}'


@pytest.mark.parametrize("body", [b"", b"{", b"{]", b'{"a":nan}', b'{"\xff":1}', b'{"a":' + b"[" * 100_000])
def test_what_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        split(body)
