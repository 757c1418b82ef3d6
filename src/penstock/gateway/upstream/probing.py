"""Asks providers whose breakers are open whether they are back, for those that have a `probe` configured.

A server that answers its probe is called again at once: the next request is let through as the breaker's own probe,
instead of after its interval. So the interval may be long, that few requests are risked, and the way back short.
"""

from __future__ import annotations

import asyncio

from penstock.errors import ProviderFault
from penstock.gateway.upstream.health import State
from penstock.gateway.upstream.lanes import Entry, Lanes
from penstock.gateway.upstream.preparation import ask
from penstock.http.connecting import PoolError
from penstock.providers.base import Call

PROBE_SECONDS = 5.0
_REFUSED = (401, 403)  # it is there, and would refuse a call as well


class Prober:
    """The probes of a worker: at most one at a time for each provider."""

    def __init__(self) -> None:
        self._probing: dict[Entry, asyncio.Task[None]] = {}

    def sweep(self, lanes: Lanes) -> None:
        """Probe the providers that have an open breaker; called every second or so."""
        for lane in lanes.all().values():
            entry = lane.entry
            call = entry.provider.probe if lane.health.state is State.OPEN else None
            if call is not None and entry not in self._probing:
                self._probing[entry] = asyncio.create_task(self._probe(entry, call, lanes))

    def close(self) -> None:
        """Give up the probes that are out."""
        for task in self._probing.values():
            task.cancel()

    async def _probe(self, entry: Entry, call: Call, lanes: Lanes) -> None:
        try:
            reply = await ask(entry, call, lanes.clock() + PROBE_SECONDS)
        except (PoolError, ProviderFault):
            return
        finally:
            del self._probing[entry]
        if reply.status < 500 and reply.status not in _REFUSED:
            for lane in lanes.all().values():
                if lane.entry is entry:
                    lane.health.found_alive()
