"""What `server.store` may say, and how it is said to people without what proves who one is."""

from __future__ import annotations

from urllib.parse import parse_qs, unquote, urlsplit

SCHEME = "postgresql://"


def where(store: str) -> str:
    """Names the database; of a URL the host and the database alone."""
    if store.startswith(("env:", "file:")):
        return f"the database that {store} names"
    if not store.startswith(SCHEME):
        return store
    parts = urlsplit(store)
    host = parts.netloc.rpartition("@")[2] or parse_qs(parts.query).get("host", ["localhost"])[0]
    name = unquote(parts.path.lstrip("/"))
    return f"PostgreSQL at {unquote(host)}" + (f", database {name}" if name else "")


def has_password(store: str) -> bool:
    """Whether the setting itself holds one."""
    if not store.startswith(SCHEME):
        return False
    parts = urlsplit(store)
    return bool(parts.password) or "password" in parse_qs(parts.query)


def fault(store: str) -> str | None:
    """What is wrong with it; None where nothing is. It may hold a password, so the words do not repeat it."""
    if store == "sqlite":
        return None
    if not store.startswith(SCHEME):
        return 'neither "sqlite" nor the URL of a PostgreSQL'
    try:
        parts = urlsplit(store)
        port = parts.port
    except ValueError:
        return "not a URL"
    return "not a URL" if port == 0 or not store.isprintable() or " " in store else None
