"""Addresses to listen on: what is understood and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.config import Address, parse_listen


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8000", Address("127.0.0.1", 8000)),
        ("localhost:0", Address("localhost", 0)),
        ("[::1]:8000", Address("::1", 8000)),
        ("[::]:65535", Address("::", 65535)),
        ("api.example.com:80", Address("api.example.com", 80)),
        ("unix:/run/penstock.sock", Address("", None, "/run/penstock.sock")),
    ],
)
def test_an_address_to_listen_on_is_understood(text: str, address: Address) -> None:
    assert parse_listen(text) == address


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", ":8000", "8000", "localhost", "localhost:", "h:65536", "h:-1", "h:+1", "h: 1", "h:٣", "::1:8000"),
        *("[::1]", "[::1:8000", "[h]:1", "[127.0.0.1]:1", "256.0.0.1:1", "a b:1", "http://h:1", "h_:1/", "-h:1"),
        *("h\n:1", "h:1\n", "unix:", "unix:relative", "unix:/" + "x" * 107, "unix:/a\0b", "*:8000"),
    ],
)
def test_an_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_listen(text)


@given(st.text())
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    try:
        address = parse_listen(text)
    except ValueError:
        return
    assert (address.port is None) == (address.unix is not None)
