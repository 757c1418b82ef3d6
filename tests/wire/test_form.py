"""The form of a chunk: what fits one is what a decoder would take for the same chunk with other texts."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.wire.form import Form, form_of


def chunk(text: str, more: dict[str, Any] | None = None, ascii_: bool = False) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    members = {"id": "chatcmpl-1", "choices": [choice], **(more or {})}
    return b"data: %b\n\n" % json.dumps(members, separators=(",", ":"), ensure_ascii=ascii_).encode()


def form(data: bytes) -> Form:
    found = form_of(data)
    assert found is not None
    return found


TEXTS = st.text(st.characters(exclude_categories=["Cs"], max_codepoint=0xFFFF))


@given(TEXTS, TEXTS, st.booleans())
def test_a_chunk_that_differs_in_its_text_fits(first: str, second: str, ascii_: bool) -> None:
    known = form(chunk(first, ascii_=ascii_))
    assert known.fits(chunk(second, ascii_=ascii_))
    assert known.fits(chunk(""))


def test_a_text_in_utf_8_may_be_of_any_plane() -> None:
    assert form(chunk("@")).fits(chunk("\N{GRINNING FACE}"))


@given(TEXTS, st.text("abcXYZ", max_size=12))
def test_the_random_string_that_hides_a_length_may_differ_as_well(text: str, noise: str) -> None:
    known = form(chunk("one", {"usage": None, "obfuscation": "Rz"}))
    assert known.fits(chunk(text, {"usage": None, "obfuscation": noise}))
    assert not known.fits(chunk(text, {"usage": {}, "obfuscation": noise}))
    assert not known.fits(chunk(text, {"usage": None}))


@given(st.binary(max_size=8))
def test_what_fits_can_be_decoded_and_differs_in_nothing_but_the_text(text: bytes) -> None:
    plain = chunk("@")
    data = plain.replace(b"@", text)
    if form(plain).fits(data):
        members = json.loads(data.removeprefix(b"data: ").decode())
        members["choices"][0]["delta"]["content"] = "@"
        assert members == json.loads(plain.removeprefix(b"data: "))
        assert data.count(b"\n") == 2


@pytest.mark.parametrize(
    "text",
    [b'x","finish_reason":"stop', b"\\", b"\\x", b"\\u12", b"\\ud800", b"\n", b"\r", b"\0", b"\xff", b'x"'],
)
def test_what_is_no_text_does_not_fit(text: bytes) -> None:
    assert not form(chunk("@")).fits(chunk("@").replace(b"@", text))


@pytest.mark.parametrize(
    "other",
    [
        chunk("x").replace(b"chatcmpl-1", b"chatcmpl-2"),
        chunk("x").replace(b"null", b'"stop"'),
        chunk("x").replace(b'"content"', b'"refusal"'),
        chunk("x") + chunk("y"),
        chunk("x")[:-1],
        chunk("x")[1:],
        b"",
    ],
)
def test_what_differs_elsewhere_does_not_fit(other: bytes) -> None:
    assert not form(chunk("@")).fits(other)


def test_an_event_without_a_text_has_no_form() -> None:
    assert form_of(b'data: {"choices":[{"index":0,"delta":{"content":null}}]}\n\n') is None
    assert form_of(b'data: {"a":"\\"content\\":\\"x\\""}\n\n') is None
    assert form_of(b'data: {"content":"\\ud800"}\n\n') is None
    assert form_of(b"data: [" + b'{"content":"x"},' * 4 + b"1]\n\n") is None
