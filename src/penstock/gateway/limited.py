"""What a caller is told of limits: the refusal where one is spent, and the header lines that say what is left."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

from penstock import link
from penstock.errors import Headers, Overloaded, PermissionDenied, RateLimited, Refusal
from penstock.gateway.refusals import NO_RETRY
from penstock.limits import METERS, NANOS

FRESH = 0.1  # seconds for which the words of a reset are used
SOON = ((b"Retry-After", b"1"),)
OTHERS_END = 1.0  # seconds after which to try again, where it is a matter of when other requests end

_WHOSE = {"key": "this key", "project": "the project of this key"}


def refusal(message: link.Denied | link.Unpriced | link.Uncounted, lines: bytes = b"") -> Refusal:
    """The refusal that the parent's no becomes; `lines`: the header lines that tell what is left of the limits."""
    headers = tuple((name, value) for name, _, value in (line.partition(b": ") for line in lines.splitlines()))
    match message:
        case link.Denied():
            return _denied(message, headers)
        case link.Unpriced():
            return PermissionDenied(
                f"This key has a limit in US dollars, and what '{message.target}' costs is not known. Whoever runs "
                "this gateway can set its price in [prices].",
                code="price_unknown",
            )
        case link.Uncounted():
            return Overloaded("The limits of this key cannot be looked at now; try again shortly.", headers=SOON)


