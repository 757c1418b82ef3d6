"""The messages between parent and worker over a socket pair, and their codec.

A frame is a four-byte big-endian length and that many bytes of MessagePack. Either side that sees the other
close knows that it is gone: a worker then stops, and the parent forgets what that worker held.
Sending never blocks: frames queue in the transport. Answers carry the `ref` of their question.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import cast

import msgspec

from penstock.config import Config
from penstock.limits import Scope
from penstock.types import Claim, EngineAddress, KeptAnswer, Page, Principal, Replay, Run

MAX_FRAME = 16 * 1024 * 1024


class Metric(msgspec.Struct, frozen=True):
    """What a series means: `kind` is counter, gauge or histogram (then `bounds` are its upper bounds)."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()


_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)

# A label's value comes from the configuration or from a fixed set, never from a client's text.
METRICS = (
    Metric("penstock_requests_total", "counter", "Answered requests.", ("model", "provider", "status", "ended")),
    Metric("penstock_tokens_total", "counter", "Tokens reported by upstreams.", ("model", "provider", "kind")),
    Metric(
        "penstock_time_to_first_event_seconds",
        "histogram",
        "Of streams: from the request's head to the first event with content.",
        ("model", "provider"),
        _SECONDS,
    ),
    Metric(
        "penstock_request_duration_seconds",
        "histogram",
        "From the request's head to the end of the answer.",
        ("model", "provider"),
        _SECONDS,
    ),
    Metric("penstock_requests_in_flight", "gauge", "Requests being answered now."),
    Metric("penstock_connections_open", "gauge", "Client connections open now."),
    Metric("penstock_tasks", "gauge", "Tasks of the workers' event loops now."),
    Metric("penstock_attempts_total", "counter", "Calls to upstreams.", ("provider", "outcome")),
    Metric("penstock_rescues_total", "counter", "Answers that broke off where rescue is on.", ("model", "outcome")),
    Metric("penstock_breaker_open", "gauge", "Workers in which a target is left alone.", ("provider", "model")),
    Metric("penstock_auth_failures_total", "counter", "Requests refused for their key.", ("reason",)),
    Metric("penstock_kept_answers_total", "counter", "Chat completions that were to be kept.", ("outcome",)),
    Metric("penstock_idempotent_requests_total", "counter", "Requests with an Idempotency-Key.", ("outcome",)),
    Metric("penstock_ledger_rows_total", "counter", "Requests stored in the ledger.", ("state",)),
    Metric("penstock_ledger_lag_seconds", "gauge", "How long the oldest finished request has waited to be stored."),
    Metric("penstock_ledger_journal_bytes", "gauge", "Size of the journals that are not deleted yet."),
    Metric("penstock_ledger_store_up", "gauge", "Whether the ledger's store answers."),
    Metric("penstock_limits_refused_total", "counter", "Requests refused for a limit.", ("scope", "meter")),
    Metric("penstock_limits_shadowed_total", "counter", "What shadow limits would have refused.", ("scope", "meter")),
    Metric("penstock_limits_open_total", "counter", "Leases given while a limit could not be counted.", ("meter",)),
    Metric("penstock_limits_waiting", "gauge", "Requests that wait for a limit now."),
    Metric("penstock_leases_total", "counter", "Leases of limits given to workers."),
    Metric("penstock_leases_lost_total", "counter", "Slots held past their lease, and taken again."),
    Metric("penstock_counters_up", "gauge", "Whether the store of counters answers."),
    Metric("penstock_config_reloads_total", "counter", "Readings of a changed configuration.", ("outcome",)),
    Metric("penstock_config_last_reload_successful", "gauge", "Whether what the configuration file says is served."),
)


class Start(msgspec.Struct, frozen=True, tag=True):
    """Parent, first message: serve `config` on the inherited listening sockets `listen_fds`.

    `engines`: the address of each local engine by provider name. `version` is that of the configuration: a later one
    has a greater number. `journal`: how the names of the journal's segments begin, a path that no other process has;
    empty, none is kept. `board_fd`: the memory in which what is left of limits is read, -1 if there is none.
    """

    worker: int
    config: Config
    listen_fds: tuple[int, ...]
    engines: dict[str, EngineAddress] = {}
    version: int = 0
    journal: str = ""
    board_fd: int = -1


class Ready(msgspec.Struct, frozen=True, tag=True):
    """Worker: it accepts connections."""


class KeyLookup(msgspec.Struct, frozen=True, tag=True):
    """Worker: whose key has this SHA-256 digest?"""

    ref: int
    digest: bytes


class KeyAnswer(msgspec.Struct, frozen=True, tag=True):
    """Parent: `principal` is None for an unknown key; `available` is False when the store cannot say."""

    ref: int
    principal: Principal | None
    available: bool = True


class UsageQuestion(msgspec.Struct, frozen=True, tag=True):
    """Worker: what has the key of this id used? `query` is that of the URL."""

    ref: int
    key_id: str
    query: bytes


