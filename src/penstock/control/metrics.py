"""One set of metrics from the snapshots of all workers, dead ones included.

A worker's counts begin at zero when it starts. What a worker that ended had counted last is added to a sum that stays,
so that a counter never goes back. Gauges are a matter of workers that live.
"""

from __future__ import annotations

from collections.abc import Iterable

from penstock.link import METRICS, SeriesValue, Snapshot

Series = dict[tuple[str, tuple[str, ...]], SeriesValue]

_BY_NAME = {metric.name: metric for metric in METRICS}


class Metrics:
    """The latest of each worker, and the sum of those that ended."""

    def __init__(self) -> None:
        self._latest: dict[int, Snapshot] = {}
        self._ended: Series = {}

    def update(self, worker: int, snapshot: Snapshot) -> None:
        self._latest[worker] = snapshot

    def retire(self, worker: int) -> None:
        """This worker ended: keep what it had counted. Its successor may have the same number."""
        snapshot = self._latest.pop(worker, None)
        if snapshot is not None:
            lasting = (series for series in snapshot.series if _kind(series) != "gauge")
            _add(self._ended, lasting)

    def merged(self) -> tuple[SeriesValue, ...]:
        """Each series once, in the form that METRICS declares."""
        total = dict(self._ended)
        for snapshot in self._latest.values():
            _add(total, snapshot.series)
        return tuple(total.values())


def _kind(series: SeriesValue) -> str | None:
    """None for what METRICS does not declare in this form; it is left out."""
    metric = _BY_NAME.get(series.name)
    buckets = len(metric.bounds) + 1 if metric is not None and metric.kind == "histogram" else 0
    if metric is None or len(series.labels) != len(metric.labels) or len(series.buckets) != buckets:
        return None
    return metric.kind


def _add(total: Series, more: Iterable[SeriesValue]) -> None:
    for series in more:
        if _kind(series) is None:
            continue
        at = (series.name, series.labels)
        before = total.get(at)
        if before is not None:
            buckets = tuple(a + b for a, b in zip(before.buckets, series.buckets, strict=True))
            series = SeriesValue(series.name, series.labels, before.value + series.value, buckets)
        total[at] = series
