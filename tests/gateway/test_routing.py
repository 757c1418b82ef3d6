"""Which targets a name leads to, for whom, and what is left out and why."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.config import KeyRoute, Model, TargetConfig
from penstock.errors import InvalidRequest, ModelNotFound
from penstock.gateway.routing import Routes, allowed, unavailable
from penstock.types import Dropped, Plan, Principal, Target
from penstock.wire.chat import ChatRequest, decode_chat
from penstock.wire.neighbours import NeighbourRequest, decode_completion
from support.gateway import to

ANYONE = Principal("key_any", "anyone")
NAMES = st.text("abc/-.", min_size=1, max_size=6)
PATTERNS = st.one_of(NAMES, NAMES.map(lambda name: name + "*"), st.just("*"))


class Load:
    """A target's health, as a test sets it."""

    def __init__(self, outstanding: int = 0, latency: float = 0.0, wait: float = 0.0) -> None:
        self.outstanding = outstanding
        self.latency = latency
        self.wait = wait

    def ready_at(self, now: float) -> float:
        return now + self.wait


class Lanes:
    """What is known of the targets, by the names of their providers."""

    def __init__(self, **loads: Load) -> None:
        self.loads = loads
        self.unwell = {name for name, load in loads.items() if load.wait}

    def lane(self, target: Target) -> Load:
        return self.loads.get(target.provider) or Load()


def asking(model: str) -> NeighbourRequest:
    return NeighbourRequest("embeddings", b"{}", model, frozenset())


def only(*models: str) -> Principal:
    return Principal("key_some", "someone", models)


def plan(routes: Routes, model: str, who: Principal = ANYONE, **down: str) -> Plan:
    return routes.plan(asking(model), who, down, Lanes())


def missing(routes: Routes, model: str, who: Principal = ANYONE) -> ModelNotFound:
    with pytest.raises(ModelNotFound) as caught:
        routes.plan(asking(model), who, {}, Lanes())
    return caught.value


def test_an_exact_name_comes_before_a_longer_prefix_before_a_shorter_one_before_the_star() -> None:
    names = ("*", "gpt-*", "gpt-5*", "gpt-5.4", "other")
    routes = Routes({name: to("p") for name in names}, {})
    found = {
        model: plan(routes, model).targets[0].route
        for model in ("gpt-5.4", "gpt-5.4-mini", "gpt-5", "gpt-4o", "gpt", "other", "others")
    }
    assert found == {
        "gpt-5.4": "gpt-5.4",
        "gpt-5.4-mini": "gpt-5*",
        "gpt-5": "gpt-5*",
        "gpt-4o": "gpt-*",
        "gpt": "*",
        "other": "other",
        "others": "*",
    }


@given(st.sets(PATTERNS), NAMES)
def test_the_route_is_always_the_most_exact_one_that_matches(configured: set[str], asked: str) -> None:
    routes = Routes({name: to("p") for name in sorted(configured)}, {})
    matching = [name for name in configured if name == asked or (name[-1] == "*" and asked.startswith(name[:-1]))]
    if not matching:
        missing(routes, asked)
        return
    best = asked if asked in configured else max(matching, key=len)
    (target,) = plan(routes, asked).targets
    key = f"p/{best if best[-1] == '*' else asked}"
    assert target == Target(best, "p", asked, wildcard=best != asked, label=f"p/{asked}".encode(), key=key)


def test_a_target_is_asked_for_its_own_model_or_for_the_name_as_given() -> None:
    targets = (TargetConfig("one"), TargetConfig("two", "other"))
    routes = Routes({"gpt-*": Model(targets), "chat": Model(targets)}, {})
    assert [(t.provider, t.model, t.wildcard) for t in plan(routes, "gpt-5.4").targets] == [
        ("one", "gpt-5.4", True),
        ("two", "other", False),
    ]
    assert [(t.provider, t.model, t.wildcard) for t in plan(routes, "chat").targets] == [
        ("one", "chat", False),
        ("two", "other", False),
    ]


def test_targets_keep_the_order_of_the_configuration_and_those_that_are_down_are_dropped_with_the_reason() -> None:
    routes = Routes({"m": to("one", "two", "three")}, {})
    everything = plan(routes, "m")
    assert [t.provider for t in everything.targets] == ["one", "two", "three"]
    assert everything.dropped == ()
    some = plan(routes, "m", one="it is loading", elsewhere="not concerned")
    assert [t.provider for t in some.targets] == ["two", "three"]
    assert some.dropped == (Dropped(everything.targets[0], "it is loading"),)