class UsageAnswer(msgspec.Struct, frozen=True, tag=True):
    """Parent: `body` is the answer in JSON; None with a `problem` of the query and the parameter at fault, or without
    one when the ledger cannot say."""

    ref: int
    body: bytes | None = None
    problem: str = ""
    param: str = ""


class KeysChanged(msgspec.Struct, frozen=True, tag=True):
    """Parent: forget every cached key, known and unknown."""


class Health(msgspec.Struct, frozen=True, tag=True):
    """Parent: whether its stores answer, and the providers whose local engine is not up, each with the reason."""

    store_ok: bool
    engines_down: dict[str, str]


class Reconfigure(msgspec.Struct, frozen=True, tag=True):
    """Parent: from the next request on, serve `config` with these engines; `health` is as things are with them.

    Of `config.server` only what `penstock.config.changes` calls reloaded may differ from before.
    """

    version: int
    config: Config
    engines: dict[str, EngineAddress]
    health: Health


class Reconfigured(msgspec.Struct, frozen=True, tag=True):
    """Worker: the configuration of that version is served; or, because of `problem`, the one before it still is."""

    version: int
    problem: str = ""


class Settled(msgspec.Struct, frozen=True, tag=True):
    """Worker: no request here goes by a configuration before that of `version` any more."""

    version: int


class Rest(msgspec.Struct, frozen=True, gc=False):
    """What goes back of a lease. `closed`: nothing of it lies unused any more, though requests may still be in flight
    by it."""

    lease: str
    claim: Claim
    closed: bool = False


class Lease(msgspec.Struct, frozen=True, tag=True, gc=False):
    """Worker: may a request be sent? What goes back, `rests`, counts before it.

    `completion_tokens`: the most that the answer may have; where `expected`, nobody said, and it is what such answers
    have. `hard`: it may be cut to what is left. `targets`: providers and models that may answer. `more`: how many
    further requests like it are welcome. `until`: how long it may wait, on the monotonic clock. `ahead`: no request
    waits for it, it is put in time for those to come; it is denied where that would take anything from anybody.
    """

    ref: int
    key_id: str
    project_id: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    targets: tuple[tuple[str, str], ...]
    more: int = 0
    until: float = 0.0
    weight: float = 1.0
    hard: bool = False
    expected: bool = False
    rests: tuple[Rest, ...] = ()
    ahead: bool = False


class Row(msgspec.Struct, frozen=True, gc=False):
    """Where the board says what is left of a limit: `row`; what the limit is, and whether of requests or of tokens."""

    row: int
    amount: int
    tokens: bool


Amount = int | float
"""How much of a unit: a whole number, or infinite."""


class Leased(msgspec.Struct, frozen=True, tag=True, gc=False):
    """Parent: yes. `claim` was reserved for the request, which must begin before `begin_by`; besides, for `more` like
    it, `spare` requests, tokens, nano-dollars and slots, infinite where nothing meters that, until `expires`.

    `cap`: the most completion tokens that the answer may have, where a limit says so. `prices`: nano-dollars of a
    prompt and of a completion token. `scarce`: a slot is to go back at once, since others may wait for it. Times are
    of the monotonic clock, which all processes of a host share.
    """

    ref: int
    lease: str
    claim: Claim
    more: int
    spare: tuple[Amount, Amount, Amount, Amount]
    expires: float
    begin_by: float
    cap: int | None = None
    prices: tuple[float, float] = (0.0, 0.0)
    scarce: bool = False
    rows: tuple[Row, ...] = ()


class Denied(msgspec.Struct, frozen=True, tag=True, gc=False):
    """Parent: no, since of the limit `scope`, `meter`, `model` of `amount` too little is left. `wait`: seconds until
    there is enough; None: it is a matter of when others end; infinite: never, since the request `needs` too much."""

    ref: int
    scope: Scope
    meter: str
    model: str
    amount: int
    wait: float | None
    needs: int
    rows: tuple[Row, ...] = ()


class Unpriced(msgspec.Struct, frozen=True, tag=True, gc=False):
    """Parent: no, since there is a limit of money and nobody knows what this target costs."""

    ref: int
    target: str


class Uncounted(msgspec.Struct, frozen=True, tag=True, gc=False):
    """Parent: no, since what is left cannot be found out, and a limit is one that is kept even so."""

    ref: int


class Forget(msgspec.Struct, frozen=True, tag=True, gc=False):
    """Worker: who asked that has gone. What may have been granted meanwhile comes back as a rest."""

    ref: int


class Returned(msgspec.Struct, frozen=True, tag=True, gc=False):
    """Worker: what goes back of leases. `ref`: of the recall that this answers, 0 if none."""

    ref: int
    rests: tuple[Rest, ...]


class Recall(msgspec.Struct, frozen=True, tag=True, gc=False):
    """Parent: others need what lies unused of these leases; of what is in use, slots are to come back at once."""

    ref: int
    leases: tuple[str, ...]


class SnapshotRequest(msgspec.Struct, frozen=True, tag=True):
    """Parent: send your metrics now."""

    ref: int


