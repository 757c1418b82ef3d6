"""Reads the [prices."PROVIDER/MODEL"] tables: what the operator says that tokens cost."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from penstock.config.problems import Path, nearest
from penstock.config.routes import is_name
from penstock.config.shapes import Price
from penstock.config.typed import Faults, build, keep


def check(name: str, raw: Any, providers: Collection[str], faults: Faults) -> Price | None:
    """The price; None, and a fault, where it cannot be built. `providers`: the names that are configured."""
    path: Path = ("prices", name)
    provider, slash, model = name.partition("/")
    if not slash:
        faults.add(path, "not a provider and a model", 'write [prices."PROVIDER/MODEL"], with the quotes')
        return None
    if provider not in providers:
        fix = nearest(provider, providers, "add a [providers] table for it, or choose one of these")
        faults.add(path, "the provider before the slash is not configured", fix)
    if model != "*" and not is_name(model.removesuffix("*")):
        fix = "write its name after the slash, with a single * at the end if it is for every name that begins so"
        faults.add(path, "not a name for a model", fix)
    return build(Price, keep(Price, raw, path, faults), path, faults)