def test_a_model_whose_targets_are_all_down_is_a_503_that_keeps_the_reason_to_itself() -> None:
    routes = Routes({"m": to("one", "two")}, {})
    found = plan(routes, "m", one="/srv/weights.gguf is missing", two="10.0.0.7 is away")
    assert found.targets == ()
    assert [dropped.reason for dropped in found.dropped] == ["/srv/weights.gguf is missing", "10.0.0.7 is away"]
    refusal = unavailable("m", found.ready_in)
    assert (refusal.status, refusal.headers) == (503, ((b"Retry-After", b"1"),))
    assert refusal.message == "No target of the model 'm' can answer now; try again shortly."


def test_a_forbidden_model_is_told_in_the_words_of_one_that_does_not_exist() -> None:
    routes = Routes({"gpt-5.4": to("p"), "local": to("p")}, {})
    forbidden = missing(routes, "gpt-5.4", only("local"))
    unknown = missing(Routes({"local": to("p")}, {}), "gpt-5.4", only("local"))
    assert (forbidden.message, forbidden.code, forbidden.param) == (unknown.message, unknown.code, unknown.param)
    assert forbidden.message == "The model `gpt-5.4` does not exist or you do not have access to it."
    assert forbidden.code == "model_not_found"
    assert forbidden.param is None


def test_a_forbidden_model_that_is_down_is_still_only_forbidden() -> None:
    with pytest.raises(ModelNotFound):
        Routes({"m": to("p")}, {}).plan(asking("m"), only("other"), {"p": "away"}, Lanes())


def test_a_key_is_held_to_its_models_under_a_wildcard_route_too() -> None:
    routes = Routes({"*": to("p")}, {})
    who = only("gpt-5*", "local")
    for model in ("gpt-5", "gpt-5.4-mini", "local"):
        assert plan(routes, model, who).targets[0].model == model
    for model in ("gpt-4", "locals", "GPT-5", "", "*"):
        missing(routes, model, who)


@given(NAMES, st.lists(PATTERNS))
def test_rights_are_exact_names_and_prefixes_and_none_means_all(model: str, models: list[str]) -> None:
    expected = not models or any(
        model.startswith(pattern[:-1]) if pattern.endswith("*") else model == pattern for pattern in models
    )
    assert allowed(model, only(*models)) == expected


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
@pytest.mark.parametrize("name", ["models", "fallbacks", "route", "preset"])
def test_a_key_held_to_its_models_cannot_have_an_upstream_choose_others(name: str, endpoint: str) -> None:
    routes = Routes({"*": to("one")}, {})
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}], name: ["dear"]}).encode()
    request = decode_chat(body) if endpoint == "chat" else decode_completion(body)
    with pytest.raises(InvalidRequest) as caught:
        routes.plan(request, only("m"), {}, Lanes())
    assert (caught.value.param, caught.value.code) == (name, "unsupported_parameter")
    assert routes.plan(request, ANYONE, {}, Lanes()).targets
    null = decode_chat(body.replace(b'["dear"]', b"null"))
    assert routes.plan(null, only("m"), {}, Lanes()).targets, "null is nothing"
    with pytest.raises(ModelNotFound):
        routes.plan(request, only("other"), {}, Lanes())


def test_the_list_names_what_a_key_may_use_and_no_pattern() -> None:
    routes = Routes({"b": to("p"), "*": to("p"), "a": to("p"), "a-*": to("p")}, {})
    assert routes.names(ANYONE) == ["b", "a"]
    assert routes.names(only("a*")) == ["a"]
    assert routes.names(only("c")) == []


def test_a_long_name_is_cut_when_it_is_told() -> None:
    refusal = missing(Routes({}, {}), "x" * 1000)
    assert len(refusal.message) < 200


@pytest.mark.parametrize("model", ["naïve", "a\nb", "a\x7fb"])
def test_a_name_that_no_header_can_hold_leaves_the_label_to_the_provider(model: str) -> None:
    assert plan(Routes({"*": to("p")}, {}), model).targets[0].label == b"p"