class SeriesValue(msgspec.Struct, frozen=True):
    """One series, cumulative since the worker started.

    Of a histogram, `value` is the sum of observations and `buckets` the count in each bucket (not cumulative), the
    last one being above every bound; empty otherwise.
    """

    name: str
    labels: tuple[str, ...]
    value: float
    buckets: tuple[int, ...] = ()


class Snapshot(msgspec.Struct, frozen=True, tag=True):
    """Worker: all its series; `ref` 0 is the periodic one, so that a killed worker's counts are kept."""

    ref: int
    series: tuple[SeriesValue, ...]


class KeepAnswer(msgspec.Struct, frozen=True, tag=True):
    """Worker: keep this chat completion; nothing is answered. `body` is the object, `messages` are the request's, as
    JSON."""

    scope: str
    body: bytes
    messages: bytes
    metadata: dict[str, str]


class FindAnswer(msgspec.Struct, frozen=True, tag=True):
    """Worker: which answer has this id? It is found with its messages."""

    ref: int
    scope: str
    id: str


class ListAnswers(msgspec.Struct, frozen=True, tag=True):
    """Worker: which answers are on this page?"""

    ref: int
    scope: str
    page: Page


class EditAnswer(msgspec.Struct, frozen=True, tag=True):
    """Worker: replace the metadata of the answer of this id; it is found as it is then."""

    ref: int
    scope: str
    id: str
    metadata: dict[str, str]


class DropAnswer(msgspec.Struct, frozen=True, tag=True):
    """Worker: forget the answer of this id."""

    ref: int
    scope: str
    id: str


class AnswersFound(msgspec.Struct, frozen=True, tag=True):
    """Parent: what was found. `there` is False where no answer has the id that was named; `more`: whether others
    follow on other pages; `available` is False when the store cannot say."""

    ref: int
    answers: tuple[KeptAnswer, ...] = ()
    more: bool = False
    there: bool = True
    available: bool = True


class ClaimRun(msgspec.Struct, frozen=True, tag=True):
    """Worker: may this request, which has an idempotency key, be run?"""

    ref: int
    run: Run


class RunClaimed(msgspec.Struct, frozen=True, tag=True):
    """Parent: what becomes of the request. `outcome`: claimed, where it is to be run, and finished or released; else
    replayed, where `replay` is its answer, running, reused, gone or unavailable."""

    ref: int
    outcome: str
    replay: Replay | None = None


class FinishRun(msgspec.Struct, frozen=True, tag=True):
    """Worker: the run has ended well; its answer is None where it is too large to be remembered."""

    run: Run
    replay: Replay | None


class ReleaseRun(msgspec.Struct, frozen=True, tag=True):
    """Worker: the run has come to nothing, or nobody waits for the claim any more."""

    run: Run


class Drain(msgspec.Struct, frozen=True, tag=True):
    """Parent: stop accepting, let streams end within `limit` seconds, end the rest in an error, exit."""

    limit: float


Message = (
    Start
    | Ready
    | KeyLookup
    | KeyAnswer
    | UsageQuestion
    | UsageAnswer
    | KeysChanged
    | Health
    | Reconfigure
    | Reconfigured
    | Settled
    | Lease
    | Leased
    | Denied
    | Unpriced
    | Uncounted
    | Forget
    | Returned
    | Recall
    | SnapshotRequest
    | Snapshot
    | KeepAnswer
    | FindAnswer
    | ListAnswers
    | EditAnswer
    | DropAnswer
    | AnswersFound
    | ClaimRun
    | RunClaimed
    | FinishRun
    | ReleaseRun
    | Drain
)

AnswersMessage = KeepAnswer | FindAnswer | ListAnswers | EditAnswer | DropAnswer
RunsMessage = ClaimRun | FinishRun | ReleaseRun

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    """One frame."""
    body = _encoder.encode(message)
    return len(body).to_bytes(4, "big") + body


class Channel(asyncio.Protocol):
    """One end of the link. `on_message` is called for each message, `on_closed` once."""

    def __init__(self, on_message: Callable[[Message], None], on_closed: Callable[[], None]) -> None:
        self._on_message = on_message
        self._on_closed = on_closed
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def send(self, message: Message) -> None:
        """Queue one message; dropped when the other end is gone, which `on_closed` reports."""
        if self._transport is not None:
            self._transport.write(encode(message))

    @property
    def unsent(self) -> int:
        """Bytes that the other end has not taken yet."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= 4:
            size = int.from_bytes(self._buffer[:4], "big")
            if size > MAX_FRAME:
                self.close()
                return
            if len(self._buffer) < 4 + size:
                return
            body = bytes(self._buffer[4 : 4 + size])
            del self._buffer[: 4 + size]
            self._on_message(_decoder.decode(body))

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._on_closed()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


async def connect(sock: socket.socket, on_message: Callable[[Message], None], on_closed: Callable[[], None]) -> Channel:
    """Attach one end of the socket pair to the running loop."""
    loop = asyncio.get_running_loop()
    _, channel = await loop.create_connection(lambda: Channel(on_message, on_closed), sock=sock)
    return channel
