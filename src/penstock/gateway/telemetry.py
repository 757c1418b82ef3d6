"""What is observed of each request: counters, histograms and the access line, all from the one record.

A request only leaves its record in a list; the observers are told of some at once, which costs half as much. They
never raise into it either: `Telemetry` is where anything they do wrong ends. Few records lie there at a time, for what
is made anew for each request should find the memory of the one before in the processor's cache. Lines are written by a
thread, ten times a second, since standard output may block; a reader of standard output that stalls costs lines
(counted, and told in the next one), never requests.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import os
import queue
import sys
import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import msgspec

from penstock.link import METRICS, SeriesValue
from penstock.types import Record, Usage

MAX_BUFFERED = 4 * 1024 * 1024
CLOSE_SECONDS = 1.0
TOGETHER = 32  # records that observers are told of at once

_ALWAYS = ("prompt", "completion")  # kinds of tokens that are told even of none
_BOUNDS = {metric.name: metric.bounds for metric in METRICS}


class Observer(Protocol):
    """Told of every finished request, in order, some at a time; `flush` says ten times a second to pass it on."""

    def observe(self, records: Sequence[Record]) -> None: ...

    def flush(self) -> None: ...


class Histogram:
    """Counts per bucket and the sum of what was observed."""

    __slots__ = ("bounds", "buckets", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.buckets = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, values: Iterable[float]) -> None:
        bounds, buckets = self.bounds, self.buckets
        for value in values:
            buckets[bisect_left(bounds, value)] += 1
            self.sum += value


class _Timing:
    """The histograms of one target."""

    __slots__ = ("duration", "first_event")

    def __init__(self) -> None:
        self.first_event = Histogram(_BOUNDS["penstock_time_to_first_event_seconds"])
        self.duration = Histogram(_BOUNDS["penstock_request_duration_seconds"])


class Metrics:
    """The worker's own series, cumulative since it started. Labels are configured names and fixed words."""

    def __init__(self) -> None:
        self.in_flight = 0
        self._requests: dict[tuple[str, str, int, str], int] = {}
        self._tokens: dict[tuple[str, str, str], int] = {}
        self._attempts: dict[tuple[str, str], int] = {}
        self._rescues: dict[tuple[str, str], int] = {}
        self._auth_failures: dict[str, int] = {}
        self._not_kept: dict[str, int] = {}
        self._timings: dict[tuple[str, str], _Timing] = {}

    def auth_failed(self, reason: str) -> None:
        self._auth_failures[reason] = self._auth_failures.get(reason, 0) + 1

    def not_kept(self, outcome: str) -> None:
        """An answer that was to be kept is not."""
        self._not_kept[outcome] = self._not_kept.get(outcome, 0) + 1

    def observe(self, records: Sequence[Record]) -> None:
        alike: dict[tuple[str, str, int, str], list[Record]] = {}
        for record in records:
            key = (record.route, record.provider, record.status, record.ended)
            if key in alike:
                alike[key].append(record)
            else:
                alike[key] = [record]
        for key, some in alike.items():
            self._requests[key] = self._requests.get(key, 0) + len(some)
            self._count(key[0], key[1], some)
        tried = [(attempt.provider, attempt.outcome) for record in records for attempt in record.attempts]
        for attempt_key, count in Counter(tried).items():
            self._attempts[attempt_key] = self._attempts.get(attempt_key, 0) + count

    def _count(self, route: str, provider: str, records: Sequence[Record]) -> None:
        """Records of one route and of the provider that answered."""
        timing = self._timings.get((route, provider))
        if timing is None:
            timing = self._timings[route, provider] = _Timing()
        timing.duration.add([record.duration_ms / 1000 for record in records])
        firsts = [record.first_event_ms for record in records if record.first_event_ms is not None]
        timing.first_event.add([first / 1000 for first in firsts])
        self._count_tokens(route, provider, [record.usage for record in records if not record.rescue])
        for record in records:
            if record.rescue:
                self._count_rescued(route, provider, record)

    def _count_rescued(self, route: str, provider: str, record: Record) -> None:
        rescued = (route, record.rescue.partition(":")[0])
        self._rescues[rescued] = self._rescues.get(rescued, 0) + 1
        apart = [one for one in record.attempts if one.usage is not None]
        for attempt in apart:
            self._count_tokens(route, attempt.provider, [attempt.usage])
        if not apart:
            self._count_tokens(route, provider, [record.usage])

    def _count_tokens(self, route: str, provider: str, usages: Sequence[Usage | None]) -> None:
        known = [usage for usage in usages if usage is not None]
        if not known:
            return
        for kind, count in (
            ("prompt", sum([usage.prompt_tokens for usage in known])),
            ("completion", sum([usage.completion_tokens for usage in known])),
            ("cached", sum([usage.cached_tokens for usage in known])),
            ("reasoning", sum([usage.reasoning_tokens for usage in known])),
        ):
            if count or kind in _ALWAYS:
                key = (route, provider, kind)
                self._tokens[key] = self._tokens.get(key, 0) + count

    def series(self, connections: int, tasks: int) -> tuple[SeriesValue, ...]:
        """Everything, for the parent. `connections`: clients connected now; `tasks`: of the loop."""
        out = [
            SeriesValue("penstock_requests_in_flight", (), self.in_flight),
            SeriesValue("penstock_connections_open", (), connections),
            SeriesValue("penstock_tasks", (), tasks),
        ]
        for (route, provider, status, ended), count in self._requests.items():
            out.append(SeriesValue("penstock_requests_total", (route, provider, str(status), ended), count))
        for token_key, count in self._tokens.items():
            out.append(SeriesValue("penstock_tokens_total", token_key, count))
        for attempt_key, count in self._attempts.items():
            out.append(SeriesValue("penstock_attempts_total", attempt_key, count))
        for rescue_key, count in self._rescues.items():
            out.append(SeriesValue("penstock_rescues_total", rescue_key, count))
        for reason, count in self._auth_failures.items():
            out.append(SeriesValue("penstock_auth_failures_total", (reason,), count))
        for outcome, count in self._not_kept.items():
            out.append(SeriesValue("penstock_kept_answers_total", (outcome,), count))
        for labels, timing in self._timings.items():
            for name, histogram in (
                ("penstock_time_to_first_event_seconds", timing.first_event),
                ("penstock_request_duration_seconds", timing.duration),
            ):
                out.append(SeriesValue(name, labels, histogram.sum, tuple(histogram.buckets)))
        return tuple(out)


