"""In which order targets are tried, policy by policy."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.gateway.routing.policies import POLICIES, Scene
from penstock.providers.base import AnyRequest
from penstock.types import Target
from penstock.wire.chat import decode_chat


class Load:
    def __init__(self, outstanding: int = 0, latency: float = 0.0) -> None:
        self.outstanding = outstanding
        self.latency = latency


def asked(*contents: str) -> AnyRequest:
    """A conversation: system, user, and then assistant and user in turn."""
    roles = ["system", "user", *["assistant", "user"] * len(contents)]
    messages = [{"role": role, "content": text} for role, text in zip(roles, contents, strict=False)]
    return decode_chat(msgspec.json.encode({"model": "m", "messages": messages}))


def targets(*weights: float) -> list[Target]:
    return [Target("m", f"p{i}", "m", key=f"p{i}/m", weight=weight) for i, weight in enumerate(weights)]


def order(
    policy: str, among: Sequence[Target], loads: dict[str, Load] | None = None, request: AnyRequest | None = None
) -> list[str]:
    known = loads or {}
    scene = Scene(request or asked("Be brief.", "Hello."), lambda target: known.get(target.provider, Load()))
    return [target.provider for target in POLICIES[policy](among, scene)]


@given(
    st.sampled_from(sorted(POLICIES)),
    st.lists(st.floats(0.01, 100.0), min_size=1, max_size=6),
    st.lists(st.tuples(st.integers(0, 50), st.floats(0.0, 10.0)), min_size=6, max_size=6),
)
def test_every_policy_gives_every_target_once(
    policy: str, weights: list[float], known: list[tuple[int, float]]
) -> None:
    loads = {f"p{i}": Load(*load) for i, load in enumerate(known)}
    assert sorted(order(policy, targets(*weights), loads)) == [f"p{i}" for i in range(len(weights))]


def test_ordered_keeps_the_configured_order() -> None:
    assert order("ordered", targets(1, 9, 5)) == ["p0", "p1", "p2"]


def test_weighted_shares_by_weight() -> None:
    random.seed(7)
    firsts = Counter(order("weighted", targets(1, 3))[0] for _ in range(4000))
    assert firsts["p1"] / 4000 == pytest.approx(0.75, abs=0.03)


def test_least_outstanding_goes_where_the_fewest_calls_are_for_the_weight() -> None:
    loads = {"p0": Load(4), "p1": Load(6), "p2": Load(9)}
    assert order("least_outstanding", targets(1, 1, 1), loads) == ["p0", "p1", "p2"]
    assert order("least_outstanding", targets(1, 1, 3), loads) == ["p2", "p0", "p1"]
    assert len({order("least_outstanding", targets(1, 1))[0] for _ in range(100)}) == 2, "equals share"


def test_lowest_latency_goes_to_the_quickest_and_tries_the_unknown_and_now_and_then_any() -> None:
    random.seed(7)
    loads = {"p0": Load(latency=0.9), "p1": Load(latency=0.1), "p2": Load(latency=0.5)}
    firsts = Counter(order("lowest_latency", targets(1, 1, 1), loads)[0] for _ in range(2000))
    assert firsts["p1"] / 2000 > 0.94
    assert firsts["p0"] > 5
    loads["p0"] = Load()
    firsts = Counter(order("lowest_latency", targets(1, 1, 1), loads)[0] for _ in range(200))
    assert firsts["p0"] > 180


def test_a_conversation_stays_where_it_began_and_others_spread() -> None:
    among = targets(1, 1, 1)
    first = order("prefix_affinity", among, request=asked("Be brief.", "Hello."))
    for turns in (("Hi!", "How are you?"), ("Hi!", "How are you?", "Fine.", "Good.")):
        assert order("prefix_affinity", among, request=asked("Be brief.", "Hello.", *turns)) == first
    spread = Counter(order("prefix_affinity", among, request=asked("Be brief.", f"Hello {i}."))[0] for i in range(600))
    assert all(150 < spread[target.provider] < 250 for target in among)


def test_weights_shift_the_conversations() -> None:
    spread = Counter(order("prefix_affinity", targets(1, 3), request=asked("", f"Hello {i}."))[0] for i in range(2000))
    assert spread["p1"] / 2000 == pytest.approx(0.75, abs=0.04)


def test_when_a_target_goes_only_its_own_conversations_move() -> None:
    among = targets(1, 1, 1, 1)
    for i in range(100):
        request = asked("", f"Hello {i}.")
        whole = order("prefix_affinity", among, request=request)
        without = order("prefix_affinity", among[:-1], request=request)
        assert without == [name for name in whole if name != "p3"]


def test_a_target_that_has_too_much_to_do_is_passed_over() -> None:
    among = targets(1, 1, 1)
    first, second, third = order("prefix_affinity", among)
    assert order("prefix_affinity", among, {first: Load(3), second: Load(2), third: Load(2)})[0] == first
    assert order("prefix_affinity", among, {first: Load(9), second: Load(2), third: Load(2)}) == [second, third, first]
