"""Writes series in Prometheus' text format, with what METRICS says of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from penstock.link import METRICS, Metric, SeriesValue

CONTENT_TYPE = CONTENT_TYPE_LATEST

Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


def expose(series: Sequence[SeriesValue]) -> bytes:
    """The text; a metric without a series yet has its HELP and TYPE lines all the same."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Given(series))
    return generate_latest(registry)


class _Given(Collector):
    def __init__(self, series: Sequence[SeriesValue]) -> None:
        self._series = sorted(series, key=lambda one: (one.name, one.labels))

    def collect(self) -> Iterator[Family]:
        for metric in METRICS:
            family = _family(metric)
            for one in self._series:
                if one.name == metric.name:
                    _fill(family, metric, one)
            yield family


def _family(metric: Metric) -> Family:
    if metric.kind == "counter":
        return CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
    if metric.kind == "gauge":
        return GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
    return HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)


def _fill(family: Family, metric: Metric, one: SeriesValue) -> None:
    if not isinstance(family, HistogramMetricFamily):
        family.add_metric(one.labels, one.value)
        return
    names = (*(str(bound) for bound in metric.bounds), "+Inf")
    buckets, below = [], 0
    for name, count in zip(names, one.buckets, strict=True):
        below += count
        buckets.append((name, below))
    family.add_metric(one.labels, buckets, one.value)
