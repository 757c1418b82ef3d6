"""Reads the [models.NAME] tables: which targets answer which name."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from penstock.config.problems import Path, nearest
from penstock.config.shapes import Model
from penstock.config.typed import Faults, build, keep

_LONGEST = 256


def check(name: str, raw: Any, providers: Collection[str], faults: Faults) -> Model | None:
    """The model; None, and a fault, where it cannot be built. `providers`: the names that may be targets."""
    path: Path = ("models", name)
    if not is_name(name.removesuffix("*")) and name != "*":
        fix = "write a name, with a single * at its end if it stands for every name that begins so"
        faults.add(path, "not a name for a model", fix)
    whole = _unquoted(name, raw)
    if whole is not None:
        faults.add(path, "a name with a dot in it needs quotes", f'write [models."{whole}"]')
        return None
    kept = keep(Model, raw, path, faults)
    targets = raw.get("targets") if isinstance(raw, dict) else None
    if targets == []:
        fix = 'name at least one, such as { provider = "openai" }'
        faults.add((*path, "targets"), "no target, so that nothing could answer", fix)
    for i, target in enumerate(targets if isinstance(targets, list) else ()):
        if isinstance(target, dict):
            _target(target, (*path, "targets", i), providers, faults)
    model = build(Model, kept, path, faults)
    if model is not None:
        _rescue(model, path, faults)
    return model


def _rescue(model: Model, path: Path, faults: Faults) -> None:
    """To continue answers takes a target that can; and that one can is of no use unless they are to be continued."""
    own = [(target, (*path, "targets", i)) for i, target in enumerate(model.targets)]
    for i, route in enumerate(model.for_keys):
        own += [(target, (*path, "for_keys", i, "targets", j)) for j, target in enumerate(route.targets)]
    able = [(*at, "continues") for target, at in own if target.continues is not None]
    if model.rescue == "continue" and not able:
        fix = 'set continues on a target that can, or take "splice" or "off"'
        faults.add((*path, "rescue"), "of no effect: no target continues an answer", fix)
    for at in able if model.rescue != "continue" else ():
        message = "of no effect: the answers of this model are not continued"
        faults.add(at, message, 'set rescue = "continue" on the model, or remove it')


def _target(target: dict[str, Any], path: Path, providers: Collection[str], faults: Faults) -> None:
    provider = target.get("provider")
    if isinstance(provider, str) and provider not in providers:
        fix = nearest(provider, providers, "add a [providers] table for it, or choose one of these")
        faults.add((*path, "provider"), f'the provider "{provider}" is not configured', fix)
    fixes = {
        "model": "write the exact name, or leave it out to pass it on",
        "like": 'write the name of a model that docs/providers.md knows, such as "gpt-5.4"',
    }
    for key, fix in fixes.items():
        if isinstance(target.get(key), str) and not is_name(target[key]):
            faults.add((*path, key), "not a name for a model", fix)


def _unquoted(name: str, raw: Any) -> str | None:
    """The name that was meant by ``[models.gpt-5.4]``, which to TOML is a table `4` in a table `gpt-5`."""
    whole, inner = name, raw
    while isinstance(inner, dict) and len(inner) == 1 and "targets" not in inner:
        ((part, inner),) = inner.items()
        whole += f".{part}"
    return whole if whole != name and isinstance(inner, dict) and "targets" in inner else None


def is_name(text: str) -> bool:
    """Whether `text` may name one model."""
    return 0 < len(text) <= _LONGEST and text.isprintable() and "*" not in text and text == text.strip()
