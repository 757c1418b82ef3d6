"""Checks the [server] table beyond types: addresses, certificates, proxies, the store."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping

import msgspec

from penstock.config import counters as shared
from penstock.config import database, files
from penstock.config.address import HOW, Address, is_host, parse_listen
from penstock.config.problems import Path
from penstock.config.shapes import Server
from penstock.config.typed import Faults

PATH: Path = ("server",)


def check(server: Server, env: Mapping[str, str], faults: Faults) -> Server:
    """The same with the paths of the certificate expanded."""
    listen_apart(server, faults, (*PATH, "listen"), (*PATH, "admin_listen"))
    store = _store(server.store, env, faults)
    counters = _counters(server.counters, env, faults)
    paths = {}
    for name in ("tls_cert", "tls_key"):
        value = getattr(server, name)
        paths[name] = None if value is None else files.expand(value, env, (*PATH, name), faults)
    if not any(faults.has((*PATH, name)) for name in paths):
        files.pair(paths["tls_cert"], paths["tls_key"], ((*PATH, "tls_cert"), (*PATH, "tls_key")), faults)
    _networks(server.trusted_proxies, faults)
    for path, host in _elements(server.admin_hosts, (*PATH, "admin_hosts"), faults):
        if not is_host(host) and not _is_v6(host):
            fix = "write a host name or an address alone, without scheme, port or brackets"
            faults.add(path, "not a host name", fix)
    if not faults.has((*PATH, "limits")) and server.limits.body_bytes > server.limits.buffered_bytes:
        message = "more than buffered_bytes, so that such a body would never be taken"
        faults.add((*PATH, "limits", "body_bytes"), message, "lower body_bytes or raise buffered_bytes")
    return msgspec.structs.replace(server, store=store, counters=counters, **paths)


def _store(store: str, env: Mapping[str, str], faults: Faults) -> str:
    """The same with the path of a reference expanded; what it refers to is read when the store is opened."""
    path = (*PATH, "store")
    if store.startswith("file:"):
        store = "file:" + files.expand(store.removeprefix("file:"), env, path, faults)
    if faults.has(path):
        return store
    if store.startswith(("env:", "file:")):
        files.reference(store, env, path, faults)
    elif (message := database.fault(store)) is not None:
        faults.add(path, message, 'write "sqlite", "postgresql://USER@HOST/DATABASE", or env:NAME or file:/path of one')
    return store


def _counters(counters: str, env: Mapping[str, str], faults: Faults) -> str:
    """As `_store`."""
    path = (*PATH, "counters")
    if counters.startswith("file:"):
        counters = "file:" + files.expand(counters.removeprefix("file:"), env, path, faults)
    if faults.has(path):
        return counters
    if counters.startswith(("env:", "file:")):
        files.reference(counters, env, path, faults)
    elif counters != "local" and (message := shared.fault(counters)) is not None:
        fix = 'write "local", "redis://HOST:PORT", "rediss://HOST:PORT", "unix:///PATH", or env:NAME or file:/path'
        faults.add(path, message, fix)
    return counters


def listen_apart(server: Server, faults: Faults, listen: Path, admin_listen: Path) -> None:
    """Both addresses are well-formed, and two."""
    main, admin = _address(server.listen, listen, faults), _address(server.admin_listen, admin_listen, faults)
    if main is not None and admin is not None and _collide(main, admin):
        faults.add(admin_listen, "the same address as listen", "give the control plane a port of its own")


def _address(text: str, path: Path, faults: Faults) -> Address | None:
    if faults.has(path):
        return None
    try:
        return parse_listen(text)
    except ValueError as error:
        faults.add(path, str(error), HOW)
        return None


def _collide(one: Address, other: Address) -> bool:
    if one.unix is not None or one.port != other.port or one.port == 0:
        return one.unix is not None and one == other
    hosts = {one.host, other.host}
    return len(hosts) == 1 or "::" in hosts or ("0.0.0.0" in hosts and not any(":" in host for host in hosts))


def _networks(networks: tuple[str, ...], faults: Faults) -> None:
    for path, text in _elements(networks, (*PATH, "trusted_proxies"), faults):
        try:
            ipaddress.ip_network(text)
        except ValueError:
            try:
                whole = ipaddress.ip_network(text, strict=False)
            except ValueError:
                faults.add(path, "neither an address nor a network", "write it as 10.0.0.7, 10.0.0.0/8 or fd00::/8")
            else:
                faults.add(path, "an address within a network, not the network", f"write {whole} for all of it")


def _elements(values: tuple[str, ...], path: Path, faults: Faults) -> Iterator[tuple[Path, str]]:
    """Each value with its place in the file, where those that are no strings stood between them."""
    i = 0
    for value in values:
        while faults.has((*path, i)):
            i += 1
        yield (*path, i), value
        i += 1


def _is_v6(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).version == 6
    except ValueError:
        return False
