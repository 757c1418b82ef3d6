"""Says how a request would be routed, without sending it: the answer of POST /v1/penstock/explain."""

from __future__ import annotations

import time

from penstock.gateway.complete import Gateway
from penstock.types import JSON, Principal, Target
from penstock.wire.chat import decode_chat


def explain(gateway: Gateway, principal: Principal, body: bytes) -> JSON:
    """What would be done with the chat completion request `body`. Raises Refusal where it would be refused.

    The targets come in the order in which they would be tried now, each with its breaker and its load in this worker;
    a policy that draws lots draws again for the request itself. Where none can be called now, it is said of each why.
    """
    asked = decode_chat(body)
    lanes = gateway.upstreams.lanes
    plan = gateway.routes.plan(asked, principal, gateway.down, lanes)

    def shown(target: Target) -> JSON:
        lane = lanes.of(target)
        return {
            "provider": target.provider,
            "model": target.model,
            "breaker": lane.health.state.value,
            "outstanding": lane.health.outstanding,
            "latency_ms": round(lane.health.latency * 1000, 1) or None,
            "turn_in_ms": round(lane.gate.opens_in() * 1000) if lane.gate.pressed else 0,
        }

    known = (*plan.targets, *(dropped.target for dropped in plan.dropped))
    retries = gateway.upstreams.retries
    return {
        "object": "penstock.explanation",
        "created": int(time.time()),
        "model": asked.model,
        "route": known[0].route,
        "policy": plan.policy,
        "rescue": plan.rescue or "off",
        "targets": [shown(target) for target in plan.targets],
        "skipped": [
            {
                "provider": dropped.target.provider,
                "model": dropped.target.model,
                # Why a provider is down names files and hosts, which are the operator's business.
                "reason": "it is down" if dropped.target.provider in gateway.down else dropped.reason,
            }
            for dropped in plan.dropped
        ],
        "retries": {"attempts": retries.attempts, "first_wait": retries.first_wait, "max_wait": retries.max_wait},
    }
