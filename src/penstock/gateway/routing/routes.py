"""Which targets may answer a model: an exact name first, then the longest matching prefix (`gpt-*`), then `*`.

A target is left out when it is down, when its breaker is open, when it lacks what the request needs, or when it cannot
hold the conversation; what is left out is a value with its reason. The policy of the model puts the others in order. A
request that needs nothing in particular of a model whose targets are all well, in their configured order, gets the plan
that was made when the configuration was read.

A model may have routes of their own for some keys: other targets, or another policy.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

import msgspec

from penstock.config import Model, TargetConfig
from penstock.errors import InvalidRequest, ModelNotFound, Overloaded
from penstock.gateway.routing.needs import needs, unsuited
from penstock.gateway.routing.policies import POLICIES, Load, Policy, Scene, ordered
from penstock.providers.base import AnyRequest
from penstock.types import Dropped, Plan, Principal, Target

# By these, servers that are gateways themselves are told of other models to ask: OpenRouter, LiteLLM and the like.
# Whoever may use any model may use them.
_NAME_OTHERS = frozenset(
    {"context_window_fallbacks", "content_policy_fallbacks", "fallbacks", "models", "preset", "route"}
)

# Names under a pattern come from callers: few of them are remembered, and no long ones.
_MOST_NAMES = 4096
_LONGEST_NAME = 128

Lacks = Mapping[str, Collection[str]]


class Lane(Load, Protocol):
    """What is known of a target's health beside its load."""

    def ready_at(self, now: float) -> float:
        """From when it may be called; `now` if at once."""
        ...


class Lanes(Protocol):
    """What is known of all targets. `unwell`: the keys of those whose breaker is not closed."""

    @property
    def unwell(self) -> Collection[str]: ...

    def lane(self, target: Target) -> Lane: ...


class _Route(msgspec.Struct, frozen=True):
    """How a name is answered for some keys. `plain`: nothing has to be asked before its plan is used."""

    plan: Plan
    policy: Policy
    plain: bool
    keys: tuple[str, ...] = ()


