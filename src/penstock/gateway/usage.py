"""What a key has used, as the parent's ledger tells it; asked for by the key itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from penstock.errors import InvalidRequest, Overloaded
from penstock.link import UsageAnswer, UsageQuestion

PATH = b"/v1/penstock/usage"

Ask = Callable[[Callable[[int], UsageQuestion]], Awaitable[UsageAnswer | None]]


class Usage:
    """`ask` puts a question, given its number, to the parent: None where it does not answer."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    async def own(self, key_id: str, query: bytes) -> bytes:
        """The answer's body, for the query of a URL. Raises InvalidRequest and Overloaded."""
        found = await self._ask(lambda ref: UsageQuestion(ref, key_id, query))
        if found is not None and found.problem:
            raise InvalidRequest(f"{found.problem}.", param=found.param, code="invalid_value")
        if found is None or found.body is None:
            raise Overloaded("The usage ledger does not answer; try again shortly.", headers=((b"Retry-After", b"1"),))
        return found.body
