"""What a running server takes of a new configuration: everything but the settings that stand from its start on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from penstock.config.problems import Path, dotted
from penstock.config.shapes import Config, Server

# The settings of [server] that a running server changes; the others are bound to its sockets, processes and store.
RELOADED = ("trusted_proxies", "auth_failures", "auth_stale_max", "limits")
FIXED = tuple(name for name in Server.__struct_fields__ if name not in RELOADED)


class Changes(msgspec.Struct, frozen=True):
    """`config`: what is to be served from now on. `changed`: what is different there; `kept`: the settings whose new
    value needs a restart. Both name places in the file, and no values, which may be secrets."""

    config: Config
    changed: tuple[str, ...]
    kept: tuple[str, ...]


def changes(old: Config, new: Config) -> Changes:
    """What `new` makes of a server that serves `old`."""
    stays = {name: getattr(old.server, name) for name in FIXED}
    config = msgspec.structs.replace(new, server=msgspec.structs.replace(new.server, **stays))
    kept = [dotted(("server", name)) for name in FIXED if getattr(new.server, name) != stays[name]]
    changed = [
        place
        for name in Config.__struct_fields__
        if name != "warnings"
        for place in _differences(getattr(old, name), getattr(config, name), (name,))
    ]
    return Changes(config, tuple(changed), tuple(kept))


def _differences(old: Any, new: Any, path: Path) -> Iterator[str]:
    """In a table of tables by name, in others by setting."""
    if old == new:
        return
    if isinstance(old, dict):
        for name in [*old, *(name for name in new if name not in old)]:
            if name not in new:
                yield f"{dotted((*path, name))} (removed)"
            elif name not in old:
                yield f"{dotted((*path, name))} (added)"
            elif old[name] != new[name]:
                yield dotted((*path, name))
    elif isinstance(old, msgspec.Struct):
        for name in old.__struct_fields__:
            yield from _differences(getattr(old, name), getattr(new, name), (*path, name))
    else:
        yield dotted(path)
