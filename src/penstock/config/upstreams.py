"""Reads the [providers.NAME] tables: what all providers have, and what the Struct of their type declares.

A type's settings are checked by what they are, not by which type they belong to: a string `env:NAME` or
`file:/path` is a secret kept elsewhere, one that ends in `.gguf` is a file of weights, `base_url` is where calls go,
`headers` are sent with them. What only the type can know it tells itself: where its Struct has a method
``problems(env)``, each (path, message, fix) that this yields is a fault, the path being that of a setting in the table.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import inspect

from penstock.config import files
from penstock.config.problems import Path, nearest
from penstock.config.shapes import Upstream
from penstock.config.typed import Faults, build, keep, unknown

Types = Mapping[str, type[msgspec.Struct]]

COMMON = tuple(field for field in Upstream.__struct_fields__ if field not in ("name", "type", "settings"))

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+\Z")  # RFC 9110, 5.6.2
_SECRET = re.compile(r"(^|[_-])(keys?|secrets?|tokens?|passwords?|authorization)\Z", re.IGNORECASE)
_RESERVED = frozenset(  # what the client or the form of the request decides
    (
        *("accept", "accept-encoding", "connection", "content-encoding", "content-length", "content-type", "expect"),
        *("host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"),
    )
)


def check(name: str, raw: Any, types: Types, env: Mapping[str, str], faults: Faults) -> Upstream | None:
    """The provider; None, and a fault, where it cannot be built."""
    path: Path = ("providers", name)
    if not _NAME.match(name):
        faults.add(path, "not a name for a provider", "use up to 64 letters, digits, dots, dashes and underscores")
    if not isinstance(raw, dict):
        faults.add(path, "expected a table", f"write [providers.{name}] and its settings below it")
        return None
    struct = _struct(raw, types, path, faults)
    common = keep(Upstream, {"name": name, "type": ""} | {key: raw[key] for key in COMMON if key in raw}, path, faults)
    common |= {"name": name, "type": raw.get("type") if struct else ""}
    for key in ("ca_file", "client_cert", "client_key"):
        if key in common:
            common[key] = files.expand(common[key], env, (*path, key), faults)
    settings: dict[str, Any] = {}
    if struct is not None:
        own = {key: value for key, value in raw.items() if key not in COMMON and key != "type"}
        settings = _settings(struct, own, path, env, faults)
        common["settings"] = settings
    _tls(struct, common, settings, path, faults)
    return build(Upstream, common, path, faults)


def check_settings(settings: Mapping[str, Any], path: Path, env: Mapping[str, str], faults: Faults) -> None:
    """What can be said of settings by what they are."""
    for at, value in strings(settings, path):
        files.reference(value, env, at, faults)
        if _is_reference(value):
            continue
        if value.endswith(".gguf"):
            files.gguf(value, at, faults)
        elif _is_secret(at) and not (value and value.isascii() and value.isprintable() and value == value.strip()):
            message = "not one line of plain ASCII" if value else "empty"
            faults.add(at, message, "write the secret alone, or env:NAME or file:/path")
    base_url = settings.get("base_url")
    if isinstance(base_url, str):
        _url(base_url, (*path, "base_url"), faults)
    headers = settings.get("headers")
    for name, value in headers.items() if isinstance(headers, Mapping) else ():
        if not faults.has((*path, "headers", name)):
            _header(name, value, (*path, "headers", name), faults)


def strings(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    """Every string in a value, with its path."""
    todo = [(path, value)]
    while todo:
        at, item = todo.pop()
        if isinstance(item, str):
            yield at, item
        elif isinstance(item, Mapping):
            todo += [((*at, str(name)), inner) for name, inner in item.items()]
        elif isinstance(item, list | tuple):
            todo += [((*at, i), inner) for i, inner in enumerate(item)]


def literal_secrets(upstream: Upstream) -> Iterator[Path]:
    """The settings that hold a secret itself, judged by their names, and not a reference to one."""
    for at, value in strings(upstream.settings, ("providers", upstream.name)):
        if value and not _is_reference(value) and _is_secret(at):
            yield at


def _is_reference(value: str) -> bool:
    return value.startswith(("env:", "file:"))


def _is_secret(path: Path) -> bool:
    """Whether the setting is one that secrets are kept in; an element of an array has its array's name."""
    names = [part for part in path[2:] if isinstance(part, str)]
    return bool(names) and _SECRET.search(names[-1]) is not None


