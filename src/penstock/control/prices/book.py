"""The price list in the package `genai-prices`: which service a provider calls, and what a model costs there.

The package finds services by their URL and models by the names they go by, and knows the date or the time of day from
which a price holds. It is asked for that alone: its own arithmetic costs a hundred times ours, its way of looking up
by name remembers every name for ever, and what would fetch newer prices is not called.

A price list has prices for more than we count. What is priced by something else altogether (seconds, pages) has no
price here. Where tokens are priced, tokens are what is charged: those of pictures and sound as those of text, those
written to a cache as any of the prompt, and searches that a model makes by itself not at all. A fee for each request
is added. Variants (batch, flex, priority) are not told apart: the standard price holds.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

import genai_prices
from genai_prices import data
from genai_prices.types import ModelInfo, ModelPrice, StartDateConstraint, TieredPrices, TimeOfDateConstraint

from penstock.control.prices.rates import FREE, Rates, Tariff, per_million, tariff

VERSION = f"genai-prices {genai_prices.__version__}"

_SERVICES = {provider.id: provider for provider in data.providers}
_FREE = ":free"  # how a service ends the name of a model that costs nothing
_THOUSANDS = 1000  # a fee is given per thousand requests, a rate per million tokens


def service(kind: str | None, base_url: str | None) -> str | None:
    """Which service of the list is called at that URL: that whose URL it is, or else, such as for a gateway in between,
    the one of the name `kind`."""
    if base_url is not None:
        lower = base_url.lower()
        found = next((one.id for one in data.providers if re.match(one.api_pattern, lower)), None)
        if found is not None:
            return found
    return kind if kind in _SERVICES else None


def find(service: str, model: str, at: float) -> Tariff | None:
    """What the model costs there at that moment (Unix seconds), and from when and until when it does."""
    info = _SERVICES[service].find_model(model, all_providers=data.providers)
    if info is None:
        return None
    since, until = _span(info, at)
    price = info.get_prices(datetime.fromtimestamp(math.floor(at), UTC))
    return tariff(VERSION, _steps(info, price), since, until)


def _steps(info: ModelInfo, price: ModelPrice) -> tuple[tuple[int, Rates], ...]:
    given = [value for value in vars(price).values() if value is not None]
    if not given and info.id.endswith(_FREE):
        return ((-1, FREE),)
    if price.input_mtok is None:
        return ()
    starts = {tier.start for value in given if isinstance(value, TieredPrices) for tier in value.tiers}
    return (*((start, _rates(price, start)) for start in sorted(starts, reverse=True)), (-1, _rates(price, -1)))


def _rates(price: ModelPrice, above: int) -> Rates:
    """The rates of a prompt that has more tokens than `above`, but not more than the next step."""

    def rate(value: Decimal | TieredPrices | None) -> int | None:
        if isinstance(value, TieredPrices):
            value = next((tier.price for tier in reversed(value.tiers) if tier.start <= above), value.base)
        return None if value is None else per_million(value)

    prompt, completion = rate(price.input_mtok), rate(price.output_mtok)
    assert prompt is not None
    cached, reasoning = rate(price.cache_read_mtok), rate(price.output_reasoning_mtok)
    return Rates(
        prompt,
        prompt if cached is None else cached,
        completion,
        completion if reasoning is None else reasoning,
        (rate(price.requests_kcount) or 0) * _THOUSANDS,
    )


def _span(info: ModelInfo, at: float) -> tuple[float, float]:
    """The time around `at` in which no condition of its prices begins or ends to hold. Prices without any hold for
    ever, though not for what comes after them in a newer list."""
    if isinstance(info.prices, ModelPrice):
        return -math.inf, math.inf
    day = datetime.fromtimestamp(math.floor(at), UTC).date()
    moments = [-math.inf, math.inf]
    for one in info.prices:
        match one.constraint:
            case StartDateConstraint(start_date):
                moments.append(_moment(start_date, time()))
            case TimeOfDateConstraint(start, end):
                for near in (day - timedelta(1), day, day + timedelta(1)):
                    moments += (_moment(near, start), _moment(near, end))
    return max(moment for moment in moments if moment <= at), min(moment for moment in moments if moment > at)


def _moment(day: date, clock: time) -> float:
    """In Unix seconds; without a zone it is UTC."""
    return datetime.combine(day, clock if clock.tzinfo else clock.replace(tzinfo=UTC)).timestamp()
