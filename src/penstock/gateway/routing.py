"""Which targets may answer a model: pure and synchronous.

An exact name comes first, then the longest matching prefix (`gpt-*`), then `*`. Targets keep their configured order;
one that cannot be used is dropped, and a dropped candidate is a value with its reason.
"""

from __future__ import annotations

from collections.abc import Mapping

from penstock.config import Model, TargetConfig
from penstock.errors import ModelNotFound, Overloaded
from penstock.types import Dropped, Plan, Principal, Target


class Routes:
    """The models table, ready for lookups."""

    def __init__(self, models: Mapping[str, Model]) -> None:
        self._models = models
        self._exact = {name: Plan(_targets(name, model, name)) for name, model in models.items() if name[-1:] != "*"}
        prefixes = [name[:-1] for name in models if name[-1:] == "*"]
        self._prefixes = tuple(sorted(prefixes, key=len, reverse=True))

    def plan(self, model: str, principal: Principal, down: Mapping[str, str]) -> Plan:
        """The targets for `model`. `down`: providers that cannot be used now, with reasons.

        Raises ModelNotFound for an unknown model or one that this key may not use; Overloaded when every target is
        down.
        """
        plan = self._exact.get(model) or self._by_prefix(model)
        if plan is None or not allowed(model, principal):
            raise not_found(model)
        if not down:
            return plan
        usable = tuple(target for target in plan.targets if target.provider not in down)
        dropped = tuple(Dropped(t, down[t.provider]) for t in plan.targets if t.provider in down)
        if not usable:
            # The reasons name files and hosts, which are the operator's business: they are in the log.
            raise Overloaded(
                f"No target of the model '{_short(model)}' can answer now; try again shortly.",
                headers=((b"Retry-After", b"1"),),
            )
        return Plan(usable, dropped)

    def _by_prefix(self, model: str) -> Plan | None:
        for prefix in self._prefixes:
            if model.startswith(prefix):
                route = prefix + "*"
                return Plan(_targets(route, self._models[route], model))
        return None

    def names(self, principal: Principal) -> list[str]:
        """The exactly named models that this key may use. Patterns name no model, so they are not listed."""
        return [name for name in self._exact if allowed(name, principal)]

    def usable(self, down: Mapping[str, str]) -> bool:
        """Whether any model has a target that can be used."""
        return any(t.provider not in down for model in self._models.values() for t in model.targets)

    def find(self, model: str, principal: Principal) -> Target | None:
        """The first target of a model that this key may use, or None."""
        plan = self._exact.get(model) or self._by_prefix(model)
        return plan.targets[0] if plan is not None and allowed(model, principal) else None


def allowed(model: str, principal: Principal) -> bool:
    """Whether the key's models include this one."""
    if not principal.models:
        return True
    return any(model == name or (name[-1:] == "*" and model.startswith(name[:-1])) for name in principal.models)


def not_found(model: str) -> ModelNotFound:
    return ModelNotFound(f"The model `{_short(model)}` does not exist or you do not have access to it.")


def _targets(route: str, model: Model, asked: str) -> tuple[Target, ...]:
    return tuple(_target(route, target, asked, model.drop_unsupported) for target in model.targets)


def _target(route: str, target: TargetConfig, asked: str, drop_unsupported: bool) -> Target:
    model = target.model or asked
    label = f"{target.provider}/{model}"
    return Target(
        route,
        target.provider,
        model,
        wildcard=target.model is None and route[-1:] == "*",
        label=label.encode() if label.isascii() and label.isprintable() else target.provider.encode(),
        like=target.like,
        drop_unsupported=drop_unsupported,
    )


def _short(text: str) -> str:
    """A caller's own words, cut to a bearable length."""
    return text if len(text) <= 64 else text[:61] + "..."