def test_usable_means_that_some_model_has_a_target_that_is_up() -> None:
    routes = Routes({"a": to("one", "two"), "b": to("three")}, {})
    assert routes.usable({})
    assert routes.usable({"one": "", "three": ""})
    assert not routes.usable({"one": "", "two": "", "three": ""})
    assert not Routes({}, {}).usable({})


def chatting(**members: Any) -> ChatRequest:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hello."}], **members}
    return decode_chat(json.dumps(body).encode())


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}}
IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://a.test/b.png"}}]}]


@pytest.mark.parametrize(
    ("ability", "members"),
    [
        ("tools", {"tools": [TOOL]}),
        ("schema", {"response_format": SCHEMA}),
        ("json", {"response_format": {"type": "json_object"}}),
        ("images", {"messages": IMAGE}),
    ],
)
def test_a_target_that_lacks_what_a_request_needs_is_left_out(ability: Any, members: dict[str, Any]) -> None:
    model = Model((TargetConfig("one", lacks=(ability,)), TargetConfig("two")))
    routes = Routes({"m": model}, {})
    found = routes.plan(chatting(**members), ANYONE, {}, Lanes())
    assert [target.provider for target in found.targets] == ["two"]
    assert [(dropped.target.provider, dropped.reason) for dropped in found.dropped] == [("one", f"it lacks {ability}")]
    assert [target.provider for target in routes.plan(chatting(), ANYONE, {}, Lanes()).targets] == ["one", "two"]
    by_provider = Routes({"m": to("one", "two")}, {"one": (ability,)})
    assert by_provider.plan(chatting(**members), ANYONE, {}, Lanes()).targets[0].provider == "two"


def test_where_every_target_lacks_it_the_first_one_says_so_itself() -> None:
    routes = Routes({"m": to("one", "two")}, {"one": ("tools",), "two": ("tools",)})
    found = routes.plan(chatting(tools=[TOOL]), ANYONE, {}, Lanes())
    assert [target.provider for target in found.targets] == ["one", "two"]


def test_a_conversation_goes_where_it_fits() -> None:
    model = Model((TargetConfig("small", context=100), TargetConfig("large", context=100_000)))
    routes = Routes({"m": model}, {})
    long = chatting(messages=[{"role": "user", "content": "word " * 1000}])
    assert [target.provider for target in routes.plan(long, ANYONE, {}, Lanes()).targets] == ["large"]
    assert [target.provider for target in routes.plan(chatting(), ANYONE, {}, Lanes()).targets] == ["small", "large"]


def test_a_target_whose_breaker_is_open_is_left_out_and_says_for_how_long() -> None:
    routes = Routes({"m": to("one", "two")}, {}, lambda: 100.0)
    found = routes.plan(chatting(), ANYONE, {}, Lanes(one=Load(wait=1.5)))
    assert [target.provider for target in found.targets] == ["two"]
    assert [dropped.reason for dropped in found.dropped] == ["its breaker is open for another 1.5 s"]


def test_a_model_whose_breakers_are_all_open_says_when_to_come_back() -> None:
    routes = Routes({"m": to("one", "two")}, {}, lambda: 100.0)
    found = routes.plan(chatting(), ANYONE, {}, Lanes(one=Load(wait=9.0), two=Load(wait=2.1)))
    assert found.targets == ()
    assert [dropped.reason for dropped in found.dropped] == [
        "its breaker is open for another 9.0 s",
        "its breaker is open for another 2.1 s",
    ]
    assert unavailable("m", found.ready_in).headers == ((b"Retry-After", b"3"),)


def test_some_keys_have_targets_and_policies_of_their_own() -> None:
    model = Model(
        (TargetConfig("one"), TargetConfig("two")),
        for_keys=(
            KeyRoute(("batch-*",), (TargetConfig("cheap"),)),
            KeyRoute(("ops",), policy="least_outstanding"),
        ),
    )
    routes = Routes({"m": model}, {})
    lanes = Lanes(one=Load(outstanding=5))

    def first(name: str) -> str:
        return routes.plan(chatting(), Principal("key", name), {}, lanes).targets[0].provider

    assert [first(name) for name in ("alice", "batch-7", "ops", "batch")] == ["one", "cheap", "two", "one"]
