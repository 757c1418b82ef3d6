"""One set of metrics from the snapshots of all workers, dead ones included, in Prometheus' text format.

A worker's counts begin at zero when it starts. What a worker that ended had counted last is added to a sum that stays,
so that a counter never goes back. Gauges are a matter of workers that live.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from penstock.link import METRICS, Metric, SeriesValue, Snapshot

_BY_NAME = {metric.name: metric for metric in METRICS}

Series = dict[tuple[str, tuple[str, ...]], SeriesValue]
Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


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

    def merged(self) -> Series:
        total = dict(self._ended)
        for snapshot in self._latest.values():
            _add(total, snapshot.series)
        return total


def expose(series: Series) -> bytes:
    """Prometheus' text format, version 0.0.4."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Merged(series))
    return generate_latest(registry)


class _Merged(Collector):
    def __init__(self, series: Mapping[tuple[str, tuple[str, ...]], SeriesValue]) -> None:
        self._series = series

    def collect(self) -> Iterator[Family]:
        for metric in METRICS:
            family = _family(metric)
            for (name, labels), value in sorted(self._series.items()):
                if name == metric.name:
                    _fill(family, metric, labels, value)
            yield family


def _family(metric: Metric) -> Family:
    if metric.kind == "counter":
        return CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
    if metric.kind == "gauge":
        return GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
    return HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)


def _fill(family: Family, metric: Metric, labels: tuple[str, ...], value: SeriesValue) -> None:
    if not isinstance(family, HistogramMetricFamily):
        family.add_metric(labels, value.value)
        return
    buckets, below = [], 0
    for bound, count in zip((*metric.bounds, float("inf")), value.buckets, strict=True):
        below += count
        buckets.append((str(bound) if bound != float("inf") else "+Inf", below))
    family.add_metric(labels, buckets, value.value)


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
