"""Finishes an answer that broke off when the client already had its beginning, where its model is so configured.

A `Rescue` stands between a stream and its relay and remembers what went out. When the answer breaks off, it asks for
another one that goes on from there, as one more attempt of the request, under the same rules (`upstream.retries`):

- "continue": the rest of the answer, of a target that can go on with a prefix (`wire.prefix`);
- "splice": the same request again; what repeats must be what the client has, and is swallowed.

`wire.seam` joins the two, so that the client sees one stream: one id, one role, one finish_reason, one [DONE], and the
usage of all attempts together. If the second answer breaks off as well, the next goes on from what was said by then.
Where nothing comes of it, whatever the reason, the client is told how the first answer ended, as without a rescue:
never that a target refused the prefix, or said something else.

Only what can be joined without a trace is rescued: a single choice, of text, without log probabilities, before any tool
call, refusal or finish_reason. In "continue" also not what has reasoned, which no target could be handed, what is bound
by a format, and what may have begun a stop string. At most a million characters are remembered for that.
"""

from __future__ import annotations

import time

import msgspec

from penstock.errors import Failure, FailureKind, ProviderFault, Refusal
from penstock.gateway.exchange import Exchange
from penstock.gateway.relay import Relay
from penstock.gateway.upstream import Answer, Output, Upstreams
from penstock.providers.base import AnyRequest
from penstock.types import Plan, Target
from penstock.wire.chat import ChatRequest
from penstock.wire.estimate import estimate
from penstock.wire.params import TextFormat
from penstock.wire.prefix import continued, may_end_in_a_stop
from penstock.wire.said import Said
from penstock.wire.seam import Continued, Differs, Repeated, Seam
from penstock.wire.usage import total

CONTINUE = "continue"