def _denied(message: link.Denied, headers: Headers) -> RateLimited:
    meter = METERS[message.meter]
    limit = f"{_figure(message.amount, meter.unit)} {meter.words}"
    if message.model:
        kind = "models" if message.model.endswith("*") else "the model"
        limit += f" for {kind} '{message.model}'"
    whose = _WHOSE[message.scope]
    code = "insufficient_quota" if meter.spent else None
    if message.wait == math.inf and message.needs > message.amount:
        needs = f"{_figure(message.needs, meter.unit)} {meter.words.partition(' per ')[0].removesuffix(' in all')}"
        return RateLimited(
            f"This request may need {needs}, more than the limit of {whose} allows at all: {limit}. Shorten it, or "
            "lower the most tokens that its answer may have.",
            code=code,
            headers=(*headers, NO_RETRY),
        )
    if message.wait == math.inf:
        return RateLimited(
            f"The limit of {whose} is spent: {limit}. Ask whoever runs this gateway to raise it.",
            code=code,
            headers=(*headers, NO_RETRY),
        )
    wait = OTHERS_END if message.wait is None else message.wait
    wait_ms = max(1, math.ceil(wait * 1000))
    hints = ((b"Retry-After", b"%d" % -(-wait_ms // 1000)), (b"retry-after-ms", b"%d" % wait_ms))
    final = (NO_RETRY,) if meter.spent else ()  # waiting is for hours: tries within seconds cannot help
    when = "when one of them has ended" if message.wait is None else f"in {_words(wait_ms)}"
    return RateLimited(
        f"The limit of {whose} is reached: {limit}. Try again {when}.",
        code=code,
        headers=(*headers, *hints, *final),
    )


class _Gauge:
    """The limits on one unit: for each, its place on the board, its amount, and its header lines up to what is left.

    `left` and `amount` are those of the limit of which least is left, as of the last look; `until`: when the words of
    its reset are to be found anew. Earlier ones say a later time, and nothing worse.
    """

    __slots__ = ("_rows", "_tail", "_unit", "_whole", "amount", "left", "until")

    def __init__(self, unit: bytes, rows: Sequence[link.Row]) -> None:
        head = b"x-ratelimit-limit-%b: %d\r\nx-ratelimit-remaining-%b: "
        self.left = self.amount = 0
        self._unit = unit
        self._rows = [(2 * row.row, row.amount, head % (unit, row.amount, unit)) for row in rows]
        self._tail = b""
        self._whole = -1
        self.until = 0.0

    def look(self, board: Sequence[int], now: float) -> bytes:
        """The form of the header lines, in which what is left is missing."""
        at, amount, head = min(self._rows, key=lambda row: board[row[0]])
        self.left, self.amount = board[at], amount
        if board[at + 1] != self._whole or now > self.until:
            self._whole, self.until = board[at + 1], now + FRESH
            self._tail = b"%%d\r\nx-ratelimit-reset-%b: %b\r\n" % (self._unit, duration(self._whole / 1000 - now))
        return head + self._tail

    def rest(self, spare: link.Amount) -> link.Amount:
        """What is left with what a worker holds besides, which is not finite where it is not metered."""
        left: link.Amount = self.left
        amount = self.amount
        if spare < amount:
            left += spare
        return (left if left < amount else amount) if left > 0 else 0


class Gauges:
    """The header lines about what is left: of requests and of tokens, each about the limit of which least is left, how
    much it is, what is left, and when all of it will be.

    `board`: by row, what is left and, in milliseconds of the monotonic clock, when all will be; behind them a number
    that changes whenever one of them does.
    """

    __slots__ = ("_board", "_form", "_requests", "_seen", "_tokens", "_until")

    def __init__(self, rows: Sequence[link.Row] = (), board: Sequence[int] = ()) -> None:
        requests, tokens = [row for row in rows if not row.tokens], [row for row in rows if row.tokens]
        self._board = board
        self._requests = _Gauge(b"requests", requests) if requests else None
        self._tokens = _Gauge(b"tokens", tokens) if tokens else None
        self._form = b""
        self._seen = -1  # that number, at the last look
        self._until = 0.0  # the form may be used, if the number is the same

    def lines(self, requests: link.Amount, tokens: link.Amount, now: float) -> bytes:
        """What this worker holds besides, of each."""
        first, second = self._requests, self._tokens
        if first is None and second is None:
            return b""
        if now > self._until or self._board[-1] != self._seen:
            self._look(now)
        if second is None:
            assert first is not None
            return self._form % first.rest(requests)
        if first is None:
            return self._form % second.rest(tokens)
        return self._form % (first.rest(requests), second.rest(tokens))

    def _look(self, now: float) -> None:
        self._seen = self._board[-1]  # first: the rows may change meanwhile
        gauges = [gauge for gauge in (self._requests, self._tokens) if gauge is not None]
        self._form = b"".join([gauge.look(self._board, now) for gauge in gauges])
        self._until = min(gauge.until for gauge in gauges)


def duration(seconds: float) -> bytes:
    """As Go writes it, such as 12ms, 1.5s or 6m0s: never earlier, and of more than a second to the tenth."""
    ms = max(0, math.ceil(seconds * 1000))
    return _duration(ms if ms < 1000 else -(-ms // 100) * 100)


@functools.lru_cache(maxsize=4096)
def _duration(ms: int) -> bytes:
    if ms < 1000:
        return b"%dms" % ms
    whole, tenths = divmod(ms // 100, 10)
    seconds = b"%d.%ds" % (whole % 60, tenths) if tenths else b"%ds" % (whole % 60)
    minutes, hours = whole // 60 % 60, whole // 3600
    if hours:
        return b"%dh%dm%b" % (hours, minutes, seconds)
    return b"%dm%b" % (minutes, seconds) if minutes else seconds


def _figure(amount: int, unit: str) -> str:
    if unit != "nanos":
        return f"{amount:,}"
    dollars = f"{amount / NANOS:,.6f}".rstrip("0").rstrip(".")
    return dollars


def _words(ms: int) -> str:
    """A time to wait, never too short: 0.4 s, 12 s, 3 min, 7 h, 2 days."""
    seconds = ms / 1000
    if seconds < 120:
        return f"{math.ceil(seconds * 10) / 10:g} s"
    for unit, size in (("min", 60), ("h", 3600)):
        if seconds < 120 * size or (unit == "h" and seconds < 48 * 3600):
            return f"{math.ceil(seconds / size)} {unit}"
    return f"{math.ceil(seconds / 86_400)} days"
