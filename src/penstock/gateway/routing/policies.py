"""In which order targets are tried: one function a policy, one row each.

A policy is given the targets that are usable and returns all of them, the first choice first; those behind it are where
the request goes if the first fails.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from penstock.providers.base import AnyRequest
from penstock.types import Target
from penstock.wire.chat import ChatRequest

EXPLORED = 0.05  # the share of requests that go anywhere, so that a target that has become quick is found out
BOUND = 1.25  # of the average load: who has more is not chosen for its warm cache


class Load(Protocol):
    """What is known of a target. `outstanding`: calls in flight; `latency`: the average time to the first event in
    seconds, 0.0 if unknown."""

    outstanding: int
    latency: float


class Scene(msgspec.Struct, frozen=True):
    """What a policy looks at. `draw` gives numbers from 0 up to 1."""

    asked: AnyRequest
    load: Callable[[Target], Load]
    draw: Callable[[], float] = random.random


Policy = Callable[[Sequence[Target], Scene], Sequence[Target]]


def ordered(targets: Sequence[Target], scene: Scene) -> Sequence[Target]:
    """As configured: the first one, the others in its place."""
    return targets


def weighted(targets: Sequence[Target], scene: Scene) -> Sequence[Target]:
    """At random, each by its weight."""
    # Drawing u**(1/w) for each and sorting gives every order the chance that drawing one by one would give it
    # (Efraimidis and Spirakis, 2006).
    return sorted(targets, key=lambda target: -(scene.draw() ** (1.0 / target.weight)))


def least_outstanding(targets: Sequence[Target], scene: Scene) -> Sequence[Target]:
    """The one with the fewest calls in flight for its weight; among equals at random."""
    return sorted(targets, key=lambda target: (scene.load(target).outstanding / target.weight, scene.draw()))


def lowest_latency(targets: Sequence[Target], scene: Scene) -> Sequence[Target]:
    """The one that has lately been quickest to its first event; now and then, any; and the unknown before all."""
    by_latency = sorted(targets, key=lambda target: (scene.load(target).latency, scene.draw()))
    if scene.draw() < EXPLORED:
        explored = by_latency.pop(int(scene.draw() * len(by_latency)))
        by_latency.insert(0, explored)
    return by_latency


def prefix_affinity(targets: Sequence[Target], scene: Scene) -> Sequence[Target]:
    """The one where this conversation began, so that its prompt cache is warm, unless it has too much to do.

    Rendezvous hashing: each target draws a number from the conversation's beginning and its own name, the highest
    wins. When a target comes or goes, only its own conversations move.
    """
    prefix = _prefix(scene.asked)
    ranked = sorted(targets, key=lambda target: _rank(prefix, target), reverse=True)
    loads = {target.key: scene.load(target).outstanding for target in ranked}
    weights = sum(target.weight for target in ranked)
    total = sum(loads.values()) + 1
    full = {target.key for target in ranked if loads[target.key] >= math.ceil(BOUND * total * target.weight / weights)}
    return sorted(ranked, key=lambda target: target.key in full)  # stable: among the full, the order stays


POLICIES: dict[str, Policy] = {
    "ordered": ordered,
    "weighted": weighted,
    "least_outstanding": least_outstanding,
    "lowest_latency": lowest_latency,
    "prefix_affinity": prefix_affinity,
}


def _prefix(asked: AnyRequest) -> bytes:
    """What stays the same while a conversation goes on: its messages up to the first of the user."""
    digest = hashlib.blake2b(digest_size=16)
    if not isinstance(asked, ChatRequest):
        digest.update(asked.body[:1024])
        return digest.digest()
    for message in asked.messages():
        digest.update(msgspec.json.encode(message))
        if message.role == "user":
            break
    return digest.digest()


def _rank(prefix: bytes, target: Target) -> float:
    digest = hashlib.blake2b(target.key.encode(), key=prefix, digest_size=8).digest()
    drawn = (int.from_bytes(digest, "big") + 1) / 2**64  # above 0, at most 1
    return math.inf if drawn >= 1.0 else -target.weight / math.log(drawn)
