"""A host's limits in a test: the parent's counters and the admissions of its workers, joined by links that a test may
hold back, by a clock that it moves."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from penstock import link
from penstock.config import Counting
from penstock.control.counters import Board, Counters, Sources
from penstock.gateway.admission import Admission, Hold
from penstock.limits import Limit
from penstock.stores.base import History, Slices
from penstock.stores.slices import MemorySlices
from penstock.types import Claim, Principal, Settlement, Target
from penstock.wire.chat import ChatRequest, decode_chat

KEY = Principal("key_1", "one", limited=True)
TARGETS = (Target("gpt-5.4", "fake", "gpt-5.4"),)

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[link.Message] = msgspec.msgpack.Decoder(link.Message)


class Clock:
    """Monotonic and Unix seconds that move when told to."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self.unix = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.unix

    def move(self, seconds: float) -> None:
        self.now += seconds
        self.unix += seconds


class Link:
    """A worker's end and the parent's, each a queue of messages on their way. `held`: they wait to be delivered."""

    def __init__(self, host: Host, number: int) -> None:
        self.number = number
        self.host = host
        self.up: deque[link.Message] = deque()  # to the parent
        self.down: deque[link.Message] = deque()  # to the worker
        self.alive = True
        self.sent: list[link.Message] = []  # all that the worker ever sent
        config = Counting(max_wait=host.max_wait)
        self.admission = Admission(self.from_worker, host.board_cells, config, host.clock)

    def from_worker(self, message: link.Message) -> None:
        if self.alive:
            self.sent.append(message)
            self.up.append(_decoder.decode(_encoder.encode(message)))
            self.host.moved(self)

    def from_parent(self, message: link.Message) -> None:
        if self.alive:
            self.down.append(_decoder.decode(_encoder.encode(message)))
            self.host.moved(self)

    def deliver_up(self) -> None:
        """The next message to the parent arrives there."""
        message, counters = self.up.popleft(), self.host.counters
        match message:
            case link.Lease():
                counters.ask(self.number, message, self.from_parent)
            case link.Forget():
                counters.forget(self.number, message.ref)
            case link.Returned():
                counters.returned(self.number, message)

    def deliver_down(self) -> None:
        """The next message to the worker arrives there."""
        message = self.down.popleft()
        if isinstance(message, link.Recall):
            self.admission.on_recall(message)
        elif isinstance(message, link.KeysChanged):
            self.admission.return_unused()
        else:
            assert isinstance(message, link.Leased | link.Denied | link.Unpriced | link.Uncounted)
            self.admission.on_answer(message)


class Host:
    """`held`: messages are delivered by the test alone; else soon after they are sent, in order."""

    def __init__(
        self,
        limits: Sequence[Limit],
        workers: int = 1,
        *,
        held: bool = False,
        store: Slices | None = None,
        history: History | None = None,
        rates: Callable[[str, str], tuple[float, float] | None] = lambda provider, model: (100.0, 400.0),
        max_wait: float = 0.0,
        clock: Clock | None = None,
    ) -> None:
        self.limits = tuple(limits)
        self.clock = clock or Clock()
        self.held = held
        self.max_wait = max_wait
        self.board = Board(64)
        self.board_cells = self.board.cells
        self.store = store or MemorySlices(self.clock, self.clock.wall)
        sources = Sources(lambda key, project: self.limits, rates, history, self.clock.wall)
        self.counters = Counters(
            self.store, sources, self._tell, self.board, mark="m-", workers=workers, clock=self.clock
        )
        self.links = [Link(self, number) for number in range(workers)]

    def _tell(self, worker: int, message: link.Recall) -> bool:
        self.links[worker].from_parent(message)
        return self.links[worker].alive

    def moved(self, link: Link) -> None:
        if not self.held:
            asyncio.get_running_loop().call_soon(self.pump)

    def pump(self) -> None:
        """Deliver everything that is on its way."""
        while any(one.up or one.down for one in self.links):
            for one in self.links:
                while one.up:
                    one.deliver_up()
                while one.down:
                    one.deliver_down()

    def crash(self, number: int) -> Callable[[], None]:
        """A worker's process ends: what it had sent is read, and it starts anew. Returns what the parent gives back
        when the journal has been settled."""
        old = self.links[number]
        while old.up:
            old.deliver_up()
        old.alive = False
        self.links[number] = Link(self, number)
        return self.counters.gone(number)

    async def reserve(
        self, worker: int = 0, key: Principal = KEY, patience: float = float("inf"), **members: Any
    ) -> Hold:
        """A hold for one request, asked for in a worker. Raises Refusal."""
        held = self.links[worker].admission.reserve(key, asked(**members), TARGETS, patience)
        return held if isinstance(held, Hold) else await held


def asked(**members: Any) -> ChatRequest:
    """A request for a chat completion, of so many tokens as `members` make it."""
    body = {"model": "gpt-5.4", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 10, **members}
    return decode_chat(msgspec.json.encode({name: value for name, value in body.items() if value is not None}))


def settled(lease: str, reserved: Claim, actual: Claim) -> Settlement:
    """What became of a reservation."""
    assert reserved.requests == actual.requests
    return Settlement(lease, reserved.requests, reserved.tokens, reserved.nanos, actual.tokens, actual.nanos)
