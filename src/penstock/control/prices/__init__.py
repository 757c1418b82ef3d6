"""What tokens cost: in nano-dollars, at a configured provider and model, at a moment.

How it works: the price of a model is sought once and kept, as whole numbers that a cost is computed of without a
fraction getting lost (`rates`). The first that knows it says it: the operator's own `[prices]`; zero for a model that
runs on this host; the price list that comes in the package `genai-prices` (`book`), under the service that the
provider's base URL belongs to. A price that changes with the date or the time of day is kept until it changes, and
sought again when a cost at another moment is asked for.

What it refuses to do: to guess. Where nobody knows a price it is None, and a cost, too; zero is said of what is free.
It never asks the network: a newer price list comes with a newer package.

The price list is large and slow to import. It is loaded when it is needed first, and only if a provider may be in it;
who cannot wait calls `load` in a thread before. Names of models come from callers where a route passes them on, so
that only so many are remembered, known or not.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Protocol
from urllib.parse import urlsplit

from penstock.config import Config, Price, Upstream
from penstock.control.prices.rates import FREE, Rates, Tariff, per_million, tariff
from penstock.providers.registry import COMPATIBLE

LOCAL = "local"
CONFIG = "config"

MOST = 4096  # prices that are remembered

ANYBODYS = ("openai", "vllm", "sglang", "ollama", "llama-server")  # types that do not tell who is called


class Book(Protocol):
    """A price list; the module `penstock.control.prices.book` is one."""

    def service(self, kind: str | None, base_url: str | None) -> str | None:
        """Which service of the list is called at that URL; `kind`: what it is called by who chose it."""
        ...

    def find(self, service: str, model: str, at: float) -> Tariff | None:
        """What the model costs there at that moment (Unix seconds)."""
        ...


class Prices:
    """The prices that a configuration leads to. `load_book` imports the price list; `clock` tells Unix seconds."""

    def __init__(
        self, config: Config, load_book: Callable[[], Book], clock: Callable[[], float] = time.time, most: int = MOST
    ) -> None:
        self._load_book = load_book
        self._clock = clock
        self._most = most
        self._book: Book | None = None
        self._providers: dict[str, Upstream] = {}
        self._prices: dict[str, Price] = {}
        self.follow(config)

    def follow(self, config: Config) -> None:
        """Go by another configuration from now on. A provider that it does not have keeps its prices: requests that
        it was sent before are still to be paid for."""
        gone = self._providers.keys() - config.providers.keys()
        self._providers = config.providers | {name: self._providers[name] for name in gone}
        kept = {name: price for name, price in self._prices.items() if name.partition("/")[0] in gone}
        self._prices = config.prices | kept
        self._own = _Own(self._prices)
        self._services: dict[str, str | None] = {}
        self._known: dict[tuple[str, str], Tariff] = {}

    def load(self) -> None:
        """Import the price list, if a provider may be in it. May be called in a thread."""
        if self._book is None and any(map(_listed, self._providers.values())):
            self._book = self._load_book()

    def tariff(self, provider: str, model: str, at: float) -> Tariff:
        """What tokens cost there at that moment (Unix seconds), and by which prices: "config", "local", or the price
        list and its version. It has no steps where that is not known."""
        found = self._known.get((provider, model))
        if found is None or not found.since <= at < found.until:
            found = self._find(provider, model, at)
        return found

    def rates(self, provider: str, model: str) -> tuple[float, float] | None:
        """Nano-dollars to reserve for each token of a prompt and of a completion: the most that it can cost now."""
        return self.tariff(provider, model, self._clock()).highest

    def _find(self, provider: str, model: str, at: float) -> Tariff:
        found = self._seek(provider, model, at)
        self._known.pop((provider, model), None)
        if len(self._known) >= self._most:
            del self._known[next(iter(self._known))]
        self._known[provider, model] = found
        return found

    def _seek(self, provider: str, model: str, at: float) -> Tariff:
        own = self._own.of(provider, model)
        if own is not None:
            return own
        upstream = self._providers.get(provider)
        if upstream is None:
            return _UNKNOWN
        if upstream.type == "llama":
            return _LOCAL
        if not _listed(upstream):
            return _UNKNOWN
        if self._book is None:
            self._book = self._load_book()
        if provider not in self._services:
            kind = None if upstream.type in ANYBODYS else upstream.type
            self._services[provider] = self._book.service(kind, _base_url(upstream))
        service = self._services[provider]
        return (None if service is None else self._book.find(service, model, at)) or _UNKNOWN


class _Own:
    """The operator's prices: an exact name before a beginning, a longer beginning before a shorter one."""

    def __init__(self, prices: dict[str, Price]) -> None:
        self._exact: dict[str, Tariff] = {}
        beginnings: dict[str, Tariff] = {}
        for name, price in prices.items():
            if name.endswith("*"):
                beginnings[name[:-1]] = _tariff(price)
            else:
                self._exact[name] = _tariff(price)
        self._beginnings = sorted(beginnings.items(), key=lambda item: -len(item[0]))

    def of(self, provider: str, model: str) -> Tariff | None:
        name = f"{provider}/{model}"
        exact = self._exact.get(name)
        if exact is not None:
            return exact
        return next((price for beginning, price in self._beginnings if name.startswith(beginning)), None)


def _tariff(price: Price) -> Tariff:
    prompt, completion = (per_million(Decimal(str(usd))) for usd in (price.input, price.output))
    cached = prompt if price.cached_input is None else per_million(Decimal(str(price.cached_input)))
    return tariff(CONFIG, ((-1, Rates(prompt, cached, completion, completion)),))


def _listed(upstream: Upstream) -> bool:
    """Whether a price list may have it: not what runs here, nor a server of anybody's at an address without a name."""
    if upstream.type == "llama":
        return False
    host = urlsplit(_base_url(upstream) or "").hostname or ""
    return upstream.type not in ANYBODYS or not ("." not in host or _ADDRESS.fullmatch(host))


def _base_url(upstream: Upstream) -> str | None:
    """Where its calls go: what is configured, or the service's own."""
    given = upstream.settings.get("base_url")
    if isinstance(given, str):
        return given
    dialect = COMPATIBLE.get(upstream.type)
    return None if dialect is None else dialect.base_url


_ADDRESS = re.compile(r"[0-9.]+|.*:.*")  # of IP, in version 4 or 6

_LOCAL = tariff(LOCAL, ((-1, FREE),))
_UNKNOWN = tariff("", ())
