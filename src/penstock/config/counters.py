"""What `server.counters` may say of a Valkey or Redis, and how it is said without what proves who one is."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

SCHEMES = ("redis://", "rediss://", "unix://")


def where(url: str) -> str:
    """Names the server, by host or socket alone. `url` has no `fault`."""
    parts = urlsplit(url)
    at = parts.path if parts.scheme == "unix" else parts.netloc.rpartition("@")[2]
    return f"the counters' server at {unquote(at) or 'localhost'}"


def fault(url: str) -> str | None:
    """What is wrong with it; None where nothing is. It may hold a password, so the words do not repeat it."""
    if not url.startswith(SCHEMES):
        return "not a URL that begins with redis://, rediss:// or unix://"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "not a URL"
    if port == 0 or not url.isprintable() or " " in url:
        return "not a URL"
    return "a URL without the path of a socket" if parts.scheme == "unix" and not parts.path else None
