"""What tokens cost: by the operator's prices, by the price list, and by nobody's."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import pytest
from genai_prices import Usage as ListedUsage
from genai_prices import data
from genai_prices.types import ModelInfo, ModelPrice, PriceCalculation, Provider, StartDateConstraint
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from penstock.config import Config, Price, Upstream
from penstock.control.prices import CONFIG, LOCAL, Book, Prices, book
from penstock.control.prices.rates import Tariff
from penstock.types import Usage

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC).timestamp()
MILLION = Usage(1_000_000, 1_000_000)


def prices_of(
    upstreams: dict[str, Upstream],
    prices: dict[str, Price] | None = None,
    load: Callable[[], Book] = lambda: book,
    most: int = 4096,
) -> Prices:
    return Prices(Config(providers=upstreams, prices=prices or {}), load, lambda: NOW, most)


class Asked:
    """A price list that has nothing, and notes what it is asked for."""

    VERSION = ""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def service(self, kind: str | None, base_url: str | None) -> str | None:
        return book.service(kind, base_url)

    def find(self, service: str, model: str, at: float) -> Tariff | None:
        self.asked.append((service, model))
        return None


class Only:
    """The price list, of which every provider calls one service."""

    VERSION = book.VERSION

    def __init__(self, service: str) -> None:
        self._service = service

    def service(self, kind: str | None, base_url: str | None) -> str | None:
        return self._service

    def find(self, service: str, model: str, at: float) -> Tariff | None:
        return book.find(service, model, at)


def upstream(kind: str, base_url: str | None = None) -> Upstream:
    return Upstream(name="it", type=kind, settings={} if base_url is None else {"base_url": base_url})


def listed(service: str = "openai", model: str = "gpt-4o-mini") -> tuple[Provider, ModelInfo]:
    provider = next(one for one in data.providers if one.id == service)
    info = provider.find_model(model)
    assert info is not None
    return provider, info


# -- the price list, against its own arithmetic

SERVICES = {provider.id: provider for provider in data.providers}
EVERY = {(provider.id, info.id): info for provider in data.providers for info in provider.models}
DATED = {name: info for name, info in EVERY.items() if not isinstance(info.prices, ModelPrice)}
TIERED = {name: info for name, info in EVERY.items() if "TieredPrices" in repr(info.prices)}
STEPS = st.sampled_from([32_000, 32_001, 128_000, 128_001, 200_000, 200_001, 256_000, 256_001, 272_000, 272_001])
TOKENS = st.one_of(st.integers(0, 100), st.integers(0, 2_000_000), STEPS)


def theirs(info: ModelInfo, provider: Provider, usage: Usage, at: datetime) -> PriceCalculation:
    counts = ListedUsage(
        input_tokens=usage.prompt_tokens,
        cache_read_tokens=usage.cached_tokens,
        output_tokens=usage.completion_tokens,
        output_reasoning_tokens=usage.reasoning_tokens,
        output_citation_tokens=0,
    )
    return info.calc_price(counts, provider, genai_request_timestamp=at)


def expected(info: ModelInfo, provider: Provider, usage: Usage, at: datetime) -> int | None:
    """What the list says, less what it says of prices that it does not have, which is zero."""
    price = info.get_prices(at)
    if price.input_mtok is None or (price.output_mtok is None and usage.completion_tokens):
        return 0 if price == ModelPrice() and info.id.endswith(":free") else None
    total = theirs(info, provider, usage, at).total_price * 10**9
    return int(total.quantize(Decimal(1), ROUND_HALF_UP))


def tokens(usage: Usage) -> tuple[int, int, int, int]:
    return usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, usage.reasoning_tokens


def cost(prices: Prices, provider: str, model: str, usage: Usage, at: float) -> tuple[int | None, str]:
    """Nano-dollars, and which prices say so."""
    tariff = prices.tariff(provider, model, at)
    nanos = tariff.cost(*tokens(usage))
    return nanos, "" if nanos is None else tariff.version


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    prompt, completion = draw(TOKENS), draw(TOKENS)
    return Usage(prompt, completion, draw(st.integers(0, prompt)), draw(st.integers(0, completion)))


def moments() -> st.SearchStrategy[datetime]:
    return st.datetimes(datetime(2024, 1, 1), datetime(2028, 1, 1)).map(lambda at: at.replace(tzinfo=UTC))


def models(some: dict[tuple[str, str], ModelInfo]) -> st.SearchStrategy[tuple[str, str]]:
    return st.sampled_from(sorted(some))


@settings(max_examples=600, deadline=None)
@given(st.one_of(models(EVERY), models(DATED), models(TIERED)), usages(), moments())
def test_every_model_of_the_price_list_costs_what_the_list_says(
    name: tuple[str, str], usage: Usage, at: datetime
) -> None:
    service, model = name
    found = SERVICES[service].find_model(model, all_providers=data.providers)
    tariff = book.find(service, model, at.timestamp())
    assert (found is None) == (tariff is None)
    if found is not None and tariff is not None:
        assert tariff.since <= at.timestamp() < tariff.until
        assert tariff.cost(*tokens(usage)) == expected(found, SERVICES[service], usage, at)


@settings(max_examples=150, deadline=None)
@given(models(DATED), usages(), st.lists(moments(), min_size=2, max_size=8))
def test_a_price_that_is_remembered_is_sought_again_when_it_changes(
    name: tuple[str, str], usage: Usage, times: list[datetime]
) -> None:
    service, model = name
    found = SERVICES[service].find_model(model)
    assume(found is not None and not isinstance(found.prices, ModelPrice))
    assert found is not None
    prices = prices_of({"it": upstream("openai")}, load=lambda: Only(service))
    near = [at + timedelta(microseconds=step) for at in edges(found) for step in (-1, 0, 1)]
    for at in [*times, *near]:
        nanos, _ = cost(prices, "it", model, usage, at.timestamp())
        assert nanos == expected(found, SERVICES[service], usage, at)


def edges(info: ModelInfo) -> list[datetime]:
    """The moments at which its price changes, some of those that come again each day."""
    assert not isinstance(info.prices, ModelPrice)
    found: list[datetime] = []
    for one in info.prices:
        constraint: Any = one.constraint
        if isinstance(constraint, StartDateConstraint):
            found.append(datetime.combine(constraint.start_date, datetime.min.time(), UTC))
        elif constraint is not None:
            for clock in (constraint.start_time, constraint.end_time):
                found.append(datetime.combine(datetime(2025, 3, 1), clock).replace(tzinfo=clock.tzinfo or UTC))
    return found


# -- what the price list does not say


def test_a_name_that_nobody_has_a_price_of_has_an_unknown_cost() -> None:
    prices = prices_of({"it": upstream("openai")})
    assert cost(prices, "it", "no-such-model", MILLION, NOW) == (None, "")
    assert prices.rates("it", "no-such-model") is None
    assert cost(prices, "another", "gpt-4o-mini", MILLION, NOW) == (None, "")


def test_what_is_priced_by_anything_but_tokens_has_an_unknown_cost() -> None:
    prices = prices_of({"it": upstream("mistral")})
    assert listed("mistral", "mistral-ocr-latest")[1].prices != ModelPrice()
    assert cost(prices, "it", "mistral-ocr-latest", MILLION, NOW) == (None, "")
    assert prices.rates("it", "mistral-ocr-latest") is None


def test_embeddings_cost_their_prompt_and_an_answer_by_a_model_without_a_price_for_one_is_unknown() -> None:
    prices = prices_of({"it": upstream("openai")})
    assert cost(prices, "it", "text-embedding-3-small", Usage(1_000_000), NOW) == (20_000_000, book.VERSION)
    assert cost(prices, "it", "text-embedding-3-small", MILLION, NOW) == (None, "")
    assert prices.rates("it", "text-embedding-3-small") == (20.0, 0.0)


def test_a_model_that_its_service_calls_free_costs_nothing() -> None:
    prices = prices_of({"it": upstream("openrouter")})
    assert cost(prices, "it", "qwen/qwq-32b:free", MILLION, NOW) == (0, book.VERSION)


def test_more_cached_tokens_than_the_prompt_has_are_as_many_as_it_has() -> None:
    prices = prices_of({"it": upstream("openai")})
    whole, _ = cost(prices, "it", "gpt-4o-mini", Usage(1000, 0, 1000), NOW)
    assert cost(prices, "it", "gpt-4o-mini", Usage(1000, 0, 9000), NOW)[0] == whole == 75_000


def test_a_cost_that_nobody_believes_is_unknown() -> None:
    prices = prices_of({"it": upstream("vllm")}, {"it/m": Price(1, 1)})
    assert cost(prices, "it", "m", Usage(10**12 - 1), NOW) == (10**15 - 1000, CONFIG)
    assert cost(prices, "it", "m", Usage(2**53 - 1), NOW) == (None, "")


def test_a_dated_name_has_the_price_of_its_model() -> None:
    prices = prices_of({"it": upstream("openai")})
    assert cost(prices, "it", "gpt-4o-mini-2024-07-18", MILLION, NOW) == (750_000_000, book.VERSION)


# -- whose price it is


@pytest.mark.parametrize(
    ("kind", "base_url", "service"),
    [
        ("openai", None, "openai"),
        ("openai", "https://API.openai.com/v1", "openai"),
        ("openai", "https://api.x.ai/v1", "x-ai"),
        ("openai", "https://gateway.example.com/v1", None),
        ("openai", "http://127.0.0.1:9000/v1", None),
        ("openai", "http://[::1]:9000/v1", None),
        ("openai", "http://localhost:9000/v1", None),
        ("vllm", "https://ours--serve.modal.run/v1", "modal"),
        ("groq", "http://127.0.0.1:9000/groq", "groq"),
        ("azure", "https://ours.openai.azure.com/openai/v1/", "azure"),
        ("azure", "https://llm.example.com/openai/v1/", "azure"),
        ("groq", None, "groq"),
        ("groq", "https://gateway.example.com/groq", "groq"),
        ("mistral", None, "mistral"),
        ("deepseek", None, "deepseek"),
        ("together", None, "together"),
        ("openrouter", None, "openrouter"),
        ("vllm", "http://10.0.0.20:8000/v1", None),
        ("sglang", None, None),
        ("ollama", None, None),
        ("llama-server", None, None),
    ],
)
def test_a_price_is_that_of_the_service_which_is_called(kind: str, base_url: str | None, service: str | None) -> None:
    asked = Asked()
    prices_of({"it": upstream(kind, base_url)}, load=lambda: asked).rates("it", "m")
    assert asked.asked == ([] if service is None else [(service, "m")])


def no_list() -> Book:
    raise AssertionError("the price list is not needed")


@pytest.mark.parametrize("base_url", ["http://127.0.0.1:9000/v1", "http://[::1]:9000/v1", "http://inference/v1"])
def test_a_server_without_a_public_name_needs_no_price_list(base_url: str) -> None:
    prices = prices_of({"it": upstream("openai", base_url), "other": upstream("vllm", base_url)}, load=no_list)
    prices.load()
    assert cost(prices, "it", "gpt-4o-mini", MILLION, NOW) == (None, "")


def test_a_model_of_this_host_costs_nothing_and_needs_no_price_list() -> None:
    prices = prices_of({"it": upstream("llama")}, load=no_list)
    prices.load()
    assert cost(prices, "it", "penstock-demo", MILLION, NOW) == (0, LOCAL)
    assert prices.rates("it", "penstock-demo") == (0.0, 0.0)


# -- the operator's own


def test_the_operators_price_comes_before_any_other() -> None:
    own = {"it/gpt-4o-mini": Price(0.1, 0.7, 0.03), "here/*": Price(1, 2)}
    prices = prices_of({"it": upstream("openai"), "here": upstream("llama")}, own)
    assert cost(prices, "it", "gpt-4o-mini", Usage(3, 1, 1), NOW) == (930, CONFIG)
    assert cost(prices, "here", "anything", Usage(5, 1, 5), NOW) == (7000, CONFIG)
    assert prices.rates("it", "gpt-4o-mini") == (100.0, 700.0)


def test_an_exact_name_comes_before_a_beginning_and_the_longest_beginning_first() -> None:
    own = {"it/*": Price(1, 1), "it/gpt-*": Price(2, 2), "it/gpt-5*": Price(3, 3), "it/gpt-5.4": Price(4, 4)}
    prices = prices_of({"it": upstream("openai")}, own)
    found = {name: cost(prices, "it", name, Usage(1), NOW)[0] for name in ("gpt-5.4", "gpt-5.4-mini", "gpt-4o", "o3")}
    assert found == {"gpt-5.4": 4000, "gpt-5.4-mini": 3000, "gpt-4o": 2000, "o3": 1000}


@given(st.decimals(0, 1000, places=9), st.integers(0, 10**7))
def test_a_price_counts_as_it_is_written(usd: Decimal, tokens: int) -> None:
    prices = prices_of({"it": upstream("vllm")}, {"it/m": Price(float(usd), 0)})
    nanos = (usd * tokens * 1000).quantize(Decimal(1), ROUND_HALF_UP)
    assert cost(prices, "it", "m", Usage(tokens), NOW) == (int(nanos), CONFIG)


def test_another_configuration_counts_at_once() -> None:
    prices = prices_of({"it": upstream("openai")}, {"it/m": Price(1, 1)})
    assert cost(prices, "it", "m", Usage(1), NOW)[0] == 1000
    prices.follow(Config(providers={"it": upstream("openai")}, prices={"it/m": Price(2, 1)}))
    assert cost(prices, "it", "m", Usage(1), NOW)[0] == 2000


def test_a_provider_that_is_gone_keeps_its_prices() -> None:
    prices = prices_of({"it": upstream("openai"), "mine": upstream("vllm")}, {"mine/m": Price(1, 1)})
    prices.follow(Config(providers={"new": upstream("llama")}, prices={"new/m": Price(2, 2)}))
    found = [cost(prices, name, "m", Usage(1), NOW)[0] for name in ("mine", "new")]
    assert found == [1000, 2000]
    assert cost(prices, "it", "gpt-4o-mini", MILLION, NOW) == (750_000_000, book.VERSION)


# -- reservations


def test_a_reservation_is_by_the_highest_price_that_a_token_may_have() -> None:
    provider, info = listed("openai", "gpt-5.4")
    rates = prices_of({"it": upstream("openai")}).rates("it", "gpt-5.4")
    assert rates is not None
    for tokens in (1000, 1_000_000):
        most = expected(info, provider, Usage(tokens, tokens), datetime.fromtimestamp(NOW, UTC))
        assert most is not None
        assert most <= tokens * sum(rates)


# -- memory and imports


def test_so_many_names_are_remembered_and_no_more() -> None:
    asked = Asked()
    prices = prices_of({"it": upstream("openai")}, load=lambda: asked, most=3)
    for name in ("a", "b", "c", "a", "d", "d", "b", "a"):
        cost(prices, "it", name, MILLION, NOW)
    assert [model for _, model in asked.asked] == ["a", "b", "c", "d", "a"]


def test_the_price_list_is_imported_by_who_needs_it_alone() -> None:
    code = "import sys, penstock.control.parent; print([m for m in sys.modules if m.startswith(('genai', 'pydantic'))])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_price_list_can_be_imported_in_a_thread() -> None:
    prices = prices_of({"it": upstream("openai")})
    asyncio.run(asyncio.to_thread(prices.load))
    assert cost(prices, "it", "gpt-4o-mini", MILLION, NOW)[0] == 750_000_000