class Routes:
    """The models table, ready for lookups. `lacks`: by provider, what none of its models can do."""

    def __init__(self, models: Mapping[str, Model], lacks: Lacks, clock: Callable[[], float] = time.monotonic) -> None:
        self._models = models
        self._lacks = lacks
        self._clock = clock
        self._exact = {name: self._routes(name, model, name) for name, model in models.items() if name[-1:] != "*"}
        prefixes = [name[:-1] for name in models if name[-1:] == "*"]
        self._prefixes = tuple(sorted(prefixes, key=len, reverse=True))
        self._matched: dict[str, tuple[_Route, ...]] = {}

    def keys(self) -> set[str]:
        """The keys of all targets."""
        return {
            _key(name, config, name)
            for name, model in self._models.items()
            for targets in (model.targets, *(key_route.targets for key_route in model.for_keys))
            for config in targets
        }

    def plan(self, asked: AnyRequest, principal: Principal, down: Mapping[str, str], lanes: Lanes) -> Plan:
        """The targets for a request. `down`: providers that cannot be used now, with reasons.

        None of them may be one that can be called now; then the plan says why, and when. Raises ModelNotFound for an
        unknown model or one that this key may not use, InvalidRequest where it names others beside it.
        """
        model = asked.model
        routes = self._exact.get(model) or self._matched.get(model) or self._by_prefix(model)
        if not routes or (principal.models and not allowed(model, principal)):
            raise not_found(model)
        if principal.models and not _NAME_OTHERS.isdisjoint(asked.fields):
            raise _names_others(min(_NAME_OTHERS & asked.fields))
        route = routes[0] if len(routes) == 1 else _for_key(routes, principal)
        if route.plain and not down and not lanes.unwell:
            return route.plan
        return self._choose(asked, route, down, lanes)

    def _choose(self, asked: AnyRequest, route: _Route, down: Mapping[str, str], lanes: Lanes) -> Plan:
        now = self._clock()
        usable, unfit, away = [], [], []
        targets = route.plan.targets
        needed = needs(asked) if any(target.lacks for target in targets) else frozenset()
        again = []  # when those with an open breaker may be called again
        for target in targets:
            ready_at = lanes.lane(target).ready_at(now)
            if target.provider in down:
                away.append(Dropped(target, down[target.provider]))
            elif ready_at > now:
                away.append(Dropped(target, f"its breaker is open for another {ready_at - now:.1f} s"))
                again.append(ready_at)
            elif why := unsuited(asked, needed, target):
                unfit.append(Dropped(target, why))
            else:
                usable.append(target)
        if not usable:  # one that is well says best itself what it cannot do
            usable, unfit = [dropped.target for dropped in unfit], []
        order = tuple(route.policy(usable, Scene(asked, lanes.lane))) if usable else ()
        ready_in = min(again) - now if again else 1.0
        return Plan(order, (*away, *unfit), route.plan.policy, route.plan.rescue, 0.0 if usable else ready_in)

    def _by_prefix(self, model: str) -> tuple[_Route, ...]:
        for prefix in self._prefixes:
            if model.startswith(prefix):
                name = prefix + "*"
                routes = self._routes(name, self._models[name], model)
                if len(self._matched) >= _MOST_NAMES:
                    self._matched.clear()
                if len(model) <= _LONGEST_NAME:
                    self._matched[model] = routes
                return routes
        return ()

    def names(self, principal: Principal) -> list[str]:
        """The exactly named models that this key may use. Patterns name no model, so they are not listed."""
        return [name for name in self._exact if allowed(name, principal)]

    def usable(self, down: Mapping[str, str]) -> bool:
        """Whether any model has a target that can be used."""
        return any(t.provider not in down for model in self._models.values() for t in model.targets)

    def find(self, model: str, principal: Principal) -> Target | None:
        """The first target of a model that this key may use, or None."""
        routes = self._exact.get(model) or self._matched.get(model) or self._by_prefix(model)
        if not routes or not allowed(model, principal):
            return None
        return _for_key(routes, principal).plan.targets[0]

    def _routes(self, route: str, model: Model, asked: str) -> tuple[_Route, ...]:
        """Those for some keys first, in their order; the one for everybody else last."""
        own = [
            self._route(route, model, asked, key_route.targets or model.targets, key_route.policy or model.policy)
            for key_route in model.for_keys
        ]
        named = [
            msgspec.structs.replace(one, keys=key_route.keys)
            for one, key_route in zip(own, model.for_keys, strict=True)
        ]
        return (*named, self._route(route, model, asked, model.targets, model.policy))

    def _route(self, route: str, model: Model, asked: str, configs: Sequence[TargetConfig], policy: str) -> _Route:
        targets = tuple(self._target(route, config, asked, model) for config in configs)
        chosen = POLICIES[policy]
        rescue = model.rescue if model.rescue != "off" else ""
        return _Route(Plan(targets, policy=policy, rescue=rescue), chosen, chosen is ordered and not _limited(targets))

    def _target(self, route: str, config: TargetConfig, asked: str, model: Model) -> Target:
        name = config.model or asked
        label = f"{config.provider}/{name}"
        return Target(
            route,
            config.provider,
            name,
            wildcard=config.model is None and route[-1:] == "*",
            label=label.encode() if label.isascii() and label.isprintable() else config.provider.encode(),
            like=config.like,
            drop_unsupported=model.drop_unsupported,
            key=_key(route, config, asked),
            weight=config.weight,
            context=config.context,
            lacks=tuple(sorted({*config.lacks, *self._lacks.get(config.provider, ())})),
            continues=config.continues,
            skips_malformed=model.malformed_events == "skip",
        )


def _key(route: str, config: TargetConfig, asked: str) -> str:
    """What tells a target from others; the models behind a wildcard share one."""
    return f"{config.provider}/{config.model or (route if route[-1:] == '*' else asked)}"


def _limited(targets: Sequence[Target]) -> bool:
    """Whether a request's needs may decide among the targets: a single one answers for itself."""
    return len(targets) > 1 and any(target.lacks or target.context for target in targets)


def _for_key(routes: Sequence[_Route], principal: Principal) -> _Route:
    """The first route that is meant for this key, by its name, or for everybody."""
    for route in routes:
        if not route.keys or any(matches(name, principal.name) for name in route.keys):
            return route
    return routes[-1]


def allowed(model: str, principal: Principal) -> bool:
    """Whether the key's models include this one."""
    return not principal.models or any(matches(name, model) for name in principal.models)


def matches(pattern: str, name: str) -> bool:
    """Whether a name is meant by a pattern: the same name, or a beginning with a ``*`` after it."""
    return name == pattern or (pattern[-1:] == "*" and name.startswith(pattern[:-1]))


def not_found(model: str) -> ModelNotFound:
    return ModelNotFound(f"The model `{shortened(model)}` does not exist or you do not have access to it.")


def unavailable(model: str, wait: float) -> Overloaded:
    """`wait`: seconds until it is worth another try."""
    # The reasons name files and hosts, which are the operator's business: they are in the log and the record.
    return Overloaded(
        f"No target of the model '{shortened(model)}' can answer now; try again shortly.",
        headers=((b"Retry-After", b"%d" % max(1, -int(-wait // 1))),),
    )


def _names_others(param: str) -> InvalidRequest:
    return InvalidRequest(
        f"Unsupported parameter: '{param}' may let other models answer, and this key may use certain ones alone.",
        param=param,
        code="unsupported_parameter",
    )


def shortened(text: str) -> str:
    """A caller's own words, cut to a bearable length."""
    return text if len(text) <= 64 else text[:61] + "..."
