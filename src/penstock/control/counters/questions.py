"""A worker's question as the parent sees it: the limits that apply, what is to be taken of them, at which prices."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence

from penstock.limits import METERS, Limit
from penstock.link import Lease, Message
from penstock.stores.base import Bound, Refused
from penstock.types import Claim

Limits = tuple[Limit, ...]
LimitsOf = Callable[[str, str], Limits | Awaitable[Limits]]
"""The limits of a key and of its project, by their ids. The same object, as long as nothing about them changes.
Raises StoreUnavailable or TimeoutError."""

Rates = Callable[[str, str], tuple[float, float] | None]
"""Nano-dollars of a prompt and of a completion token, by provider and model; None where nobody knows."""

Prices = tuple[float, float]

AMPLE = 8  # of what is left, a capped answer whose length nobody said may have one part in so many

_KEYS = 16_384


class Ruling:
    """The limits that apply to a key's requests, and how a store counts each."""

    __slots__ = ("bounds", "limits", "nanos", "slots")

    def __init__(self, limits: Sequence[Limit], tag: str) -> None:
        self.limits = tuple(limits)
        self.bounds = tuple(_bound(limit, tag) for limit in limits)
        units = {bound.unit for bound in self.bounds}
        self.nanos = "nanos" in units
        self.slots = "slots" in units

    @property
    def priced(self) -> bool:
        """Whether a limit refuses by money."""
        return any(bound.unit == "nanos" and bound.enforced for bound in self.bounds)


class Rulings:
    """What applies to whom, remembered as long as it does not change."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, str], tuple[Limits, Ruling]] = {}

    def of(self, key_id: str, project_id: str, model: str, limits: Limits) -> Ruling:
        """`limits`: those of the key and its project, for all models."""
        by_model = any(limit.model for limit in limits)
        at = (key_id, project_id, model if by_model else "")
        known = self._known.get(at)
        if known is not None and known[0] is limits:
            return known[1]
        if len(self._known) >= _KEYS:
            self._known.clear()
        ruling = Ruling([limit for limit in limits if _applies(limit, model)], project_id or key_id)
        self._known[at] = limits, ruling
        return ruling


class Question:
    """One question until it is answered. `gone`: nobody waits for the answer any more; `probing`: its claim is more
    than there can be, to learn what there is; `recalled`: others have returned what lay unused; `tries`: at the store.
    """

    __slots__ = (
        *("asked", "claim", "completion", "gone", "prices", "probing", "recalled", "ruling", "send", "tries", "worker"),
    )

    def __init__(
        self, worker: int, asked: Lease, send: Callable[[Message], None], ruling: Ruling, prices: Prices
    ) -> None:
        self.worker = worker
        self.asked = asked
        self.send = send
        self.ruling = ruling
        self.prices = prices
        self.gone = self.probing = self.recalled = False
        self.tries = 0
        self.reserve(asked.completion_tokens)
        if asked.hard and asked.expected and (most := self._most()):
            self.probing = True
            self.reserve(most)

    def reserve(self, completion: int) -> None:
        """Ask for so many completion tokens."""
        prompt = self.asked.prompt_tokens
        nanos = math.ceil(prompt * self.prices[0] + completion * self.prices[1]) if self.ruling.nanos else 0
        self.completion = completion
        self.claim = Claim(1, prompt + completion, nanos, 1)

    @property
    def cap(self) -> int | None:
        """The completion tokens that the answer may have, where a limit caps them."""
        return self.completion if self.asked.hard and self._most() else None

    def may_fit(self, index: int) -> bool:
        """Whether a bound, if nothing were taken of it, would have room for this; by fewer completion tokens, if that
        is allowed."""
        bound = self.ruling.bounds[index]
        claim: int = getattr(self.claim, bound.unit)
        return claim <= bound.amount or self.ruling.limits[index].hard

    def fit(self, refused: Refused) -> bool:
        """Ask for fewer completion tokens, which the limits that cap them have room for; False where they have not."""
        if self.probing:
            self.probing = False
            rooms = [(short.index, self.room(short.index, short.left)) for short in refused.short]
            least = self.asked.completion_tokens
            wanted = min((max(least, room // AMPLE) for _, room in rooms if room is not None), default=least)
            capped = [room for index, room in rooms if room is not None and self.ruling.limits[index].hard]
            self.reserve(max(1, min(wanted, *capped) if capped else wanted))
            return True
        if not self.asked.hard:
            return False
        least = self.completion
        for short in refused.short:
            room = self.room(short.index, short.left)
            if room is None or not self.ruling.limits[short.index].hard:
                return False
            least = max(1, min(least, room))  # of one that is spent, the least, by which the refusal tells how long
        if least == self.completion:
            return False
        self.reserve(least)
        return True

    def _most(self) -> int:
        """More completion tokens than any limit that caps them can have room for; 0 where there is none."""
        most = 0
        for limit, bound in zip(self.ruling.limits, self.ruling.bounds, strict=True):
            if limit.hard and bound.enforced:
                if bound.unit == "tokens":
                    most = max(most, bound.amount + 1)
                elif bound.unit == "nanos" and self.prices[1]:
                    most = max(most, int(bound.amount / self.prices[1]) + 2)
        return most

    def room(self, index: int, left: int) -> int | None:
        """How many completion tokens `left` of a bound is enough for; None where it counts something else."""
        unit = self.ruling.bounds[index].unit
        if unit == "tokens":
            return left - self.asked.prompt_tokens
        if unit == "nanos" and self.prices[1]:
            return int((left - self.asked.prompt_tokens * self.prices[0]) / self.prices[1])
        return None


def dearest(targets: Sequence[tuple[str, str]], rates: Rates) -> Prices | str:
    """The highest price of each kind of token; or the target, as PROVIDER/MODEL, whose price nobody knows."""
    prompt = completion = 0.0
    for provider, model in targets:
        price = rates(provider, model)
        if price is None:
            return f"{provider}/{model}"
        prompt, completion = max(prompt, price[0]), max(completion, price[1])
    return prompt, completion


def _bound(limit: Limit, tag: str) -> Bound:
    meter = METERS[limit.meter]
    rolling = limit.rolling or meter.period == "minute"
    # a counter of another kind of window is another counter
    name = f"{limit.id}/rolling" if limit.rolling else limit.id
    return Bound(name, tag, meter.unit, meter.period, rolling, limit.amount, not limit.shadow)


def _applies(limit: Limit, model: str) -> bool:
    pattern = limit.model
    if pattern.endswith("*"):
        return model.startswith(pattern[:-1])
    return not pattern or pattern == model
