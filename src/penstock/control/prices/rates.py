"""A model's price as whole numbers, and what tokens cost by it.

A price is given in dollars per million tokens, with up to 18 decimals. Times 10^18 it is a whole number, for each
token a multiple of 10^-24 dollars; the cost of a request is summed up in these and rounded once, to the nearest
nano-dollar.
"""

from __future__ import annotations

import math
from decimal import ROUND_HALF_UP, Decimal

import msgspec

_DECIMALS = 18
PER_NANO = 10**15  # of the unit of rates in a nano-dollar
_HALF = PER_NANO // 2
_MOST = 10**15 * PER_NANO  # a million dollars


class Rates(msgspec.Struct, frozen=True, gc=False):
    """What each token costs: of the prompt, of it what came from a cache, of the completion, of it what is reasoning.

    In 10^-24 dollars. `completion` is None where no price for one is known. `request`: what comes on top of each.
    """

    prompt: int
    cached: int
    completion: int | None
    reasoning: int | None
    request: int = 0


class Tariff(msgspec.Struct, frozen=True, gc=False):
    """What a model costs from `since` until `until` (Unix seconds), by the prices that `version` names.

    `steps`: rates, and the tokens that a prompt must have more than for all its request to go by them; the largest
    first, the last for all. Empty where the price is not known. `highest`: nano-dollars that a token of a prompt, and
    one of a completion, can cost at most.
    """

    version: str
    steps: tuple[tuple[int, Rates], ...]
    since: float = -math.inf
    until: float = math.inf
    highest: tuple[float, float] | None = None

    def cost(self, prompt: int, completion: int, cached: int = 0, reasoning: int = 0) -> int | None:
        """Nano-dollars for the tokens of one request; None where a price of any of them is not known, or where so many
        are reported that it would be a million dollars, which nobody believes and no sum in the ledger could hold.

        Of more cached tokens than the prompt has, or more reasoning than the completion, so many count as there are.
        """
        for above, rates in self.steps:
            if prompt <= above:
                continue
            total = prompt * rates.prompt + rates.request
            if cached:
                total += (rates.cached - rates.prompt) * (cached if cached < prompt else prompt)
            if completion:
                if rates.completion is None or rates.reasoning is None:
                    return None
                total += completion * rates.completion
                if rates.reasoning != rates.completion:
                    total += (rates.reasoning - rates.completion) * min(reasoning, completion)
            return (total + _HALF) // PER_NANO if total < _MOST else None
        return None


def tariff(
    version: str, steps: tuple[tuple[int, Rates], ...], since: float = -math.inf, until: float = math.inf
) -> Tariff:
    """A Tariff, with its highest rates."""
    highest = None
    if steps:
        prompt = max(max(rates.prompt, rates.cached) for _, rates in steps)
        completion = max(max(rates.completion or 0, rates.reasoning or 0) for _, rates in steps)
        highest = prompt / PER_NANO, completion / PER_NANO
    return Tariff(version, steps, since, until, highest)


def per_million(usd: Decimal) -> int:
    """The rate of a price in dollars per million."""
    return int(usd.scaleb(_DECIMALS).to_integral_value(ROUND_HALF_UP))


FREE = Rates(0, 0, 0, 0)