class Rescue:
    """The rescue of one request's answer, should it need one; until then an Output that notes what passes."""

    def __init__(self, relay: Relay, upstreams: Upstreams, asked: AnyRequest, plan: Plan, exchange: Exchange) -> None:
        self._relay = relay
        self._upstreams = upstreams
        self._asked = asked
        self._plan = plan
        self._exchange = exchange
        self._said = Said(_unfit(asked, plan.rescue))
        self._last = 0.0  # when the client got something, on the monotonic clock
        self._seam: Seam | None = None  # of the attempt that goes on
        self._prompt_bytes = len(asked.body)  # of the last attempt

    # -- Output of the first answer

    def commit(self, answer: Answer, data: bytes) -> None:
        self._relay.commit(answer, data)
        self._last = answer.first_event
        self._said.note(data)

    def write(self, data: bytes) -> None:
        self._relay.write(data)
        self._last = time.monotonic()
        self._said.note(data)

    # -- for the path of a request

    async def copy(self, answer: Answer) -> Answer:
        """Wait until a committed answer has been copied, all but its end; the one that ended it.

        Raises Refusal when it was cut off and nothing came of a rescue.
        """
        try:
            return await self._relay.copy(answer)
        except Refusal:
            whole = await self._rescue(answer)
            if whole is None:
                raise
            return whole

    # -- inside

    async def _rescue(self, broken: Answer) -> Answer | None:
        exchange, began = self._exchange, broken.target
        patience = exchange.patience - exchange.started
        try:
            while True:
                if self._said.unfit:
                    exchange.rescue = f"unfit: {self._said.unfit}"
                    return None
                self._account(broken, "partial")
                if why := self._unready():
                    exchange.rescue = f"unfit: {why}"
                    return None
                exchange.patience = self._last + patience
                answer = await self._upstreams.rescue(broken, self._targets(), self._ask, exchange)
                if answer is None:
                    exchange.rescue = "failed"
                    return None
                try:
                    await self._relay.copy(answer)
                except Refusal:
                    broken = answer
                    continue
                return self._finish(answer)
        finally:
            exchange.target = began  # which the head has named

    def _ask(self, target: Target) -> tuple[AnyRequest, Output]:
        """The request that goes on at this target, and the seam that its answer goes through."""
        asked = self._asked
        assert isinstance(asked, ChatRequest)
        repeats = True
        if self._plan.rescue == CONTINUE:
            assert target.continues is not None
            repeats = target.continues == "echoed_prefix"
            asked = continued(asked, self._said.text, target.continues, self._left())
        self._prompt_bytes = len(asked.body)
        self._seam = (Repeated if repeats else Continued)(self._said, asked.include_usage)
        return asked, _Onward(self, self._relay, self._seam, target)

    def _targets(self) -> list[Target]:
        targets = self._plan.targets
        return [one for one in targets if one.continues is not None or self._plan.rescue != CONTINUE]

    def _unready(self) -> str:
        """Why an answer cannot be continued from just here."""
        asked = self._asked
        assert isinstance(asked, ChatRequest)
        if self._plan.rescue != CONTINUE:
            return ""
        if self._said.reasoned:
            return "it reasoned"
        if not self._said.text:
            return "nothing was said"
        if may_end_in_a_stop(self._said.text, asked.stop):
            return "a stop string may have begun"
        left = self._left()
        return "the token limit is spent" if left is not None and left < 1 else ""

    def _left(self) -> int | None:
        """The tokens that may still be generated: most servers send one a chunk, which may be the better guess."""
        asked, spent = self._asked, self._exchange.spent
        assert isinstance(asked, ChatRequest)
        if asked.max_tokens is None or spent is None:
            return None
        return asked.max_tokens - max(spent.completion_tokens, self._said.texts)

    def passed(self) -> None:
        """The client got something of an answer that goes on."""
        self._last = time.monotonic()

    def _finish(self, answer: Answer) -> Answer | None:
        """Give the answer that went on the end of the stream that the client sees."""
        assert self._seam is not None
        exchange = self._exchange
        try:
            tail = self._seam.take(answer.tail)
        except Differs:
            exchange.rescue = "failed"
            return None
        self._account(answer, "estimated")
        answer.tail = tail + self._seam.end(exchange.usage)
        exchange.rescue = "continued" if self._plan.rescue == CONTINUE else "spliced"
        return answer

    def _account(self, answer: Answer, source: str) -> None:
        """Note the usage of the last attempt, with it and in the sum; what was not reported is estimated."""
        exchange = self._exchange
        usage = answer.reader.usage
        if usage is None:
            heard = self._said.size if self._seam is None else self._seam.heard
            usage = msgspec.structs.replace(estimate(self._prompt_bytes, heard), source=source)
        exchange.attempts[-1] = msgspec.structs.replace(exchange.attempts[-1], usage=usage)
        exchange.spent = exchange.usage = usage if exchange.spent is None else total(exchange.spent, usage)


class _Onward:
    """The Output of an answer that goes on with another: through the seam to the same client."""

    def __init__(self, rescue: Rescue, relay: Relay, seam: Seam, target: Target) -> None:
        self._rescue = rescue
        self._relay = relay
        self._seam = seam
        self._target = target

    def commit(self, answer: Answer, data: bytes) -> None:
        self._relay.go_on(answer)
        self.write(data)

    def write(self, data: bytes) -> None:
        try:
            out = self._seam.take(data)
        except Differs:
            message = f"The provider '{self._target.provider}' did not go on with the answer that had been begun."
            raise ProviderFault(Failure(FailureKind.DIFFERS, message)) from None
        if out:
            self._relay.write(out)
            self._rescue.passed()


def _unfit(asked: AnyRequest, rescue: str) -> str:
    """Why no answer to this request can be rescued; empty if some can."""
    if not isinstance(asked, ChatRequest):
        return "it is no chat completion"
    if asked.n > 1:
        return "there are several choices"
    if asked.logprobs:
        return "log probabilities were asked for"
    if "audio" in asked.modalities:
        return "audio was asked for"
    if rescue == CONTINUE:
        if asked.messages()[-1].role == "assistant":
            return "the request has a prefix of its own"
        if asked.response_format is not None and not isinstance(asked.response_format, TextFormat):
            return "a format was asked for"
    return ""
