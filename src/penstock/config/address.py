"""Where to listen, as it is written: HOST:PORT, [v6]:PORT or unix:/path."""

from __future__ import annotations

import ipaddress
import re

import msgspec

HOW = "write HOST:PORT such as 127.0.0.1:8000, [::1]:8000 or 0.0.0.0:8000, or unix:/path/to/socket"

_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*\Z")
_UNIX_BYTES = 107  # sockaddr_un holds 108, the last of them NUL


class Address(msgspec.Struct, frozen=True):
    """A host and a port (0: one that the system picks), or the path of a unix socket; then `host` is empty."""

    host: str
    port: int | None = None
    unix: str | None = None


def parse_listen(text: str) -> Address:
    """Raises ValueError, which says what is wrong; `HOW` says what would be right."""
    if text.startswith("unix:"):
        return _unix(text.removeprefix("unix:"))
    host, colon, port = text.rpartition(":")
    if not colon:
        raise ValueError("a port is missing")
    if not re.fullmatch(r"[0-9]{1,5}", port, re.ASCII) or int(port) > 65535:
        raise ValueError("the port is not a number from 0 to 65535")
    if host.startswith("[") and host.endswith("]"):
        if not _is_address(host[1:-1], 6):
            raise ValueError("what stands in brackets is not an IPv6 address")
        return Address(host[1:-1], int(port))
    if ":" in host:
        raise ValueError("an IPv6 address needs brackets around it")
    if not is_host(host):
        raise ValueError("the host is missing" if not host else "the host is neither a name nor an address")
    return Address(host, int(port))


def is_host(text: str) -> bool:
    """Whether `text` is a host name or an IPv4 address."""
    if re.fullmatch(r"[0-9.]+", text):
        return _is_address(text, 4)
    return len(text) <= 253 and _NAME.match(text) is not None


def _unix(path: str) -> Address:
    if not path.startswith("/"):
        raise ValueError("the path of a unix socket must begin with /")
    if "\0" in path or len(path.encode("utf-8", "surrogatepass")) > _UNIX_BYTES:
        raise ValueError(f"the path of a unix socket has at most {_UNIX_BYTES} bytes, none of them NUL")
    return Address("", unix=path)


def _is_address(text: str, version: int) -> bool:
    try:
        return ipaddress.ip_address(text).version == version
    except ValueError:
        return False