def _struct(raw: dict[str, Any], types: Types, path: Path, faults: Faults) -> type[msgspec.Struct] | None:
    kind = raw.get("type")
    if kind is None:
        faults.add((*path, "type"), "missing", f"set type to one of: {', '.join(sorted(types))}")
    elif not isinstance(kind, str) or kind not in types:
        fix = nearest(kind if isinstance(kind, str) else "", types, "choose one of these")
        faults.add((*path, "type"), "no such type of provider", fix)
    else:
        return types[kind]
    return None


def _settings(
    struct: type[msgspec.Struct], own: dict[str, Any], path: Path, env: Mapping[str, str], faults: Faults
) -> dict[str, Any]:
    described = inspect.type_info(struct)
    assert isinstance(described, inspect.StructType)
    names = [field.encode_name for field in described.fields]
    unknown((key for key in own if key not in names), [*names, *COMMON, "type"], path, faults)
    kept = keep(struct, {key: value for key, value in own.items() if key in names}, path, faults)
    settings: dict[str, Any] = msgspec.to_builtins(_expanded(kept, env, path, faults))
    try:
        msgspec.msgpack.encode(settings)
    except (OverflowError, RecursionError):
        faults.add(path, "a setting is too large or nested too deeply", "write what docs/configuration.md says of it")
        return {}
    check_settings(settings, path, env, faults)
    built = build(struct, settings, path, faults)
    ask = getattr(built, "problems", None)
    if callable(ask):
        for inner, message, fix in ask(env):
            at = (*path, *inner)
            if not faults.has(at):
                faults.add(at, message, fix)
    return settings


def _expanded(value: Any, env: Mapping[str, str], path: Path, faults: Faults) -> Any:
    """The value with a leading ``~/`` of every path in it expanded, so that who reads it later need not."""
    if isinstance(value, dict):
        return {name: _expanded(item, env, (*path, name), faults) for name, item in value.items()}
    if isinstance(value, list):
        return [_expanded(item, env, (*path, i), faults) for i, item in enumerate(value)]
    if isinstance(value, str) and value.startswith(("~/", "file:~/")):
        scheme, tilde, rest = value.partition("~")
        return scheme + files.expand(tilde + rest, env, path, faults)
    return value


def _tls(
    struct: type[msgspec.Struct] | None, common: dict[str, Any], settings: dict[str, Any], path: Path, faults: Faults
) -> None:
    """Trust and certificate of the client; of no effect, and so at fault, where calls do not go over TLS."""
    given = [key for key in ("ca_file", "client_cert", "client_key") if key in common]
    base_url = settings.get("base_url")
    called = base_url.lower() if isinstance(base_url, str) else "https:" if _has_base_url(struct) else ""
    for key in given if not called.startswith("https:") and not faults.has((*path, "base_url")) else ():
        faults.add((*path, key), "of no effect: this provider is not called over https", f"remove {key}")
    if any(faults.has((*path, key)) for key in given):
        return
    if "ca_file" in common:
        files.authorities(common["ca_file"], (*path, "ca_file"), faults)
    paths = ((*path, "client_cert"), (*path, "client_key"))
    files.pair(common.get("client_cert"), common.get("client_key"), paths, faults)


def _has_base_url(struct: type[msgspec.Struct] | None) -> bool:
    """Whether the type may go over https by a default of its own; what is not known gets the benefit of the doubt."""
    return struct is None or "base_url" in struct.__struct_fields__


def _url(text: str, path: Path, faults: Faults) -> None:
    fix = "write it as https://api.example.com/v1"
    try:
        url = urlsplit(text)
        host, port = url.hostname, url.port
    except ValueError:
        faults.add(path, "not a URL", fix)
        return
    if any(not "!" <= char <= "~" for char in text):
        faults.add(path, "not a URL: it holds a space, a control byte or a letter outside ASCII", fix)
    elif url.scheme not in ("http", "https"):
        faults.add(path, "not an http or https URL", fix)
    elif url.username is not None or url.password is not None:
        faults.add(path, "holds credentials", "remove them, and set api_key or headers")
    elif not host or port == 0:
        faults.add(path, "no host" if not host else "port 0 cannot be called", fix)
    elif url.query or url.fragment or "?" in text or "#" in text:
        faults.add(path, "holds a query or a fragment", "remove it; parameters go into the setting query")


def _header(name: str, value: Any, path: Path, faults: Faults) -> None:
    if not _TOKEN.match(name):
        faults.add(path, "not the name of a header", "use letters, digits and dashes")
    elif name.lower() in _RESERVED:
        faults.add(path, "a header that Penstock sets itself", "remove it")
    elif isinstance(value, str) and not all(char == "\t" or " " <= char <= "~" for char in value):
        faults.add(path, "the value holds a control byte or a letter outside ASCII", "write plain ASCII")
