"""The chunks of a stream are named as its first one is, and those that already are need no decoding."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.wire.naming import Naming
from support.chat_bodies import ABSENT

NOW = 1_760_000_123.75
NAMES = {"id": "chatcmpl-9f2b", "object": "chat.completion.chunk", "created": 1_760_000_000, "model": "gpt-5.4"}


def naming() -> Naming:
    return Naming("asked", lambda: NOW)


def is_known(names: Naming, data: bytes) -> bool:
    return data.startswith(names.before) and data.endswith(names.after)


def choices(text: str) -> list[dict[str, Any]]:
    return [{"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}]


def chunk(text: str = "a", **members: Any) -> bytes:
    whole = {**NAMES, "choices": choices(text), **members}
    return json.dumps({name: value for name, value in whole.items() if value is not ABSENT}).encode()


def ordered(order: tuple[str, ...], text: str = "a", members: dict[str, Any] | None = None) -> bytes:
    whole = {**NAMES, "choices": choices(text), "system_fingerprint": "fp_1", "usage": None, **(members or {})}
    return json.dumps({name: whole[name] for name in order}).encode()


LAYOUTS = {
    "OpenAI": ("id", "object", "created", "model", "system_fingerprint", "choices", "usage"),
    "llama-server": ("choices", "created", "id", "model", "system_fingerprint", "object"),
    "on both sides": ("id", "object", "created", "choices", "model", "usage"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_chunk_that_is_named_like_the_first_is_known_without_decoding(layout: str) -> None:
    names = naming()
    first = ordered(LAYOUTS[layout])
    assert not is_known(names, first)
    assert names.mend(first) is first
    assert is_known(names, ordered(LAYOUTS[layout], text='more, with ] and } and "id":"x" in it'))
    other: dict[str, Any] = {"id": "other", "object": "chat.completion", "created": 1, "model": "m"}
    for name, value in other.items():
        assert not is_known(names, ordered(LAYOUTS[layout], members={name: value}))


@pytest.mark.parametrize(
    "members",
    [
        {"id": "chatcmpl-other"},
        {"id": ""},
        {"id": ABSENT},
        {"created": 1_760_000_001},
        {"created": 1_760_000_000.0},
        {"created": None},
        {"model": "other"},
        {"model": ABSENT},
        {"object": "chat.completion"},
        {"object": ABSENT},
    ],
)
def test_a_chunk_that_is_named_otherwise_gets_the_names_of_the_first(members: dict[str, Any]) -> None:
    names = naming()
    names.mend(chunk())
    strange = chunk("b", x=[1], **members)
    assert not is_known(names, strange)
    assert json.loads(names.mend(strange)) == {**NAMES, "choices": choices("b"), "x": [1]}
    assert is_known(names, chunk("c"))


@pytest.mark.parametrize(
    ("created", "seconds"), [(1_760_000_000.9, 1_760_000_000), (ABSENT, int(NOW)), ("today", int(NOW)), (-1, int(NOW))]
)
def test_a_first_chunk_that_lacks_names_is_given_them(created: Any, seconds: int) -> None:
    names = naming()
    first = json.loads(names.mend(chunk(id=ABSENT, object=ABSENT, created=created, model=ABSENT)))
    assert first["id"].startswith("chatcmpl-")
    assert (first["object"], first["model"]) == ("chat.completion.chunk", "asked")
    assert (type(first["created"]), first["created"]) == (int, seconds)
    second = json.loads(names.mend(chunk("b", id=ABSENT, object=ABSENT, created=created, model=ABSENT)))
    assert {**first, "choices": choices("b")} == second


def test_a_notice_that_has_no_id_before_the_answer_has_one_is_dropped() -> None:
    names = naming()
    notice = json.dumps({"choices": [], "created": 0, "id": "", "model": "", "object": "", "prompt_filter_results": []})
    assert names.mend(notice.encode()) == b""
    assert names.mend(chunk()) == chunk()
    assert json.loads(names.mend(notice.encode())) == {**NAMES, "choices": [], "prompt_filter_results": []}


def test_a_value_that_no_name_has_keeps_its_bytes() -> None:
    names = naming()
    names.mend(chunk())
    out = names.mend(b'{"id":"x","n": 1.50e2, "choices": [ {"index" :0} ]}')
    assert b'"n":1.50e2' in out
    assert b'"choices":[ {"index" :0} ]' in out


MEMBERS = st.dictionaries(
    st.sampled_from([*NAMES, "choices", "x", "usage"]),
    st.one_of(st.sampled_from([*NAMES.values(), [], {}, None, "", '"choices"', "]", 1.0, True]), st.text(max_size=3)),
)


@given(st.lists(st.tuples(MEMBERS, st.permutations([*NAMES, "choices", "x"])), max_size=8), st.booleans())
def test_whatever_comes_all_that_goes_out_has_one_name(
    chunks: list[tuple[dict[str, Any], list[str]]], good: bool
) -> None:
    names = naming()
    out = []
    for members, order in chunks:
        whole = {**(NAMES if good else {}), **members}
        data = json.dumps({name: whole[name] for name in (*order, "usage") if name in whole}).encode()
        out.append(data if is_known(names, data) else names.mend(data))
    found = [json.loads(data) for data in out if data]
    assert len({(one["id"], one["object"], one["created"], one["model"]) for one in found}) <= 1
    assert all(one["id"] and type(one["created"]) is int for one in found)


def test_a_name_of_great_length_is_not_repeated_on_every_chunk() -> None:
    names = naming()
    long = "x" * 100_000
    found = [json.loads(names.mend(chunk(id=long, model=long))), json.loads(names.mend(chunk(id="b", model="c")))]
    assert {one["model"] for one in found} == {"asked"}
    assert found[0]["id"] == found[1]["id"]
    assert len(found[0]["id"]) < 100