class AccessLog:
    """One JSON line per request on standard output, without keys and without prompts."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._encoder = msgspec.json.Encoder()
        self._gathered: list[bytes] = []  # for the writer
        self._batches: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._queued = 0  # bytes, ever; changed by the loop's thread alone
        self._written = 0  # likewise; changed by the writer alone
        self._dropped = 0
        # A daemon: a write that never ends must not keep the process from ending.
        self._writer = threading.Thread(target=self._write_all, name="access-log", daemon=True)
        self._writer.start()

    def observe(self, records: Sequence[Record]) -> None:
        if self._queued - self._written > MAX_BUFFERED:
            self._dropped += len(records)
            return
        self._tell_dropped()
        self._put(self._encoder.encode_lines(records))

    def flush(self) -> None:
        """Have what is new written: to wake the writer costs as much as some lines."""
        if self._gathered:
            self._batches.put(b"".join(self._gathered))
            self._gathered.clear()

    def close(self) -> None:
        """Write what is left, as far as the reader takes it within a moment."""
        self._tell_dropped()
        self.flush()
        self._batches.put(b"")
        self._writer.join(CLOSE_SECONDS)

    def _tell_dropped(self) -> None:
        if self._dropped:
            self._put(self._encoder.encode_lines([{"dropped_access_lines": self._dropped}]))
            self._dropped = 0

    def _put(self, data: bytes) -> None:
        self._queued += len(data)
        self._gathered.append(data)

    def _write_all(self) -> None:
        for data in iter(self._batches.get, b""):
            self._write(data)
            self._written += len(data)

    def _write(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError:
            pass  # nobody reads standard output any more; the gateway serves on


class Telemetry:
    """All observers of a worker: the metrics and `others`, such as the access log."""

    def __init__(self, metrics: Metrics, others: Sequence[Observer] = ()) -> None:
        self.metrics = metrics
        self._others = others
        self._records: list[Record] = []
        self._complaints = 0

    def begin(self) -> None:
        self.metrics.in_flight += 1

    def end(self, record: Record) -> None:
        self.metrics.in_flight -= 1
        self._records.append(record)
        if len(self._records) >= TOGETHER:
            self._tell()

    def note(self, record: Record) -> None:
        """A request that was refused or answered without being begun."""
        self._records.append(record)
        if len(self._records) >= TOGETHER:
            self._tell()

    def notify(self) -> None:
        """Tell every observer what is new, and to pass it on."""
        self._tell()
        for observer in self._others:
            self._have(observer, observer.flush)

    def _tell(self) -> None:
        records, self._records = self._records, []
        if records:
            self._have(self.metrics, functools.partial(self.metrics.observe, records))
            for observer in self._others:
                self._have(observer, functools.partial(observer.observe, records))

    def _have(self, observer: object, act: Callable[[], object]) -> None:
        """Have an observer do this; one that fails does not stop the next."""
        try:
            act()
        except Exception as error:  # noqa: BLE001  # observing must not harm what is observed
            self._complain(observer, error)

    def _complain(self, observer: object, error: Exception) -> None:
        self._complaints += 1
        if self._complaints <= 10:
            with contextlib.suppress(OSError):  # nobody reads standard error any more
                log(f"observer {type(observer).__name__} failed: {type(error).__name__}: {error}")


def log(message: str, write: Callable[[str], object] = sys.stderr.write) -> None:
    """A line for the operator, on standard error."""
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    write(f"{stamp} penstock: {message}\n")
